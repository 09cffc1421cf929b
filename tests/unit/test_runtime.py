"""Runtimes without a GPU: what ONNX Runtime may use, why the others are absent, profiles, waiting, parity."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from appliance.domain.errors import GiveUp
from appliance.models.manifest import damage, load_manifest
from appliance.runtime import trt_library
from appliance.runtime.base import (
    DeviceFault,
    Limits,
    Outputs,
    Profile,
    Tensors,
    Unavailable,
    batches_of,
    fitting_profile,
    largest_batch,
)
from appliance.runtime.cores import usable_cores
from appliance.runtime.cuda import Device, Slot, wait_until
from appliance.runtime.engine_worker import profiles_as_plain, profiles_from_plain
from appliance.runtime.golden import read_golden
from appliance.runtime.onnx import NAME, OnnxRunner
from appliance.runtime.parity import PERTURBATIONS, compare
from appliance.services.inference.engines import profiles_of

ENGINES = Path(__file__).resolve().parents[2] / "engines"
MODELS = ("ct-denoise", "head-ct-triage")

SMALL: Profile = {"x": Limits((1, 1, 32, 32), (4, 1, 512, 512), (4, 1, 512, 512))}
LARGE: Profile = {"x": Limits((1, 1, 32, 32), (1, 1, 1024, 1024), (1, 1, 1024, 1024))}


def test_a_quota_of_the_unit_limits_the_threads(tmp_path: Path) -> None:
    unit = tmp_path / "system.slice" / "appliance-infer.service"
    unit.mkdir(parents=True)
    membership = tmp_path / "membership"
    membership.write_text("0::/system.slice/appliance-infer.service\n")
    (unit / "cpu.max").write_text("max 100000\n")
    free = usable_cores(tmp_path, membership)
    assert free >= 1
    (unit.parent / "cpu.max").write_text("50000 100000\n")
    assert usable_cores(tmp_path, membership) == 1
    (unit.parent / "cpu.max").write_text("6400000 100000\n")
    assert usable_cores(tmp_path, membership) == free


def test_without_control_groups_all_cores_of_the_mask_count(tmp_path: Path) -> None:
    assert usable_cores(tmp_path, tmp_path / "absent") == usable_cores(tmp_path, Path("/dev/null"))


def test_onnx_runtime_says_which_bytes_it_runs() -> None:
    weights = ENGINES / "head-ct-triage" / "model.onnx"
    runner = OnnxRunner(weights, threads=1)
    assert runner.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert runner.name == NAME


def test_what_is_no_graph_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph at all")
    with pytest.raises(GiveUp, match=r"cannot load model\.onnx"):
        OnnxRunner(path, threads=1)


def test_inputs_that_do_not_fit_are_given_up() -> None:
    runner = OnnxRunner(ENGINES / "head-ct-triage" / "model.onnx", threads=1)
    some = {"hu": np.zeros((1, 1, 3, 3), np.float32), "hull": np.zeros((1, 1, 128, 128), np.float32)}
    for inputs in (some, {**some, "levels": np.zeros((1, 4), np.float32)}):
        with pytest.raises(GiveUp, match="do not fit"):
            runner.run(inputs)


@pytest.mark.parametrize("flavour", trt_library.FLAVOURS)
def test_a_missing_library_is_named(flavour: trt_library.Flavour, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Unavailable, match=f"{flavour} cannot be loaded"):
        trt_library.load_library(flavour)


def test_a_library_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("tensorrt")
    old.__version__ = "8.6.1"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(Unavailable, match=r"tensorrt 8\.6\.1 is older than 10\.3"):
        trt_library.load_library("tensorrt")


def test_a_machine_without_cuda_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(Unavailable, match="no CUDA"):
        Device()


def test_waiting_ends_when_it_is_done_and_when_it_takes_too_long() -> None:
    answers = iter([False, False, True])
    wait_until(lambda: next(answers), 5.0, "a batch")
    started = time.monotonic()
    with pytest.raises(DeviceFault, match=r"a batch did not end within 0\.05 s"):
        wait_until(lambda: False, 0.05, "a batch")
    assert time.monotonic() - started < 2.0


def test_a_slot_counts_the_memory_that_it_takes() -> None:
    assert Slot.device_bytes({"x": (4, 1, 512, 512)}, {"y": (4, 1, 512, 512)}) == 2 * 4 * 512 * 512 * 4


def image(count: int, rows: int, columns: int) -> Tensors:
    return {"x": np.zeros((count, 1, rows, columns), np.float32)}


def test_images_get_the_profile_with_the_largest_batch_that_takes_them() -> None:
    profiles = [LARGE, SMALL]
    assert fitting_profile(profiles, image(16, 512, 512)) == 1
    assert fitting_profile(profiles, image(16, 513, 512)) == 0
    assert fitting_profile(profiles, image(1, 1024, 1025)) is None
    assert fitting_profile(profiles, image(1, 16, 64)) is None
    assert fitting_profile(profiles, {"other": np.zeros((1, 1, 64, 64), np.float32)}) is None
    assert (largest_batch(SMALL), largest_batch(LARGE)) == (4, 1)


@given(count=st.integers(1, 40), most=st.integers(1, 9))
def test_batches_lose_and_reorder_nothing(count: int, most: int) -> None:
    inputs = {"x": np.arange(count, dtype=np.float32)[:, None], "s": np.ones((count, 1), np.float32)}
    parts = batches_of(inputs, most)
    assert all(0 < len(part["x"]) <= most for part in parts)
    assert np.array_equal(np.concatenate([part["x"] for part in parts]), inputs["x"])
    assert sum(len(part["s"]) for part in parts) == count


def test_profiles_survive_the_way_through_json() -> None:
    assert profiles_from_plain(profiles_as_plain([SMALL, LARGE])) == [SMALL, LARGE]


class Distorted:
    """The reference's answers, changed by `change`."""

    name = "distorted"

    def __init__(self, reference: OnnxRunner, change: Callable[[Outputs], None]) -> None:
        self._reference = reference
        self._change = change

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.float32]]:
        outputs = self._reference.run(inputs)
        self._change(outputs)
        return outputs


@pytest.mark.parametrize("model", MODELS)
def test_every_shipped_model_passes_its_own_gate(model: str) -> None:
    """The golden inputs have the checksum, fit the graph and its profiles, and give finite answers."""
    manifest = load_manifest(ENGINES / model)
    assert damage(manifest, ENGINES / model) is None
    assert manifest.engine is not None
    golden = read_golden(ENGINES / model / manifest.engine.golden.file, manifest.engine.golden.sha256)
    reference = OnnxRunner(ENGINES / model / manifest.weights.file, threads=1)
    profiles = profiles_of(manifest.engine)
    for case in golden:
        assert fitting_profile(profiles, case) is not None
    parity = compare(reference, reference, golden, [], manifest.engine.parity)
    assert parity.passed
    assert parity.cases == len(golden) * (1 + PERTURBATIONS)


def offset(outputs: Outputs) -> None:
    outputs["probability"] += 0.01


def not_finite(outputs: Outputs) -> None:
    outputs["heat"][0, 0, 0, 0] = np.nan


def other_shape(outputs: Outputs) -> None:
    outputs["heat"] = outputs["heat"][:, :, 1:]


def missing(outputs: Outputs) -> None:
    del outputs["distance"]


@pytest.mark.parametrize(
    ("change", "output", "problem"),
    [
        (offset, "probability", None),
        (not_finite, "heat", "some values are not finite"),
        (other_shape, "heat", "the shape is"),
        (missing, "distance", "the output is missing"),
    ],
)
def test_the_gate_refuses_what_answers_differently(
    change: Callable[[Outputs], None], output: str, problem: str | None
) -> None:
    manifest = load_manifest(ENGINES / "head-ct-triage")
    assert manifest.engine is not None
    folder = ENGINES / "head-ct-triage"
    golden = read_golden(folder / manifest.engine.golden.file, manifest.engine.golden.sha256)
    reference = OnnxRunner(folder / manifest.weights.file, threads=1)
    parity = compare(Distorted(reference, change), reference, golden[:1], [], manifest.engine.parity)
    report = parity.as_dict()
    assert not parity.passed
    assert {name for name, one in report["outputs"].items() if not one["passed"]} == {output}
    told = report["outputs"][output]["problem"]
    assert told is None if problem is None else problem in told


def test_the_gate_looks_at_both_ends_of_every_profile() -> None:
    manifest = load_manifest(ENGINES / "head-ct-triage")
    assert manifest.engine is not None
    folder = ENGINES / "head-ct-triage"
    golden = read_golden(folder / manifest.engine.golden.file, manifest.engine.golden.sha256)
    reference = OnnxRunner(folder / manifest.weights.file, threads=1)
    counts: list[int] = []
    candidate = Distorted(reference, lambda outputs: counts.append(len(outputs["heat"])))
    profiles = profiles_of(manifest.engine)
    assert compare(candidate, reference, golden[:1], profiles, manifest.engine.parity).passed
    assert counts[-3:] == [1, 8, 16]


def test_an_output_without_a_limit_is_a_mistake_of_the_package() -> None:
    manifest = load_manifest(ENGINES / "head-ct-triage")
    assert manifest.engine is not None
    folder = ENGINES / "head-ct-triage"
    golden = read_golden(folder / manifest.engine.golden.file, manifest.engine.golden.sha256)
    reference = OnnxRunner(folder / manifest.weights.file, threads=1)
    with pytest.raises(GiveUp, match="limits for"):
        compare(reference, reference, golden, [], {"heat": 1.0})


def test_golden_inputs_with_another_checksum_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    path.write_bytes((ENGINES / "ct-denoise" / "golden.npz").read_bytes() + b"\0")
    manifest = load_manifest(ENGINES / "ct-denoise")
    assert manifest.engine is not None
    with pytest.raises(GiveUp, match="another checksum"):
        read_golden(path, manifest.engine.golden.sha256)
