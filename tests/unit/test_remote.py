"""A model on a server: nothing unverified serves, what fails runs here, and the server is taken back."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

pytest.importorskip("tritonclient.grpc", reason="the extra `triton` is not installed")

import grpc

from appliance.config.load import load
from appliance.config.schema import Config
from appliance.observe.metrics import REGISTRY, TRITON_STATES
from appliance.runtime.base import run_each
from appliance.runtime.onnx import OnnxRunner
from appliance.services.administration import preflight
from appliance.services.administration.preflight import check
from appliance.services.administration.report import models_report
from appliance.services.inference import remote
from appliance.services.inference.runners import ModelRunner
from appliance.services.packages import load_packages
from tests.support.examples import examples
from tests.support.kserve import Behaviour, KServe, Outputs
from tests.support.model_runners import model_runners
from tests.support.processes import ROOT, free_port, wait_until
from tests.unit.test_triton import batch, same

PACKAGE = ROOT / "engines" / "head-ct-triage"
SERVER = "triton 2.51.0 head-ct-triage/1"
REFUSED, BUSY = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture(scope="module")
def graph() -> OnnxRunner:
    return OnnxRunner(PACKAGE / "model.onnx", threads=1, cpu_only=True)


@pytest.fixture
def behaviour() -> Behaviour:
    return Behaviour()


@pytest.fixture
def server(graph: OnnxRunner, behaviour: Behaviour) -> Iterator[KServe]:
    server = KServe(graph, behaviour).start()
    yield server
    server.stop()


@pytest.fixture
def config(tmp_path: Path, server: KServe, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(remote, "CHECK_EVERY_S", 0.1)
    monkeypatch.setattr(remote, "RETRY_S", 0.2)
    monkeypatch.setattr(remote, "PROBE_MAXIMUM_S", 0.3)
    path = tmp_path / "site.yaml"
    content = {
        "station": {"ae_title": "EDGE"},
        "listener": {"port": free_port()},
        "storage": {"path": "./var"},
        "destinations": {"pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": free_port()}},
        "pipelines": [{"model": "head-ct-triage", "destinations": ["pacs"], "runtime": "triton"}],
        "inference": {
            "threads": 1,
            "triton": {"host": "127.0.0.1", "port": server.port, "timeout_s": 5.0},
        },
        "monitor": {"port": free_port()},
    }
    path.write_text(yaml.safe_dump(content))
    return load(path)


@pytest.fixture
def runner(config: Config) -> Iterator[ModelRunner]:
    runners = model_runners(config)
    yield runners.for_job("head-ct-triage")
    runners.close()


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"model": "head-ct-triage", **labels}) or 0.0


def states() -> set[str]:
    """One, or for a moment between two none."""
    return {each for each in TRITON_STATES if value("appliance_triton_circuit_state", state=each)}


def fallbacks(reason: str) -> float:
    return value("appliance_triton_fallbacks_total", reason=reason)


def wait_for(wanted: str) -> None:
    wait_until(lambda: states() == {wanted}, 20.0, f"the circuit is {wanted}")


def on_server(runner: ModelRunner, graph: OnnxRunner, seed: int = 0) -> bool:
    """Run one batch; whether the server ran it. The answer is the same either way."""
    runner.start_job()
    assert same(runner.run(batch(1, seed)), graph.run(batch(1, seed)))
    (ran,) = runner.ran
    assert ran in (SERVER, f"{graph.name} {graph.version} sha256:{graph.sha256}")
    return ran == SERVER


def test_a_verified_server_runs_the_model_and_stands_in_the_results(
    runner: ModelRunner, graph: OnnxRunner, server: KServe
) -> None:
    wait_for("closed")
    compared = len(server.batches)
    assert compared > 6  # golden inputs, perturbed ones, and the sizes of the profiles
    assert on_server(runner, graph)
    assert len(server.batches) == compared + 1
    assert runner.name == "triton 2.51.0"


def test_auto_never_means_the_server(config: Config, server: KServe) -> None:
    pipelines = [config.pipelines[0].model_copy(update={"runtime": None})]
    config = config.model_copy(update={"pipelines": pipelines})
    runners = model_runners(config)
    runners.for_job("head-ct-triage").run(batch(1))
    runners.close()
    assert server.batches == []


def test_the_appliance_starts_without_its_server_and_finds_it_later(
    server: KServe, config: Config, graph: OnnxRunner
) -> None:
    server.stop()
    before = fallbacks("circuit")
    runners = model_runners(config)
    runner = runners.for_job("head-ct-triage")
    assert not on_server(runner, graph)
    assert fallbacks("circuit") == before + 1
    server.start()
    wait_for("closed")
    assert on_server(runner, graph)
    runners.close()


def test_a_restart_of_the_server_falls_back_and_comes_back(
    runner: ModelRunner, graph: OnnxRunner, server: KServe
) -> None:
    wait_for("closed")
    server.stop()
    seen = [on_server(runner, graph, seed) for seed in range(5)]
    assert seen == [False] * 5
    wait_for("open")
    server.start()
    compared = len(server.batches)
    wait_for("closed")
    assert len(server.batches) > compared + 6  # it may be another server, so it is compared again
    assert on_server(runner, graph)


def test_one_failure_is_forgiven_and_three_in_a_row_open_the_circuit(
    runner: ModelRunner, graph: OnnxRunner, server: KServe, behaviour: Behaviour
) -> None:
    wait_for("closed")
    failed = fallbacks("failed")
    for busy in (True, True, False, True, True, False):
        behaviour.fail = always(BUSY) if busy else always(None)
        assert on_server(runner, graph) is not busy
    assert states() == {"closed"}
    behaviour.fail = always(BUSY)
    assert [on_server(runner, graph) for _ in range(3)] == [False] * 3
    assert fallbacks("failed") == failed + 7
    wait_for("open")
    behaviour.fail = always(None)
    wait_for("closed")


def test_a_slow_server_opens_the_circuit(
    config: Config, graph: OnnxRunner, behaviour: Behaviour, server: KServe
) -> None:
    triton = config.inference.triton
    assert triton is not None
    inference = config.inference.model_copy(update={"triton": triton.model_copy(update={"timeout_s": 1.0})})
    config = config.model_copy(update={"inference": inference})
    runners = model_runners(config)
    runner = runners.for_job("head-ct-triage")
    wait_for("closed")
    behaviour.hang = Event()
    assert [on_server(runner, graph) for _ in range(4)] == [False] * 4
    wait_for("open")
    behaviour.hang.set()
    behaviour.hang = None
    wait_for("closed")
    runners.close()


def test_a_batch_that_the_server_refuses_leaves_the_circuit_closed(
    runner: ModelRunner, graph: OnnxRunner, behaviour: Behaviour, server: KServe
) -> None:
    wait_for("closed")
    refused = fallbacks("refused")
    behaviour.fail = always(REFUSED)
    assert [on_server(runner, graph) for _ in range(5)] == [False] * 5
    behaviour.fail = always(None)
    assert on_server(runner, graph)
    assert fallbacks("refused") == refused + 5


def always(code: grpc.StatusCode | None) -> Callable[[int], grpc.StatusCode | None]:
    return lambda _number: code


def a_little_more(outputs: Outputs) -> Outputs:
    return {**outputs, "probability": outputs["probability"] + np.float32(0.01)}


def test_a_model_that_answers_otherwise_never_serves(
    server: KServe,
    behaviour: Behaviour,
    config: Config,
    graph: OnnxRunner,
    caplog: pytest.LogCaptureFixture,
) -> None:
    behaviour.alter = a_little_more
    refused = value("appliance_triton_comparisons_total", result="refused")
    with caplog.at_level(logging.INFO):
        runners = model_runners(config)
        runner = runners.for_job("head-ct-triage")
        wait_for("refused")
        assert not on_server(runner, graph)
        wait_until(lambda: server.asked > 25, 20.0, "it is looked at again")
    told = [record for record in caplog.records if record.message == "triton_circuit"]
    assert [vars(record)["reason"] for record in told] == [
        "the server's model answers otherwise than ONNX Runtime"
    ]
    assert value("appliance_triton_comparisons_total", result="refused") > refused
    behaviour.alter = lambda outputs: outputs  # somebody puts it right
    wait_for("closed")
    assert on_server(runner, graph)
    runners.close()


def test_a_model_that_is_exchanged_without_a_word_is_noticed(
    runner: ModelRunner, behaviour: Behaviour, graph: OnnxRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for("closed")
    behaviour.alter = a_little_more
    monkeypatch.setattr(remote, "COMPARE_EVERY_S", 0.0)
    wait_for("refused")
    assert not on_server(runner, graph)


def test_another_version_of_the_model_is_compared_before_it_serves(
    runner: ModelRunner, behaviour: Behaviour, graph: OnnxRunner
) -> None:
    wait_for("closed")
    behaviour.versions = ["1", "2"]
    assert on_server(runner, graph)  # and nothing changes as long as the first is there
    behaviour.versions = ["2"]
    wait_until(lambda: "head-ct-triage/2" in ran_by(runner), 20.0, "the second serves")


def ran_by(runner: ModelRunner) -> str:
    runner.start_job()
    runner.run(batch(1))
    return runner.ran[0]


@hypothesis_settings(
    max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    trouble=st.lists(st.sampled_from([None, None, REFUSED, BUSY]), min_size=1, max_size=12),
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=12),
)
def test_every_batch_is_answered_once_and_in_order(
    runner: ModelRunner,
    graph: OnnxRunner,
    behaviour: Behaviour,
    server: KServe,
    trouble: list[grpc.StatusCode | None],
    sizes: list[int],
) -> None:
    behaviour.fail = always(None)
    wait_for("closed")
    first = server.asked
    behaviour.fail = lambda number: trouble[(number - first) % len(trouble)]
    batches = [batch(size, seed) for seed, size in enumerate(sizes)]
    answers = list(run_each(runner, iter(batches)))
    assert len(answers) == len(batches)
    for answer, inputs in zip(answers, batches, strict=True):
        expected = graph.run(inputs)
        assert all(np.allclose(answer[name], expected[name], atol=1e-5) for name in expected)


def test_without_the_client_the_model_runs_here_and_says_why(
    config: Config, graph: OnnxRunner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient.grpc.service_pb2", None)
    runners = model_runners(config)
    wait_for("refused")
    assert not on_server(runners.for_job("head-ct-triage"), graph)
    runners.close()
    (told,) = (record for record in caplog.records if record.message == "triton_circuit")
    assert "the extra `triton`" in vars(told)["reason"]


def test_a_package_without_golden_inputs_cannot_be_verified(
    config: Config, behaviour: Behaviour, graph: OnnxRunner
) -> None:
    (package,) = load_packages(config)
    manifest = package.manifest.model_copy(update={"engine": None})
    runners = model_runners(config, [type(package)(manifest, package.pipeline, package.weights)])
    wait_for("refused")
    assert not on_server(runners.for_job("head-ct-triage"), graph)
    runners.close()


def test_the_commands_say_which_server_runs_a_model(
    config: Config, server: KServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = models_report(config)
    assert row["runtime"] == f"triton at 127.0.0.1:{server.port}, or onnxruntime-cpu"
    assert check(config) == []
    monkeypatch.setattr(preflight, "client_installed", lambda: False)
    assert check(config) == [
        "inference.triton: the extra `triton` is not installed, so that ONNX Runtime runs all models"
    ]
    assert server.batches == []
