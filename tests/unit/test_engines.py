"""The life of engines without a GPU: which one a model gets, what serves meanwhile, what the commands say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from appliance.__main__ import app
from appliance.config.load import load
from appliance.config.schema import Config
from appliance.domain.errors import GiveUp, TryAgain
from appliance.results.attributes import processing_equipment
from appliance.runtime.base import DeviceFault, OutOfDeviceMemory, Outputs, Tensors, run_each
from appliance.runtime.cuda import DeviceFacts
from appliance.runtime.engine_store import EngineKey, EngineRecord, EngineStore, Verdict
from appliance.runtime.engine_worker import Request, work
from appliance.runtime.onnx import NAME, OnnxRunner
from appliance.runtime.trt import EngineRunner
from appliance.runtime.trt_library import Library, Messages
from appliance.services.administration.engine_commands import listed, prune, verify
from appliance.services.inference import engines as engine_life
from appliance.services.inference.engines import Machine, choose, chosen, engine_key, superfluous
from appliance.services.inference.runners import ModelRunner
from appliance.services.packages import Package, load_packages
from tests.result_samples import IDENTITY
from tests.support.model_runners import model_runners
from tests.support.processes import ROOT, free_port

GPU = DeviceFacts("a GPU", "SM86", 30, 8 << 30, "13000")
PLAN = b"an engine"
TRIAGE = ROOT / "engines" / "head-ct-triage" / "model.onnx"


def library(version: str = "1.7.1", *targets: str) -> Library:
    """What decisions read of TensorRT-RTX: its version and what it builds for."""
    names = dict.fromkeys(targets or ("SM86", "SM89"))
    module = SimpleNamespace(
        __version__=version,
        IBuilderConfig=SimpleNamespace(num_compute_capabilities=0),
        ComputeCapability=SimpleNamespace(__members__=names),
    )
    return Library("tensorrt_rtx", module, None, Messages())


def machine(gpu: DeviceFacts | None = GPU, version: str = "1.7.1") -> Machine:
    lacking = {"tensorrt": "tensorrt cannot be loaded"}
    return Machine({"tensorrt_rtx": library(version)}, gpu, lacking if gpu else {**lacking, "gpu": "no GPU"})


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site.yaml"
    settings = {
        "station": {"ae_title": "EDGE"},
        "listener": {"port": free_port()},
        "storage": {"path": "./var"},
        "destinations": {"pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": free_port()}},
        "pipelines": [{"model": "head-ct-triage", "destinations": ["pacs"]}],
        "inference": {"threads": 1},
        "monitor": {"port": free_port()},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
def config(site: Path) -> Config:
    return load(site)


@pytest.fixture
def package(config: Config) -> Package:
    return load_packages(config)[0]


@pytest.fixture
def store(config: Config) -> EngineStore:
    return EngineStore(config.engine_directory)


def put(store: EngineStore, key: EngineKey, verdict: Verdict, plan: bytes = PLAN) -> EngineRecord:
    parity = {"passed": verdict == "active", "problem": "it is only a test"}
    record = EngineRecord(
        key=key,
        size=len(plan),
        sha256=hashlib.sha256(plan).hexdigest(),
        built_at="2026-11-23T00:00:00+00:00",
        build_s=1.0,
        verdict=verdict,
        parity={} if verdict == "candidate" else parity,
    )
    store.put(record, plan)
    return record


def key_here(package: Package, version: str = "1.7.1") -> EngineKey:
    return engine_key(package, library(version), "SM86")


def test_without_a_gpu_everything_runs_on_onnx_runtime_and_says_why(
    package: Package, store: EngineStore
) -> None:
    choice = choose("auto", package, machine(gpu=None), store)
    assert (choice.engine, choice.wanted) == (None, ())
    assert choice.reasons == ("tensorrt: tensorrt cannot be loaded", "tensorrt_rtx: no GPU")


def test_a_gpu_that_the_library_does_not_know_is_named(package: Package, store: EngineStore) -> None:
    big = DeviceFacts("a big GPU", "SM90", 132, 80 << 30, "13000")
    choice = choose("tensorrt_rtx", package, machine(big), store)
    assert choice.reasons == ("tensorrt_rtx: 1.7.1 does not support a big GPU (SM90)",)


@pytest.mark.parametrize("verdict", [None, "candidate"])
def test_an_engine_that_is_not_ready_is_wanted(
    package: Package, store: EngineStore, verdict: Verdict | None
) -> None:
    if verdict is not None:
        put(store, key_here(package), verdict)
    choice = choose("auto", package, machine(), store)
    assert (choice.engine, choice.wanted) == (None, (key_here(package),))
    assert choice.reasons[-1] == "tensorrt_rtx: the engine is not ready yet"


def test_an_active_engine_is_used(package: Package, store: EngineStore) -> None:
    active = put(store, key_here(package), "active")
    choice = choose("auto", package, machine(), store)
    assert (choice.engine, choice.wanted) == (active, ())


def test_onnx_runtime_is_used_where_it_is_asked_for(package: Package, store: EngineStore) -> None:
    put(store, key_here(package), "active")
    choice = choose("onnxruntime", package, machine(), store)
    assert (choice.engine, choice.wanted, choice.reasons) == (None, (), ())


def test_a_refused_engine_is_neither_used_nor_built_again(package: Package, store: EngineStore) -> None:
    put(store, key_here(package), "refused")
    choice = choose("auto", package, machine(), store)
    assert (choice.engine, choice.wanted) == (None, ())
    assert "differs from ONNX Runtime" in choice.reasons[-1]


def test_an_engine_that_was_tampered_with_is_built_again(package: Package, store: EngineStore) -> None:
    put(store, key_here(package), "active")
    record = store.path(key_here(package)).with_suffix(".json")
    record.write_text(record.read_text().replace("SM86", "SM89"))
    choice = choose("auto", package, machine(), store)
    assert (choice.engine, choice.wanted) == (None, (key_here(package),))
    assert "was changed" in choice.reasons[-1]


def test_the_previous_engine_serves_until_the_next_one_is_active(
    package: Package, store: EngineStore
) -> None:
    key = key_here(package)
    previous = put(store, EngineKey(**{**vars(key), "builder_revision": 0}), "active")
    choice = choose("auto", package, machine(), store)
    assert (choice.engine, choice.wanted) == (previous, (key,))


def test_an_engine_of_another_release_does_not_serve(package: Package, store: EngineStore) -> None:
    put(store, key_here(package), "active")
    choice = choose("auto", package, machine(version="1.8.0"), store)
    assert (choice.engine, choice.wanted) == (None, (key_here(package, "1.8.0"),))


def test_what_nothing_can_use_any_more_is_superfluous(package: Package, store: EngineStore) -> None:
    key = key_here(package)
    put(store, key, "active")
    put(store, EngineKey(**{**vars(key), "version": "1.6.0"}), "active")
    put(store, EngineKey(**{**vars(key), "model_sha256": "0" * 64}), "active")
    put(store, EngineKey(**{**vars(key), "profiles": "[]"}), "active")
    put(store, EngineKey(**{**vars(key), "flavour": "tensorrt"}), "active")
    (store.path(key).parent / "stray.engine").write_bytes(b"?")
    reasons = dict(superfluous(store, [package], machine()))
    assert key.name not in reasons
    assert sorted(reason.split()[0] for reason in reasons.values()) == ["it", "it", "no", "stray.engine"]


@dataclass
class ScriptedEngine:
    """An engine that answers like the graph until `fails` says otherwise; at most `most` images at once."""

    graph: OnnxRunner
    fails: Callable[[int], Exception | None] = lambda _count: None
    name: str = "tensorrt_rtx 1.7.1"
    batches: list[int] = field(default_factory=list)
    refuses: int | None = None
    closed: bool = False

    def takes(self, inputs: Tensors) -> bool:
        return len(inputs["hu"]) != self.refuses

    def run(self, inputs: Tensors) -> Outputs:
        count = len(inputs["hu"])
        error = self.fails(count)
        if error is not None:
            raise error
        self.batches.append(count)
        return self.graph.run(inputs)

    def run_each(self, batches: Iterable[Tensors]) -> Iterator[Outputs]:
        """Like the real one, it takes a batch more than it has answered."""
        flying: list[Tensors] = []
        for inputs in batches:
            flying.append(inputs)
            if len(flying) == 2:
                yield self.run(flying.pop(0))
        yield from map(self.run, flying)

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def graph() -> OnnxRunner:
    return OnnxRunner(TRIAGE, threads=1)


def heads(count: int) -> Tensors:
    random = np.random.default_rng(count)
    shape = (count, 1, 128, 128)
    return {
        "hu": random.normal(40.0, 10.0, shape).astype(np.float32),
        "hull": np.ones(shape, np.float32),
        "levels": np.tile(np.array([0.0, 80.0, 40.0, 10.0], np.float32), (count, 1)),
    }


def runner_with(graph: OnnxRunner, engine: ScriptedEngine) -> ModelRunner:
    runner = ModelRunner("head-ct-triage", graph)
    runner.use(cast(EngineRunner, engine), "e" * 64)
    return runner


def test_results_name_the_engine_that_ran(graph: OnnxRunner) -> None:
    runner = runner_with(graph, ScriptedEngine(graph))
    runner.run(heads(2))
    assert runner.ran == (f"tensorrt_rtx 1.7.1 sha256:{'e' * 64}",)
    runner.use(None, "")
    runner.start_job()
    runner.run(heads(1))
    assert runner.ran == (f"{NAME} {graph.version} sha256:{graph.sha256}",)


def test_a_result_says_what_computed_it() -> None:
    ran = (f"tensorrt_rtx 1.7.1 sha256:{'e' * 64}", f"{NAME} 1.23.2 sha256:{'a' * 64}")
    identity = replace(IDENTITY, model=replace(IDENTITY.model, ran=ran))
    versions = processing_equipment(identity, identity.created).SoftwareVersions
    assert [str(version)[:40] for version in versions[2:]] == [one[:40] for one in ran]
    assert all(len(version) <= 64 for version in versions)  # LO, PS3.5 section 6.2


def test_a_batch_that_the_gpu_cannot_hold_is_halved(graph: OnnxRunner) -> None:
    engine = ScriptedEngine(graph, lambda count: OutOfDeviceMemory("full") if count > 2 else None)
    inputs = heads(7)
    outputs = runner_with(graph, engine).run(inputs)
    assert sum(engine.batches) == 7
    assert max(engine.batches) == 2
    expected = graph.run(inputs)
    for name, values in outputs.items():
        np.testing.assert_allclose(values, expected[name], atol=1e-4)


def test_what_is_too_much_for_the_gpu_even_alone_runs_on_onnx_runtime(graph: OnnxRunner) -> None:
    runner = runner_with(graph, ScriptedEngine(graph, lambda _count: OutOfDeviceMemory("full")))
    assert len(runner.run(heads(3))["probability"]) == 3
    assert runner.ran == (f"{NAME} {graph.version} sha256:{graph.sha256}",)


def test_a_shape_without_a_profile_runs_on_onnx_runtime(graph: OnnxRunner) -> None:
    engine = ScriptedEngine(graph, refuses=2)
    runner = runner_with(graph, engine)
    assert len(runner.run(heads(2))["heat"]) == 2
    assert not engine.batches


@pytest.mark.parametrize("trouble", [None, "memory", "refusal", "shape"])
def test_a_series_is_answered_in_order_whatever_happens_on_the_way(
    graph: OnnxRunner, trouble: str | None
) -> None:
    errors = {"memory": OutOfDeviceMemory("full"), "refusal": GiveUp("no")}
    engine = ScriptedEngine(graph)
    engine.fails = lambda count: errors.get(str(trouble)) if count == 3 else None
    engine.refuses = 3 if trouble == "shape" else None
    batches = [heads(count) for count in (1, 2, 3, 4, 5)]
    runner = runner_with(graph, engine)
    answers = list(run_each(runner, iter(batches)))
    assert [len(answer["heat"]) for answer in answers] == [1, 2, 3, 4, 5]
    for answer, batch in zip(answers, batches, strict=True):
        np.testing.assert_allclose(answer["heat"], graph.run(batch)["heat"], atol=1e-4)
    assert engine.closed == (trouble == "refusal")


def test_an_engine_that_refuses_is_taken_out(graph: OnnxRunner) -> None:
    engine = ScriptedEngine(graph, lambda _count: GiveUp("no"))
    runner = runner_with(graph, engine)
    assert len(runner.run(heads(2))["heat"]) == 2
    assert engine.closed
    assert (runner.name, runner.engine_sha256) == (graph.name, "")


def test_a_lost_gpu_is_not_hidden(graph: OnnxRunner) -> None:
    runner = runner_with(graph, ScriptedEngine(graph, lambda _count: DeviceFault("gone")))
    with pytest.raises(DeviceFault):
        runner.run(heads(1))


def test_a_model_file_that_changed_after_the_check_is_not_run(config: Config, tmp_path: Path) -> None:
    (package,) = load_packages(config)
    other = tmp_path / "model.onnx"
    other.write_bytes((ROOT / "engines" / "ct-denoise" / "model.onnx").read_bytes())
    changed = [Package(package.manifest, package.pipeline, other)]
    runners = model_runners(config, changed)
    with pytest.raises(GiveUp, match=r"not the file that model\.yaml names"):
        runners.for_job("head-ct-triage")
    runners.close()


def test_what_would_run_can_be_asked_before_anything_was_built(config: Config, package: Package) -> None:
    assert chosen(config, package, machine()).reasons[-1] == "tensorrt_rtx: no engine was built yet"
    assert chosen(config, package, machine(gpu=None)).reasons[-1] == "tensorrt_rtx: no GPU"
    assert not config.engine_directory.exists()
    active = put(EngineStore(config.engine_directory), key_here(package), "active")
    assert chosen(config, package, machine()).engine == active
    config.engine_directory.chmod(0o777)
    choice = chosen(config, package, machine())
    assert choice.engine is None
    assert "may be written by others" in choice.reasons[0]


def test_models_run_where_the_folder_of_engines_cannot_be_trusted(config: Config) -> None:
    config.engine_directory.mkdir(parents=True)
    config.engine_directory.chmod(0o777)
    runners = model_runners(config)
    runners.refresh()
    runner = runners.for_job("head-ct-triage")
    assert len(runner.run(heads(1))["heat"]) == 1
    runners.close()


@pytest.mark.parametrize(("passes", "verdict"), [(True, "active"), (False, "refused")])
def test_a_later_comparison_can_refuse_an_engine(
    config: Config,
    package: Package,
    store: EngineStore,
    monkeypatch: pytest.MonkeyPatch,
    passes: bool,
    verdict: Verdict,
) -> None:
    """As a test of the model asks for it; what compares is not here, its answer is."""
    put(store, key_here(package), "active")
    asked: list[Request] = []

    def compare(request: Request, _say: object, *, limit_s: float) -> dict[str, Any]:
        asked.append(request)
        return {"parity": {"passed": passes}}

    monkeypatch.setattr(engine_life, "survey", machine)
    monkeypatch.setattr(engine_life, "work", compare)
    engine_life.compare_again(config, package)
    assert [(one.task, one.engine_sha256) for one in asked] == [("gate", hashlib.sha256(PLAN).hexdigest())]
    record = store.find(key_here(package))
    assert record is not None
    assert record.verdict == verdict


def test_without_a_gpu_no_engine_is_compared(config: Config, package: Package, store: EngineStore) -> None:
    put(store, key_here(package), "active")
    engine_life.compare_again(config, package)
    record = store.find(key_here(package))
    assert record is not None
    assert record.verdict == "active"


def request(**changes: Any) -> Request:
    values: dict[str, Any] = {
        "task": "build",
        "flavour": "tensorrt",
        "graph": str(TRIAGE),
        "graph_sha256": hashlib.sha256(TRIAGE.read_bytes()).hexdigest(),
        "profiles": [],
        "memory_bytes": 1 << 30,
        "engine": "unused",
    }
    return Request(**{**values, **changes})


def test_the_builder_says_why_it_cannot() -> None:
    with pytest.raises(GiveUp, match="tensorrt cannot be loaded"):
        work(request(), print, limit_s=60.0)


def test_a_builder_that_takes_too_long_is_killed() -> None:
    with pytest.raises(TryAgain, match="took longer than 0 s"):
        work(request(), print, limit_s=0.0)


def test_a_builder_that_crashes_harms_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text("import os\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(TryAgain, match="ended with status -6"):
        work(request(), print, limit_s=60.0)


def engines(site: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["engines", *arguments, "--config", str(site)])


def test_the_command_says_why_nothing_can_be_built(site: Path) -> None:
    answer = engines(site, "build", "--runtime", "tensorrt")
    assert answer.exit_code == 1
    assert "tensorrt cannot be loaded" in answer.stderr
    assert engines(site, "build", "--model", "unknown").stderr == "no pipeline has the model unknown\n"
    assert json.loads(engines(site, "list", "--json").stdout) == []


def test_list_verify_and_prune(site: Path, config: Config, store: EngineStore, package: Package) -> None:
    good = put(store, key_here(package), "candidate")
    swapped = put(store, EngineKey(**{**vars(good.key), "model_sha256": "0" * 64}), "refused", b"another")
    store.path(swapped.key).write_bytes(PLAN)
    assert {row["engine"]: row["verdict"] for row in listed(config)} == {
        good.key.name: "candidate",
        swapped.key.name: "refused",
    }
    rows, problems = verify(config)
    assert {row["engine"]: row["verdict"] for row in rows} == {
        good.key.name: "candidate",
        swapped.key.name: "not ours",
    }
    assert len(problems) == 1
    assert engines(site, "verify").exit_code == 1
    assert swapped.key.name in {row["engine"] for row in prune(config, dry_run=True)}
    assert store.path(swapped.key).exists()
    assert f"{swapped.key.name}: no pipeline uses this model file" in engines(site, "prune").stdout
    assert store.find(swapped.key) is None
