"""Bells, readiness, metrics and the log, over real sockets and processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.domain.errors import Misconfigured
from appliance.observe import exposition, process, sockets
from appliance.observe.log import hashed
from appliance.observe.process import Process, ring
from tests.support.processes import wait_until
from tests.support.running import ENVIRONMENT


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    """A folder whose path alone is longer than an address of a Unix socket."""
    return tmp_path / ("long" * 30) / "run"


@pytest.fixture
def plan(run_directory: Path) -> Iterator[Process]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    started = Process("plan", run_directory)
    yield started
    started.close()
    for number, handler in handlers.items():
        signal.signal(number, handler)


def seconds_in_wait(waiting: Process, limit: float) -> float:
    begin = time.monotonic()
    waiting.wait(limit)
    return time.monotonic() - begin


def test_the_bell_ends_a_wait(plan: Process, run_directory: Path) -> None:
    threading.Timer(0.1, ring, (run_directory, "plan")).start()
    assert 0.05 < seconds_in_wait(plan, 10) < 5


def test_a_bell_that_rang_before_the_wait_is_not_lost_and_rings_once(
    plan: Process, run_directory: Path
) -> None:
    for _ in range(3):
        ring(run_directory, "plan")
    assert seconds_in_wait(plan, 10) < 5
    assert seconds_in_wait(plan, 0.2) >= 0.19


def test_ringing_never_blocks(plan: Process, run_directory: Path) -> None:
    begin = time.monotonic()
    for _ in range(2000):
        ring(run_directory, "plan")
    assert time.monotonic() - begin < 5
    ring(run_directory, "nobody")


def test_a_wait_ends_with_time(plan: Process) -> None:
    assert 0.19 <= seconds_in_wait(plan, 0.2) < 5
    assert seconds_in_wait(plan, -1) < 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_wait_for_good(plan: Process, number: int) -> None:
    threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
    assert seconds_in_wait(plan, 10) < 5
    assert plan.stopping.is_set()
    assert seconds_in_wait(plan, 10) < 1


def test_a_wait_also_ends_for_a_descriptor(plan: Process) -> None:
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.send(b"x")
        begin = time.monotonic()
        plan.wait(10, also=[reader.fileno()])
        assert time.monotonic() - begin < 5


def test_two_processes_cannot_have_one_name(
    plan: Process, run_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LOCK_PATIENCE_S", 0.1)
    with pytest.raises(Misconfigured, match="another plan process"):
        Process(plan.name, run_directory)
    # The refused one left the first one's bell alone.
    ring(run_directory, "plan")
    assert seconds_in_wait(plan, 10) < 5


def test_the_supervisor_hears_ready_and_alive(
    plan: Process, run_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sockets.bind(run_directory / "notify", socket.SOCK_DGRAM) as supervisor:
        supervisor.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(run_directory / "notify"))
        plan.ready()
        for _ in range(100):
            plan.alive()
        assert supervisor.recv(100) == b"READY=1"
        assert supervisor.recv(100) == b"WATCHDOG=1"
        supervisor.setblocking(False)
        with pytest.raises(BlockingIOError):
            supervisor.recv(100)


def test_the_supervisor_may_listen_on_an_abstract_socket(
    plan: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.settimeout(5)
        supervisor.bind(f"\0appliance-test-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@appliance-test-{os.getpid()}")
        plan.ready()
        assert supervisor.recv(100) == b"READY=1"


def test_a_supervisor_that_does_not_listen_holds_nothing_up(
    plan: Process, run_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "ALIVE_INTERVAL_S", 0.0)
    with sockets.bind(run_directory / "notify", socket.SOCK_DGRAM):
        monkeypatch.setenv("NOTIFY_SOCKET", str(run_directory / "notify"))
        begin = time.monotonic()
        for _ in range(1000):
            plan.alive()
        os.kill(os.getpid(), signal.SIGTERM)
        plan.wait(10)
        assert plan.stopping.is_set()
        assert time.monotonic() - begin < 10


def test_a_supervisor_that_is_gone_does_no_harm(
    plan: Process, run_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(run_directory / "nowhere"))
    plan.ready()
    plan.alive()
    assert not plan.stopping.is_set()


EXPOSING = """
import sys
from pathlib import Path
from appliance.observe import exposition, metrics
from appliance.observe.process import Process
process = Process(sys.argv[2], Path(sys.argv[1]))
metrics.INSTANCES_RECEIVED.labels(outcome="stored").inc(int(sys.argv[3]))
metrics.RECEIVE_SECONDS.observe(0.02)
exposition.expose(Path(sys.argv[1]), sys.argv[2])
process.ready()
while not process.stopping.is_set():
    process.wait(60)
"""


def test_the_metrics_of_all_processes_become_one_page(run_directory: Path) -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", EXPOSING, str(run_directory), name, count], env=ENVIRONMENT)
        for name, count in (("receive", "3"), ("plan", "4"))
    ]
    try:
        for name in ("receive", "plan"):
            wait_until(lambda name=name: exposition.answers(run_directory, name), 20, f"{name} answers")  # type: ignore[misc]
        page = exposition.exposition(exposition.collect(run_directory, ["receive", "plan", "infer"])).decode()
    finally:
        for child in running:
            child.terminate()
        assert [child.wait(20) for child in running] == [0, 0]
    assert 'appliance_process_up{process="receive"} 1.0' in page
    assert 'appliance_process_up{process="infer"} 0.0' in page
    assert 'appliance_instances_received_total{outcome="stored",process="receive"} 3.0' in page
    assert 'appliance_instances_received_total{outcome="stored",process="plan"} 4.0' in page
    assert 'appliance_receive_seconds_bucket{le="0.025",process="plan"} 1.0' in page
    assert page.count("# TYPE appliance_instances_received_total counter") == 1
    assert "_created" not in page
    assert not exposition.answers(run_directory, "receive")


LOGGING = """
import logging, sys, threading, warnings
from appliance.domain.errors import GiveUp
from appliance.observe import log
log.configure("receive", "info")
own = logging.getLogger("appliance.services.receiving.receive")
own.debug("not shown")
own.info("stored", extra={"series": log.hashed("1.2.3"), "size": 7})
logging.getLogger("pynetdicom.assoc").error("Requestor DOE^JANE")
logging.getLogger("pynetdicom.assoc").info("not shown")
warnings.warn("Invalid value for VR PN: DOE^JANE", UserWarning)
try:
    try:
        raise ValueError("DOE^JANE")
    except ValueError as error:
        raise GiveUp("the object cannot be read") from error
except GiveUp:
    own.exception("failed")
def fail():
    raise KeyError("DOE^JANE")
thread = threading.Thread(target=fail)
thread.start()
thread.join()
raise OSError(28, "No space left on device", "/spool/DOE^JANE")
"""


def test_the_log_is_json_without_patient_data() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", LOGGING], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 1
    assert "DOE" not in answer.stderr + answer.stdout
    lines = [json.loads(line) for line in answer.stderr.splitlines()]
    assert {line["process"] for line in lines} == {"receive"}
    stored, library, warning, failed, thread, uncaught = lines
    assert (stored["message"], stored["size"], stored["series"]) == ("stored", 7, hashed("1.2.3"))
    assert library["message"].startswith("message withheld, from ")
    assert (warning["logger"], warning["level"]) == ("py.warnings", "warning")
    assert failed["exception"][0].startswith("GiveUp: the object cannot be read in ")
    assert failed["exception"][1].startswith("ValueError in ")
    assert thread["exception"][0].startswith("KeyError in <string>.fail:")
    assert uncaught["exception"][0].startswith("OSError: No space left on device in ")


def test_a_hash_stands_for_one_uid() -> None:
    assert hashed("1.2.840.113619") == hashed("1.2.840.113619")
    assert hashed("1.2.840.113619") != hashed("1.2.840.113618")
    assert len(hashed("1.2.3")) == 12
