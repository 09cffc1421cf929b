"""A real Triton server without a GPU, shared by two appliances: killed, restarted, with the wrong model."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydicom import dcmread

pytest.importorskip("tritonclient.grpc", reason="the extra `triton` is not installed")

from appliance.config.triton import Triton
from appliance.models.manifest import load_manifest
from appliance.runtime.golden import read_golden
from appliance.runtime.onnx import OnnxRunner
from appliance.runtime.parity import compare
from appliance.runtime.triton import TritonRunner
from appliance.runtime.triton_client import AnotherModel
from tests.support import faulty_models
from tests.support.pacs import StoreScp
from tests.support.processes import ROOT, free_port, wait_until
from tests.support.running import ENVIRONMENT, RunningAppliance
from tests.support.scanner import send_verbatim
from tests.support.settling import finish, metric, take_in
from tests.support.triton_server import TritonServer

pytestmark = pytest.mark.slow

MODEL = "head-ct-triage"
PACKAGE = ROOT / "engines" / MODEL
MANIFEST = load_manifest(PACKAGE)
SHA256 = MANIFEST.weights.sha256
REPORT = "1.2.840.10008.5.1.4.1.1.88.34"
SERVED = f"triton 2.51.0 {MODEL}/1 sha256:{SHA256}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TritonServer]:
    server = TritonServer(tmp_path / "triton", {MODEL: PACKAGE / "model.onnx"}, {"sha256": SHA256})
    yield server
    server.kill()


class Appliance:
    """The models of one appliance in a process of its own, and what ran its batches."""

    def __init__(self, folder: Path, port: int, *, shared_memory: bool) -> None:
        folder.mkdir()
        content = {
            "station": {"ae_title": "EDGE"},
            "listener": {"port": free_port()},
            "storage": {"path": "./var"},
            "destinations": {"pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": free_port()}},
            "pipelines": [{"model": MODEL, "destinations": ["pacs"]}],
            "inference": {
                "threads": 1,
                "runtime": "triton",
                "triton": {"host": "127.0.0.1", "port": port, "shared_memory": shared_memory},
            },
            "monitor": {"port": free_port()},
        }
        (folder / "site.yaml").write_text(yaml.safe_dump(content))
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.batch_loop", str(folder / "site.yaml")],
                cwd=ROOT,
                env={**ENVIRONMENT, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self.batches: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.batches.append(json.loads(line))

    def wait_for(self, ran: str) -> None:
        """Until the newest batches ran there."""
        wait_until(
            lambda: len(self.batches) > 2 and all(ran in each["ran"] for each in self.batches[-3:]),
            60.0,
            f"batches run on {ran}; the log ends:\n{self.log.read_text()[-1500:]}",
        )

    def wait_until_refused(self) -> None:
        """Until the log says that the server has another model; batches go on."""
        refused = "the server's model answers otherwise than ONNX Runtime"
        wait_until(lambda: refused in self.log.read_text(), 60.0, "the model is refused")
        self.wait_for("onnxruntime-cpu")

    def stop(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        self.process.stdin.close()
        status = self.process.wait(30.0)
        self._reader.join()
        self.process.stdout.close()
        assert status == 0, self.log.read_text()[-3000:]
        for line in self.log.read_text().splitlines():  # also what gRPC would have to say
            assert json.loads(line)["level"]


def test_two_appliances_share_a_server_that_dies_and_comes_back(server: TritonServer, tmp_path: Path) -> None:
    appliances = [
        Appliance(tmp_path / "one", server.port, shared_memory=False),
        Appliance(tmp_path / "two", server.port, shared_memory=True),
    ]
    try:
        for appliance in appliances:
            appliance.wait_for("onnxruntime-cpu")  # nobody waits for a server
        server.start()
        for appliance in appliances:
            appliance.wait_for(SERVED)
        server.kill()
        for appliance in appliances:
            appliance.wait_for("onnxruntime-cpu")
        server.start()
        for appliance in appliances:
            appliance.wait_for(SERVED)
        server.kill()
        (server.folder / "sound.onnx").write_bytes(faulty_models.sound())
        server.put(MODEL, server.folder / "sound.onnx")  # the same tensors, but it finds nothing, ever
        server.start()
        for appliance in appliances:
            appliance.wait_until_refused()
    finally:
        for appliance in appliances:
            appliance.stop()
    assert MANIFEST.engine is not None
    for batch in (batch for appliance in appliances for batch in appliance.batches):
        assert all(batch["worst"][name] <= limit for name, limit in MANIFEST.engine.parity.items()), batch
    assert not list(Path("/dev/shm").glob(f"appliance-*-{MODEL}-*"))


@pytest.mark.parametrize("shared_memory", [False, True])
def test_it_answers_as_onnx_runtime_does(server: TritonServer, *, shared_memory: bool) -> None:
    server.start()
    graph = OnnxRunner(PACKAGE / "model.onnx", threads=1, cpu_only=True)
    settings = Triton(host="127.0.0.1", port=server.port, shared_memory=shared_memory)
    runner = TritonRunner(settings, MODEL, signature=graph.signature, sha256=SHA256, owner="test")
    rules = MANIFEST.engine
    assert rules is not None
    golden = read_golden(PACKAGE / rules.golden.file, rules.golden.sha256)
    for _ in range(2):  # the second time the shapes of the outputs are known
        assert compare(runner, graph, golden, (), rules.parity).passed
    assert runner.sharing is shared_memory
    assert runner.ran == SERVED
    runner.close()


def test_another_model_under_the_name_is_refused(server: TritonServer) -> None:
    server.put(MODEL, ROOT / "engines" / "ct-denoise" / "model.onnx")
    server.start()
    graph = OnnxRunner(PACKAGE / "model.onnx", threads=1, cpu_only=True)
    settings = Triton(host="127.0.0.1", port=server.port)
    with pytest.raises(AnotherModel, match=r"has the inputs \['strength', 'x'\]"):
        TritonRunner(settings, MODEL, signature=graph.signature, sha256=SHA256, owner="test")


def test_results_name_the_server_that_ran_the_model(
    server: TritonServer, tmp_path: Path, bleed: list[Path]
) -> None:
    server.start()
    pacs = StoreScp(tmp_path / "pacs").start()
    triton = {"host": "127.0.0.1", "port": server.port, "shared_memory": True}
    settings = {
        "pipelines": [{"model": MODEL, "destinations": ["pacs"], "runtime": "triton"}],
        "inference": {"threads": 1, "triton": triton},
    }
    appliance = RunningAppliance(tmp_path / "edge", pacs_port=pacs.port, settings=settings).start()
    try:
        wait_until(partial(is_closed, appliance), 60.0, "the server runs the model")
        take_in(appliance, len(bleed), partial(send_verbatim, bleed, appliance.port))
        finish(appliance)
        assert not metric(appliance, "appliance_triton_fallbacks_total")
    finally:
        appliance.stop()
        pacs.stop()
    reports = [one for one in map(dcmread, pacs.files) if one.SOPClassUID == REPORT]
    assert reports
    for report in reports:
        versions = report.ContributingEquipmentSequence[-1].SoftwareVersions
        assert [one for one in versions if one.startswith(("triton", "onnx"))] == [SERVED[:64]]


def is_closed(appliance: RunningAppliance) -> bool:
    return metric(appliance, "appliance_triton_circuit_state", 'state="closed"') == 1
