"""Triage of head series: what is flagged, where the heat lies, and what is not analysed at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.dicom.outcome import Findings, NotAnalysed, Outcome
from appliance.dicom.volume import Volume, load_volume
from appliance.models.manifest import Manifest, TriageTask, load_manifest
from appliance.models.tasks import triage
from appliance.models.tasks.head_alignment import GRID, align_head, to_grid, to_source
from appliance.runtime.base import Runner, Tensors
from appliance.runtime.onnx import OnnxRunner
from tools.simulate.head_series import SimulatedSeries, simulate_series
from tools.validate.head_ct_triage_cases import REAL_SERIES, volume_of

PACKAGE = Path(__file__).resolve().parents[2] / "engines" / "head-ct-triage"


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return load_manifest(PACKAGE)


@pytest.fixture(scope="module")
def model(manifest: Manifest) -> Runner:
    return OnnxRunner(PACKAGE / manifest.weights.file, threads=1)


@pytest.fixture(scope="module")
def bleed() -> SimulatedSeries:
    return simulate_series(seed=1, bleed=True, volume_ml=(25, 50), slices=22, size=192, slice_mm=5)


@pytest.fixture(scope="module")
def clear() -> SimulatedSeries:
    return simulate_series(seed=1, bleed=False, slices=16, size=192, slice_mm=5)


@dataclass
class Scripted:
    """A runner that gives each slab, in order, a probability and a distance of the test's choosing."""

    probability: list[float]
    distance: float = 0.0
    name: str = "scripted"
    seen: int = 0

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.float32]]:
        count = len(inputs["hu"])
        rows = [self.probability[(self.seen + row) % len(self.probability)] for row in range(count)]
        self.seen += count
        return {
            "probability": np.array(rows, np.float32)[:, None],
            "heat": np.repeat(inputs["hull"], 1, axis=0),
            "distance": np.full((count, 1), self.distance, np.float32),
        }


def look(volume: Volume, manifest: Manifest, runner: Runner, threshold: float | None = None) -> Outcome:
    assert isinstance(manifest.task, TriageTask)
    chosen = manifest.task.threshold if threshold is None else threshold
    return triage.run(volume, manifest, manifest.task, chosen, runner)


def findings(volume: Volume, manifest: Manifest, runner: Runner, threshold: float | None = None) -> Findings:
    outcome = look(volume, manifest, runner, threshold)
    assert isinstance(outcome, Findings), outcome
    return outcome


@pytest.mark.slow
def test_a_large_bleed_is_flagged_and_the_heat_lies_on_it(
    bleed: SimulatedSeries, manifest: Manifest, model: Runner
) -> None:
    found = findings(volume_of(bleed), manifest, model)
    assert found.positive
    assert found.threshold <= found.score <= 1
    assert bleed.blood[found.key_slice].max() > 0.5
    assert found.heat is not None
    assert found.heat.shape == bleed.hu.shape
    assert found.heat.min() >= 0 and found.heat.max() <= 1
    inside = bleed.blood > 0.9
    assert found.heat[inside].mean() > 5 * found.heat[~inside].mean()


@pytest.mark.slow
def test_a_clear_head_is_not_flagged(clear: SimulatedSeries, manifest: Manifest, model: Runner) -> None:
    found = findings(volume_of(clear), manifest, model)
    assert not found.positive
    assert found.score < found.threshold


def test_one_bright_slab_alone_flags_nobody(clear: SimulatedSeries, manifest: Manifest) -> None:
    alone = findings(volume_of(clear), manifest, Scripted([0.1, 0.1, 0.1, 0.99] + [0.1] * 40), 0.5)
    assert not alone.positive
    assert alone.score == pytest.approx(0.1)
    pair = findings(volume_of(clear), manifest, Scripted([0.1, 0.1, 0.8, 0.99] + [0.1] * 40), 0.5)
    assert pair.positive
    assert pair.score == pytest.approx(0.8)


def test_the_threshold_is_the_caller_s_and_a_score_at_it_is_positive(
    clear: SimulatedSeries, manifest: Manifest
) -> None:
    score = float(np.float32(0.6))
    assert findings(volume_of(clear), manifest, Scripted([0.6]), score).positive
    assert not findings(volume_of(clear), manifest, Scripted([0.6]), 0.61).positive


def test_thin_slices_are_scored_as_slabs(manifest: Manifest) -> None:
    thin = simulate_series(seed=2, bleed=False, slices=40, size=96, slice_mm=1)
    thin_volume = volume_of(thin)
    runner = Scripted([0.2])
    outcome = look(thin_volume, manifest, runner)
    assert isinstance(outcome, Findings)
    assert runner.seen <= 12


def test_progress_is_told_after_each_batch(clear: SimulatedSeries, manifest: Manifest) -> None:
    assert isinstance(manifest.task, TriageTask)
    told: list[int] = []
    triage.run(volume_of(clear), manifest, manifest.task, 0.5, Scripted([0.1]), lambda: told.append(1))
    assert len(told) >= 1


def test_slabs_unlike_the_training_data_are_not_scored(clear: SimulatedSeries, manifest: Manifest) -> None:
    assert isinstance(manifest.task, TriageTask)
    far = Scripted([0.9], distance=manifest.task.out_of_distribution * 1.01)
    outcome = look(volume_of(clear), manifest, far)
    assert isinstance(outcome, NotAnalysed)
    assert outcome.reason == "out_of_distribution"


@pytest.mark.parametrize("what", ["noise", "air", "water", "not a number"])
def test_what_is_no_head_is_not_analysed(
    what: str, clear: SimulatedSeries, manifest: Manifest, model: Runner
) -> None:
    shape = (8, 128, 128)
    voxels = {
        "noise": np.random.default_rng(0).normal(40, 200, shape),
        "air": np.full(shape, -1000.0),
        "water": np.zeros(shape),
        "not a number": np.full(shape, np.nan),
    }[what].astype(np.float32)
    outcome = look(replace(volume_of(clear), voxels=voxels), manifest, model)
    assert isinstance(outcome, NotAnalysed)
    assert outcome.reason == "out_of_distribution"


def test_padding_does_not_change_the_answer(
    clear: SimulatedSeries, manifest: Manifest, model: Runner
) -> None:
    volume = volume_of(clear)
    padding = np.zeros(volume.voxels.shape, np.bool_)
    padding[:, :8] = True
    padded = replace(volume, voxels=np.where(padding, np.float32(3000), volume.voxels), padding=padding)
    plain = findings(volume, manifest, model).score
    assert findings(padded, manifest, model).score == pytest.approx(plain, abs=1e-3)


def test_alignment_undoes_a_turn_and_maps_back(clear: SimulatedSeries) -> None:
    pixel = clear.acquisition.pixel_mm
    middle = clear.hu[len(clear.hu) // 2]
    head = align_head(middle, (pixel, pixel))
    assert head is not None and head.objection is None
    asymmetry = np.abs(head.hull - head.hull[:, ::-1]).mean()
    assert asymmetry < 0.05
    spot = np.zeros((GRID, GRID), np.float32)
    spot[60:68, 40:48] = 1
    there = to_source(spot, head, (middle.shape[0], middle.shape[1]))
    back = to_grid(there, head)
    assert back[62:66, 42:46].min() > 0.8
    assert back.sum() == pytest.approx(spot.sum(), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(REAL_SERIES))
def test_real_series_that_are_no_living_head_are_never_flagged(
    name: str, real_data: Callable[[str], Path], manifest: Manifest, model: Runner
) -> None:
    volume = load_volume(sorted(real_data(name).glob("*.dcm")))
    outcome = look(volume, manifest, model)
    assert isinstance(outcome, NotAnalysed)
    assert outcome.reason == "out_of_distribution"
