"""What enhancement does to a volume, and what it refuses to touch."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.dicom.outcome import Enhanced, NotAnalysed, Outcome
from appliance.models.manifest import EnhanceTask, Manifest
from appliance.models.tasks import enhance
from appliance.runtime.base import Tensors
from tests.volumes import volume_of

MANIFEST = Manifest.model_validate(
    {
        "id": "smoother",
        "version": "1.2.3",
        "title": "Smoother",
        "manufacturer": "Test",
        "intended_use": "Tests",
        "weights": {"file": "model.onnx", "sha256": "0123456789ab" + "c" * 52},
        "accepts": {"modality": ["CT"], "sop_classes": ["1.2.840.10008.5.1.4.1.1.2"]},
        "task": {
            "kind": "enhance",
            "strength": 0.5,
            "prefix": "AI-DN",
            "codes": [{"value": "DN", "scheme": "99EDGE", "meaning": "AI noise reduction"}],
            "trained_noise": [1.0, 120.0],
        },
    }
)


class Subtracting:
    """A runner in place of a graph: it takes `strength` times `change` HU off and reports `noise`."""

    name = "subtracting"

    def __init__(self, noise: float = 10.0, change: float = 8.0) -> None:
        self.noise, self.change = noise, change
        self.shapes: list[tuple[int, ...]] = []
        self.lowest = 0.0

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.float32]]:
        """Subtract, and remember what was asked."""
        x = inputs["x"]
        self.shapes.append(x.shape)
        self.lowest = min(self.lowest, float(x.min()))
        y = x - inputs["strength"][:, :, None, None] * np.float32(self.change)
        return {"y": y.astype(np.float32), "sigma_map": np.full_like(x, self.noise)}


def body(slices: int = 2, rows: int = 64, columns: int = 64) -> NDArray[np.float32]:
    """Slices in HU: a block of tissue in air."""
    voxels = np.full((slices, rows, columns), -1000.0, np.float32)
    voxels[:, rows // 4 : -rows // 4, columns // 4 : -columns // 4] = 40.0
    return voxels


def enhanced(
    voxels: NDArray[np.float32],
    runner: Subtracting,
    padding: NDArray[np.bool_] | None = None,
    strength: float = 0.5,
) -> Outcome:
    task = MANIFEST.task
    assert isinstance(task, EnhanceTask)
    volume = volume_of(voxels, padding)
    return enhance.run(volume, MANIFEST, task, strength, runner)


def test_the_strength_and_the_origin_are_applied_and_described() -> None:
    voxels = body()
    outcome = enhanced(voxels, Subtracting())
    assert isinstance(outcome, Enhanced)
    np.testing.assert_allclose(outcome.voxels, voxels - 4.0)
    assert outcome.voxels.dtype == np.float32
    assert outcome.description == "AI noise reduction, strength 0.5, by smoother 1.2.3 (sha256:0123456789ab)"
    assert outcome.prefix == "AI-DN"
    assert [(code.value, code.scheme) for code in outcome.codes] == [("DN", "99EDGE")]


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (61, 67), (32, 33), (34, 35)])
def test_any_size_is_padded_for_the_graph_and_comes_back_as_it_was(rows: int, columns: int) -> None:
    runner = Subtracting()
    voxels = body(rows=rows, columns=columns)
    outcome = enhanced(voxels, runner)
    assert isinstance(outcome, Enhanced)
    np.testing.assert_allclose(outcome.voxels, voxels - 4.0)
    assert all(shape[2] % 4 == 0 and shape[3] % 4 == 0 for shape in runner.shapes)


def test_padding_is_hidden_from_the_graph_and_restored_exactly() -> None:
    voxels = body()
    padding = np.zeros(voxels.shape, np.bool_)
    padding[:, :8] = True
    voxels[padding] = -2000.0
    voxels[:, -4:] = -3024.0  # outside the circle of reconstruction, and not declared
    runner = Subtracting()
    outcome = enhanced(voxels, runner, padding)
    assert isinstance(outcome, Enhanced)
    assert runner.lowest >= -1024.0
    np.testing.assert_array_equal(outcome.voxels[:, :8], -2000.0)
    np.testing.assert_array_equal(outcome.voxels[:, -4:], -3024.0)
    np.testing.assert_allclose(outcome.voxels[:, 8:-4], voxels[:, 8:-4] - 4.0)


def test_slices_go_in_small_batches_and_each_reports_progress() -> None:
    runner = Subtracting()
    calls: list[int] = []
    task = MANIFEST.task
    assert isinstance(task, EnhanceTask)
    volume = volume_of(body(slices=9))
    enhance.run(volume, MANIFEST, task, 0.5, runner, lambda: calls.append(len(runner.shapes)))
    assert [shape[0] for shape in runner.shapes] == [4, 4, 1]
    assert calls == [1, 2, 3]


def test_a_slice_does_not_depend_on_its_neighbours_in_the_batch() -> None:
    voxels = body(slices=5)
    voxels += np.arange(5, dtype=np.float32)[:, None, None]
    outcome = enhanced(voxels, Subtracting())
    assert isinstance(outcome, Enhanced)
    np.testing.assert_allclose(outcome.voxels, voxels - 4.0)


def not_finite() -> NDArray[np.float32]:
    voxels = body()
    voxels[0, 10, 10] = np.nan
    return voxels


@pytest.mark.parametrize(
    ("voxels", "word"),
    [
        (not_finite(), "finite"),
        (body() + 1024.0, "rescale"),  # stored values taken for HU
        (body() * 0.5, "rescale"),
        (body() * 1.6, "rescale"),
        (body() * 1.3, "rescale"),
        (body() - 1024.0, "rescale"),  # the intercept applied twice
        (np.full((1, 64, 64), -2000.0, np.float32), "padding"),
    ],
    ids=[
        "not finite",
        "no intercept",
        "half slope",
        "steep slope",
        "steeper than HU",
        "intercept twice",
        "only padding",
    ],
)
def test_voxels_that_cannot_be_hounsfield_units_are_not_analysed(
    voxels: NDArray[np.float32], word: str
) -> None:
    runner = Subtracting()
    outcome = enhanced(voxels, runner)
    assert isinstance(outcome, NotAnalysed)
    assert outcome.reason == "out_of_distribution"
    assert word in outcome.detail
    assert not runner.shapes, "the graph must not see such voxels"


def test_a_field_of_view_inside_the_body_is_accepted() -> None:
    voxels = np.full((2, 64, 64), 40.0, np.float32)
    voxels[:, :10] = -100.0
    assert isinstance(enhanced(voxels, Subtracting()), Enhanced)


@pytest.mark.parametrize("noise", [0.4, 150.0])
def test_noise_outside_the_trained_range_is_not_analysed(noise: float) -> None:
    outcome = enhanced(body(), Subtracting(noise=noise))
    assert isinstance(outcome, NotAnalysed)
    assert outcome.reason == "out_of_distribution"
    assert f"{noise:.1f}" in outcome.detail


def test_values_that_are_not_finite_never_leave() -> None:
    outcome = enhanced(body(), Subtracting(change=float("nan")))
    assert isinstance(outcome, NotAnalysed)
    assert outcome.reason == "non_finite_output"
