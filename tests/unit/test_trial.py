"""Is what a model answers an answer, and what a test of a model in its own process finds wrong with it."""

from __future__ import annotations

import dataclasses
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.domain.errors import ApplianceError, GiveUp, TryAgain
from appliance.models.manifest import Manifest, load_manifest
from appliance.models.tasks.outputs import output_shapes
from appliance.runtime.answers import NON_FINITE, WRONG_SHAPE, CheckedRunner, WrongAnswer, check_answer
from appliance.runtime.base import Outputs, Tensors, run_each
from appliance.runtime.golden import read_golden
from appliance.runtime.onnx import OnnxRunner
from appliance.runtime.trial import Trial, try_out
from tests.support import faulty_models
from tests.support.processes import ROOT, wait_until
from tests.support.running import ENVIRONMENT

SHAPES = {"y": (2, 1, 4, 4), "sigma_map": (2, 1, 4, 4)}
LIMIT_S = 60.0
Array = NDArray[np.float32]


def outputs(**changes: Array | None) -> Outputs:
    values: dict[str, Array | None] = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    return {name: value for name, value in {**values, **changes}.items() if value is not None}


def test_what_has_the_right_shape_and_is_finite_is_an_answer() -> None:
    check_answer(outputs(more=np.full(3, np.nan, np.float32)), SHAPES)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (np.full((2, 1, 4, 4), np.nan, np.float32), NON_FINITE),
        (np.full((2, 1, 4, 4), -np.inf, np.float32), NON_FINITE),
        (np.zeros((2, 1, 1, 1), np.float32), WRONG_SHAPE),
        (np.zeros((1, 1, 4, 4), np.float32), WRONG_SHAPE),
        (None, WRONG_SHAPE),
    ],
)
def test_nothing_else_is(wrong: Array | None, reason: str) -> None:
    with pytest.raises(WrongAnswer) as caught:
        check_answer(outputs(sigma_map=wrong), SHAPES)
    assert caught.value.reason == reason


def golden_of(folder: Path, manifest: Manifest) -> list[Tensors]:
    assert manifest.engine is not None
    return read_golden(folder / manifest.engine.golden.file, manifest.engine.golden.sha256)


@pytest.mark.parametrize("model", ["ct-denoise", "head-ct-triage"])
def test_the_shipped_models_answer_as_their_tasks_need(model: str) -> None:
    folder = ROOT / "engines" / model
    manifest = load_manifest(folder)
    runner = OnnxRunner(folder / manifest.weights.file, threads=1)
    checked = CheckedRunner(runner, lambda inputs: output_shapes(manifest, inputs))
    cases = golden_of(folder, manifest)
    (single,) = (checked.run(case) for case in cases[:1])
    answers = list(run_each(checked, iter(cases)))
    assert len(answers) == len(cases)
    assert all(np.array_equal(single[name], answers[0][name]) for name in single)


def test_one_wrong_answer_of_many_is_found(tmp_path: Path) -> None:
    folder = faulty_models.write_package(tmp_path, "faulty", faulty_models.not_finite)
    manifest = load_manifest(folder)
    checked = CheckedRunner(
        OnnxRunner(folder / "model.onnx", threads=1), lambda inputs: output_shapes(manifest, inputs)
    )
    with pytest.raises(WrongAnswer, match="values of probability that are not finite"):
        list(run_each(checked, golden_of(folder, manifest)))


def trial_of(folder: Path) -> Trial:
    manifest = load_manifest(folder)
    assert manifest.engine is not None
    cases = golden_of(folder, manifest)
    return Trial(
        graph=str(folder / manifest.weights.file),
        graph_sha256=manifest.weights.sha256,
        golden=str(folder / manifest.engine.golden.file),
        golden_sha256=manifest.engine.golden.sha256,
        shapes=[output_shapes(manifest, case) for case in cases],
        threads=1,
    )


@pytest.mark.slow
@pytest.mark.parametrize("model", ["ct-denoise", "head-ct-triage"])
def test_the_shipped_models_pass(model: str) -> None:
    try_out(trial_of(ROOT / "engines" / model), limit_s=LIMIT_S)


x86_64_only = pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors do not trap there")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("graph", "kind", "problem"),
    [
        (faulty_models.not_finite, GiveUp, "values of probability that are not finite numbers"),
        (faulty_models.wrong_shape, GiveUp, r"probability as \(\d+, 4\) instead of \(\d+, 1\)"),
        (faulty_models.needs_memory, ApplianceError, "memory"),
        (faulty_models.hangs, TryAgain, "had to test the model took longer than 6 s"),
        pytest.param(faulty_models.crashes, TryAgain, "ended with status -8", marks=x86_64_only),
        pytest.param(faulty_models.crashes_at_load, TryAgain, "ended with status -8", marks=x86_64_only),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_wrong_with_a_model_is_told_and_harms_nothing(
    tmp_path: Path, graph: Callable[[], bytes], kind: type[Exception], problem: str
) -> None:
    folder = faulty_models.write_package(tmp_path, "faulty", graph)
    limit_s = 6.0 if graph is faulty_models.hangs else LIMIT_S
    with pytest.raises(kind, match=problem):
        try_out(trial_of(folder), limit_s=limit_s)


@pytest.mark.slow
def test_a_changed_file_is_told(tmp_path: Path) -> None:
    folder = faulty_models.write_package(tmp_path, "faulty", faulty_models.sound)
    trial = trial_of(folder)
    try_out(trial, limit_s=LIMIT_S)
    (folder / "model.onnx").write_bytes(faulty_models.not_finite())
    with pytest.raises(GiveUp, match=r"model\.onnx has another checksum than it should have"):
        try_out(trial, limit_s=LIMIT_S)


@pytest.mark.slow
def test_a_test_ends_with_the_process_that_asked_for_it(tmp_path: Path) -> None:
    """Killed by its watchdog, that process cannot end a model that hangs: the kernel does."""
    folder = faulty_models.write_package(tmp_path, "faulty", faulty_models.hangs)
    request = json.dumps(dataclasses.asdict(trial_of(folder)))
    code = (
        "import json, sys; from appliance.runtime.trial import Trial, try_out;"
        " try_out(Trial(**json.loads(sys.argv[1])), limit_s=600.0)"
    )
    asker = subprocess.Popen([sys.executable, "-c", code, request], env=ENVIRONMENT)
    children = Path(f"/proc/{asker.pid}/task/{asker.pid}/children")
    wait_until(lambda: bool(children.read_text().split()), 30, "the model is tested")
    (child,) = children.read_text().split()
    command = Path(f"/proc/{child}/cmdline")
    wait_until(lambda: b"appliance.runtime.trial" in command.read_bytes(), 30, "its process runs")
    asker.kill()
    asker.wait()
    wait_until(lambda: not command.exists() or not command.read_bytes(), 10, "it has ended as well")
