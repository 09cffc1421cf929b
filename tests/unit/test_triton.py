"""Models on a server of KServe v2: over a real gRPC connection, with a server that does what a test wants."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tritonclient.grpc", reason="the extra `triton` is not installed")

import grpc

from appliance.config.tls import DestinationTLS
from appliance.config.triton import Triton, TritonModel
from appliance.domain.errors import GiveUp
from appliance.runtime.base import Tensors, Unavailable
from appliance.runtime.onnx import OnnxRunner
from appliance.runtime.shared_memory import Region, layout
from appliance.runtime.triton import TritonRunner
from appliance.runtime.triton_client import AnotherModel, ServerFault
from tests.support.certificates import certificates
from tests.support.kserve import Behaviour, KServe, Outputs
from tests.support.processes import ROOT, free_port, wait_until

PACKAGE = ROOT / "engines" / "head-ct-triage"
SHM = Path("/dev/shm")
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


def settings(server: KServe, **others: Any) -> Triton:
    return Triton(**{"host": "127.0.0.1", "port": server.port, "timeout_s": 10.0, **others})


@pytest.fixture
def connect(server: KServe, graph: OnnxRunner) -> Iterator[Callable[..., TritonRunner]]:
    runners: list[TritonRunner] = []

    def connected(owner: str = "test", **others: Any) -> TritonRunner:
        runners.append(
            TritonRunner(
                settings(server, **others),
                "head-ct-triage",
                signature=graph.signature,
                sha256=graph.sha256,
                owner=owner,
            )
        )
        return runners[-1]

    yield connected
    for runner in runners:
        runner.disconnect()


def batch(count: int, seed: int = 0) -> Tensors:
    values = np.random.default_rng(seed)
    return {
        "hu": values.uniform(-100.0, 100.0, (count, 1, 128, 128)).astype(np.float32),
        "hull": np.ones((count, 1, 128, 128), np.float32),
        "levels": values.uniform(0.0, 1.0, (count, 4)).astype(np.float32),
    }


def same(one: Outputs, other: Outputs) -> bool:
    return set(one) == set(other) and all(np.array_equal(one[name], other[name]) for name in one)


def test_the_server_answers_as_the_graph_does(
    connect: Callable[..., TritonRunner], graph: OnnxRunner
) -> None:
    runner = connect()
    batches = [batch(count, count) for count in (1, 3, 2, 1)]
    assert all(map(same, runner.run_each(batches), map(graph.run, batches)))
    assert same(runner.run(batches[0]), graph.run(batches[0]))
    assert runner.ran == "triton 2.51.0 head-ct-triage/1"
    runner.close()


def test_a_server_that_names_the_file_is_held_to_it(
    connect: Callable[..., TritonRunner], behaviour: Behaviour, graph: OnnxRunner
) -> None:
    behaviour.sha256 = graph.sha256.upper()
    assert connect().ran == f"triton 2.51.0 head-ct-triage/1 sha256:{graph.sha256}"
    behaviour.sha256 = "0" * 64
    with pytest.raises(AnotherModel, match="says that it is 0000"):
        connect()


def test_the_highest_version_is_used_unless_one_is_named(
    connect: Callable[..., TritonRunner], behaviour: Behaviour
) -> None:
    behaviour.versions, behaviour.name = ["9", "10", "2"], "bleed"
    assert connect(models={"head-ct-triage": TritonModel(name="bleed")}).served.version == "10"
    behaviour.versions = []
    assert connect(models={"head-ct-triage": TritonModel(name="bleed")}).ran == "triton 2.51.0 bleed"
    behaviour.versions = ["9"]
    named = {"head-ct-triage": TritonModel(name="bleed", version="9")}
    assert connect(models=named).ran == "triton 2.51.0 bleed/9"
    with pytest.raises(ServerFault, match="NOT_FOUND"):
        connect()


def test_a_server_of_the_protocol_alone_will_do(
    connect: Callable[..., TritonRunner], behaviour: Behaviour, graph: OnnxRunner
) -> None:
    behaviour.configuration = behaviour.sharing = False
    behaviour.server = "2026.1 of \u00e4 <b>server</b>" + "x" * 99
    runner = connect(shared_memory=True)
    assert same(runner.run(batch(2)), graph.run(batch(2)))
    assert runner.name == "triton 2026.1ofbserverb" + "x" * 16
    assert not runner.sharing


def test_large_batches_go_in_parts(
    connect: Callable[..., TritonRunner], behaviour: Behaviour, server: KServe, graph: OnnxRunner
) -> None:
    behaviour.most = 2
    batches = [batch(5), batch(1, 1), batch(2, 2)]
    assert all(map(same, connect().run_each(batches), map(graph.run, batches)))
    assert sorted(server.batches) == [1, 1, 2, 2, 2]


def without(metadata: Any) -> Any:
    del metadata.outputs[0]
    return metadata


def as_halves(metadata: Any) -> Any:
    metadata.inputs[0].datatype = "FP16"
    return metadata


def smaller(metadata: Any) -> Any:
    metadata.inputs[0].shape[2] = 64
    return metadata


@pytest.mark.parametrize(
    ("tell", "words"),
    [
        (without, r"has the outputs \['distance', 'heat'\]"),
        (as_halves, "is FP16, not FP32"),
        (smaller, r"has the shape \(-1, 1, 64, 128\)"),
    ],
)
def test_another_model_is_refused_by_its_tensors(
    connect: Callable[..., TritonRunner], behaviour: Behaviour, tell: Callable[[Any], Any], words: str
) -> None:
    behaviour.tell = tell
    with pytest.raises(AnotherModel, match=words):
        connect()


def test_a_server_that_is_away_or_not_ready(
    connect: Callable[..., TritonRunner], server: KServe, behaviour: Behaviour
) -> None:
    behaviour.ready = False
    with pytest.raises(ServerFault, match="is not ready"):
        connect()
    server.stop()
    with pytest.raises(ServerFault) as caught:
        connect()
    assert caught.value.cause == "unreachable"


def test_a_server_that_does_not_answer_in_time(
    connect: Callable[..., TritonRunner], behaviour: Behaviour
) -> None:
    runner = connect(timeout_s=0.3)
    behaviour.hang = Event()
    with pytest.raises(ServerFault) as caught:
        runner.run(batch(1))
    behaviour.hang.set()
    assert caught.value.cause == "deadline"


def test_a_batch_that_the_server_refuses_concerns_nothing_else(
    connect: Callable[..., TritonRunner], behaviour: Behaviour, graph: OnnxRunner
) -> None:
    behaviour.fail = lambda number: REFUSED if number == 0 else None
    runner = connect()
    with pytest.raises(GiveUp, match="refuses a batch"):
        runner.run(batch(1))
    assert same(runner.run(batch(1)), graph.run(batch(1)))
    behaviour.fail = lambda _number: BUSY
    with pytest.raises(ServerFault, match="RESOURCE_EXHAUSTED") as caught:
        runner.run(batch(1))
    assert caught.value.cause == "failed"


def as_text(response: Any) -> Any:
    del response.raw_output_contents[:]
    return response


def cut_off(response: Any) -> Any:
    response.raw_output_contents[0] = response.raw_output_contents[0][:-1]
    return response


def of_another_version(response: Any) -> Any:
    response.model_version = "2"
    return response


def nameless(response: Any) -> Any:
    response.outputs[0].name = "other"
    return response


def of_fewer_images(response: Any) -> Any:
    response.outputs[0].shape[0] -= 1
    return response


@pytest.mark.parametrize("answer", [as_text, cut_off, of_another_version, nameless, of_fewer_images])
def test_nonsense_is_no_answer(
    connect: Callable[..., TritonRunner], behaviour: Behaviour, answer: Callable[[Any], Any]
) -> None:
    runner = connect()
    behaviour.answer = answer
    with pytest.raises(ServerFault) as caught:
        runner.run(batch(2))
    assert caught.value.cause == "answer"


def is_lost(runner: TritonRunner) -> bool:
    try:
        runner.check()
    except ServerFault as error:
        return "lost" in str(error)
    return False


def test_values_that_are_not_finite_are_no_answer(
    connect: Callable[..., TritonRunner], behaviour: Behaviour
) -> None:
    runner = connect(shared_memory=True)
    list(runner.run_each([batch(1)] * 2))
    behaviour.alter = lambda outputs: {**outputs, "heat": outputs["heat"] * np.float32(np.nan)}
    for size in (1, 2):  # in shared memory, and sent
        with pytest.raises(ServerFault, match="not finite") as caught:
            runner.run(batch(size))
        assert caught.value.cause == "answer"


def test_a_connection_that_broke_is_not_trusted_again(
    connect: Callable[..., TritonRunner], server: KServe, graph: OnnxRunner
) -> None:
    """Whoever listens there now may be another server, with another model."""
    runner = connect()
    runner.run(batch(1))
    server.stop()
    server.start()
    wait_until(lambda: is_lost(runner), 5.0, "the connection is known to be lost")
    with pytest.raises(ServerFault, match="lost"):
        runner.run(batch(1))
    assert same(connect().run(batch(1)), graph.run(batch(1)))


def test_what_is_on_its_way_fails_when_another_thread_disconnects(
    connect: Callable[..., TritonRunner], behaviour: Behaviour
) -> None:
    runner = connect()
    behaviour.hang = Event()
    answers = runner.run_each([batch(1), batch(1)])

    def disconnecting(response: Any) -> Any:
        runner.disconnect()
        return response

    behaviour.answer = disconnecting
    behaviour.hang.set()
    with pytest.raises(ServerFault):
        list(answers)
    with pytest.raises(ServerFault):
        runner.run(batch(1))


@pytest.mark.parametrize("shared_memory", [False, True])
def test_an_iteration_that_nobody_finished_disturbs_no_other(
    connect: Callable[..., TritonRunner], graph: OnnxRunner, *, shared_memory: bool
) -> None:
    runner = connect(shared_memory=shared_memory)
    list(runner.run_each([batch(1)] * 4))
    unfinished = runner.run_each([batch(1, seed) for seed in range(4)])
    next(unfinished)
    batches = [batch(1, seed) for seed in range(10, 14)]
    answers = runner.run_each(batches)
    first = next(answers)
    del unfinished
    assert all(map(same, [first, *answers], map(graph.run, batches)))


def test_the_parts_of_a_batch_share_its_time(
    connect: Callable[..., TritonRunner], behaviour: Behaviour
) -> None:
    behaviour.most = 1
    runner = connect(timeout_s=1.0)

    def slowly(outputs: Outputs) -> Outputs:
        time.sleep(0.3)
        return outputs

    behaviour.alter = slowly
    began = time.monotonic()
    with pytest.raises(ServerFault) as caught:
        runner.run(batch(16))
    assert caught.value.cause == "deadline"
    assert time.monotonic() - began < 2.5


def test_tls_proves_both_sides(tmp_path: Path, graph: OnnxRunner) -> None:
    certificates(tmp_path, "server", "edge", alternative="DNS:gpu.example")
    read = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    credentials = grpc.ssl_server_credentials(
        [(read["server.key"], read["server.pem"])], read["ca.pem"], require_client_auth=True
    )
    server = KServe(graph, Behaviour(), credentials).start()
    arguments: dict[str, Any] = {"signature": graph.signature, "sha256": graph.sha256, "owner": "test"}
    tls: dict[str, Any] = {"ca": tmp_path / "ca.pem", "name": "gpu.example"}
    own: dict[str, Any] = {"certificate": tmp_path / "edge.pem", "key": tmp_path / "edge.key"}
    try:
        sure = settings(server, tls=DestinationTLS(**tls, **own))
        runner = TritonRunner(sure, "head-ct-triage", **arguments)
        assert same(runner.run(batch(1)), graph.run(batch(1)))
        runner.close()
        for others in (
            DestinationTLS(**tls),
            DestinationTLS(**{**tls, **own, "name": "other.example"}),
            None,
        ):
            with pytest.raises(ServerFault) as caught:
                TritonRunner(settings(server, tls=others), "head-ct-triage", **arguments)
            assert caught.value.cause == "unreachable"
    finally:
        server.stop()


def test_without_the_client_the_runtime_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, graph: OnnxRunner
) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient.grpc.service_pb2", None)
    with pytest.raises(Unavailable, match="the extra `triton`"):
        TritonRunner(
            Triton(host="127.0.0.1", port=free_port()),
            "head-ct-triage",
            signature=graph.signature,
            sha256="",
            owner="",
        )


def own_files() -> list[str]:
    return [path.name for path in SHM.iterdir() if path.name.startswith("appliance-test")]


def test_images_are_handed_over_in_shared_memory(
    connect: Callable[..., TritonRunner], server: KServe, graph: OnnxRunner
) -> None:
    runner = connect(shared_memory=True)
    batches = [batch(2, seed) for seed in range(6)] + [batch(4), batch(4, 1), batch(4, 2), batch(2)]
    assert all(map(same, runner.run_each(batches), map(graph.run, batches)))
    assert runner.sharing
    assert server.used.count("") <= 4  # the first of each shape are sent, two at a time
    assert len(server.regions) == 2
    assert own_files() == []  # nothing is left behind, whatever happens now
    runner.close()
    assert server.regions == {}


def test_regions_of_a_life_before_are_forgotten_and_those_of_others_kept(
    connect: Callable[..., TritonRunner], server: KServe
) -> None:
    dead, other = connect(shared_memory=True), connect(owner="test2", shared_memory=True)
    for runner in (dead, other):
        list(runner.run_each([batch(1)] * 4))
    kept = {name for name in server.regions if name.startswith("appliance-test2-")}
    assert len(kept) < len(server.regions)
    connect(shared_memory=True)
    assert set(server.regions) == kept


def test_without_its_memory_a_batch_is_sent(
    connect: Callable[..., TritonRunner], server: KServe, behaviour: Behaviour, graph: OnnxRunner
) -> None:
    runner = connect(shared_memory=True)
    list(runner.run_each([batch(1)] * 4))
    server.regions.clear()  # the server has an error for that which is all its own
    assert same(runner.run(batch(1)), graph.run(batch(1)))
    list(runner.run_each([batch(1)] * 4))
    assert not runner.sharing
    assert same(runner.run(batch(1)), graph.run(batch(1)))


def test_memory_that_may_still_be_written_is_not_used_again(
    connect: Callable[..., TritonRunner], behaviour: Behaviour, server: KServe
) -> None:
    runner = connect(shared_memory=True, timeout_s=0.5)
    list(runner.run_each([batch(1)] * 4))
    behaviour.hang = given_up = Event()
    with pytest.raises(ServerFault):
        runner.run(batch(1))
    behaviour.hang = None
    list(runner.run_each([batch(1)] * 4))
    given_up.set()
    wait_until(lambda: len(server.batches) == 9, 5.0, "the server has finished all")
    late = server.used.pop()
    assert late not in server.used[-4:]
    assert late in server.used


def test_shared_memory_that_is_not_there_is_an_error_at_once() -> None:
    region = Region("appliance-test-region", 4096)
    with pytest.raises(FileExistsError):
        Region("appliance-test-region", 4096)
    region.write(256, np.arange(4, dtype=np.float32))
    assert region.read(256, (2, 2)).tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert (SHM / region.name).stat().st_mode & 0o777 == 0o600
    region.unlink()
    with pytest.raises(OSError, match=r"No space left|Cannot allocate|File too large"):
        Region("appliance-test-region", 1 << 50)
    assert own_files() == []


def test_tensors_lie_one_behind_the_other() -> None:
    places, size = layout([(1, 5), (2, 16), (3,)])
    assert places == [(0, 20), (64, 128), (192, 12)]
    assert size == 256
