"""Engines of all shipped models for every GPU that TensorRT-RTX knows, built where there is no GPU at all."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from appliance.domain.errors import GiveUp
from appliance.runtime.cuda import Device
from appliance.runtime.trt import EngineRunner
from appliance.runtime.trt_library import load_library
from tests.support.processes import ROOT, free_port
from tests.support.running import ENVIRONMENT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_rtx_bindings") is None,
        reason="TensorRT-RTX is not installed: tools/environment rtx (x86-64 only, NVIDIA's own licence)",
    ),
]

MODELS = sorted(path.parent.name for path in (ROOT / "engines").glob("*/model.yaml"))
TARGETS = ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121")
REFUSED = {("head-ct-triage", "SM75"): "FP32 GEMM is not supported"}
"""TensorRT-RTX has no kernel for these; such a GPU runs the model on ONNX Runtime."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    settings = {
        "station": {"ae_title": "EDGE"},
        "listener": {"port": free_port()},
        "storage": {"path": "./var"},
        "destinations": {"pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": free_port()}},
        "pipelines": [{"model": model, "destinations": ["pacs"]} for model in MODELS],
        "monitor": {"port": free_port()},
    }
    (folder / "site.yaml").write_text(yaml.safe_dump(settings))
    return folder


def engines(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "appliance", "engines", *arguments, "--json"]
    command += ["--config", str(folder / "site.yaml")]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)


def build(folder: Path, model: str, *targets: str, again: bool = False) -> tuple[list[dict[str, Any]], str]:
    arguments = ["build", "--runtime", "tensorrt_rtx", "--model", model]
    for target in targets:
        arguments += ["--target", target]
    answer = engines(folder, *arguments, *(["--again"] if again else []))
    return json.loads(answer.stdout), answer.stderr


@pytest.mark.parametrize("model", MODELS)
def test_a_model_builds_for_every_gpu(folder: Path, model: str) -> None:
    rows, errors = build(folder, model, *TARGETS)
    refused = {target: why for (name, target), why in REFUSED.items() if name == model}
    assert [row["target"] for row in rows] == [target for target in TARGETS if target not in refused]
    for target, why in refused.items():
        assert f"{model} for {target}: " in errors
        assert why in errors
    # Nothing has executed them, so none may be used.
    assert {row["verdict"] for row in rows} == {"candidate"}
    assert len({row["sha256"] for row in rows}) == len(rows)
    assert f"build {model}: " in errors  # progress is visible
    assert engines(folder, "verify").returncode == 0


def test_an_engine_is_built_again_only_on_demand(folder: Path) -> None:
    (first,), _ = build(folder, "head-ct-triage", "SM86")
    file = next((folder / "var" / "engines").glob(f"{first['engine']}.engine"))
    made = file.stat().st_mtime_ns
    (kept,), _ = build(folder, "head-ct-triage", "SM86")
    assert (kept["sha256"], file.stat().st_mtime_ns) == (first["sha256"], made)
    (second,), _ = build(folder, "head-ct-triage", "SM86", again=True)
    assert second["engine"] == first["engine"]
    assert file.stat().st_mtime_ns > made


def test_a_harmed_engine_is_named_and_built_anew(folder: Path) -> None:
    (row,), _ = build(folder, "head-ct-triage", "SM89")
    file = folder / "var" / "engines" / f"{row['engine']}.engine"
    file.write_bytes(file.read_bytes()[:-1])
    answer = engines(folder, "verify")
    assert answer.returncode == 1
    assert f"{row['engine']}.engine is not" in answer.stderr
    (again,), _ = build(folder, "head-ct-triage", "SM89")
    assert again["engine"] == row["engine"]
    assert engines(folder, "verify").returncode == 0


def test_a_gpu_that_it_does_not_know_is_refused(folder: Path) -> None:
    answer = engines(folder, "build", "--target", "SM90")
    assert answer.returncode == 1
    assert "does not build for SM90, only for SM75" in answer.stderr


def test_a_graph_with_another_checksum_is_not_built(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "engines" / "head-ct-triage", tmp_path / "engines" / "head-ct-triage")
    weights = tmp_path / "engines" / "head-ct-triage" / "model.onnx"
    weights.write_bytes(weights.read_bytes() + b"\0")
    settings = yaml.safe_load((folder / "site.yaml").read_text())
    settings["engines"] = {"path": "engines"}
    settings["pipelines"] = [{"model": "head-ct-triage", "destinations": ["pacs"]}]
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(settings))
    answer = engines(tmp_path, "build", "--target", "SM86")
    assert answer.returncode == 1
    assert "model.onnx has another checksum than it should have" in answer.stderr


@pytest.mark.parametrize("harm", [lambda plan: plan[:-1], lambda plan: plan[:64], lambda _plan: b"x" * 4096])
def test_the_library_itself_refuses_what_is_no_engine(folder: Path, harm: Callable[[bytes], bytes]) -> None:
    """It returns None, and no exception; the runner tells what the library said. That needs no GPU."""
    (row,), _ = build(folder, "head-ct-triage", "SM86")
    plan = (folder / "var" / "engines" / f"{row['engine']}.engine").read_bytes()
    with pytest.raises(GiveUp, match=r"refuses the engine: .*Serialization"):
        EngineRunner(
            load_library("tensorrt_rtx"),
            cast(Device, None),
            harm(plan),
            profiles=[],
            memory_bytes=1 << 30,
            step_s=1.0,
        )
