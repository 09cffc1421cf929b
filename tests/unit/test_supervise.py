"""The supervisor with real child processes: restart, hang, misconfiguration, order of stopping."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.config.load import load
from appliance.services.supervise import STEADY_S, failures_in_a_row, is_silent, limits
from tests.support.processes import ROOT, wait_until
from tests.support.running import ENVIRONMENT

SUPERVISOR = """
import sys
from pathlib import Path
from appliance.observe import exposition, log
from appliance.observe.process import Process
from appliance.services.supervise import Limits, Worker, supervise
folder = Path(sys.argv[1])
log.configure("run", "info")
process = Process("run", folder / "run")
exposition.expose(folder / "run", "run")
command = [sys.executable, str(folder / "worker.py"), str(folder)]
workers = [
    Worker(name, Limits(4.0, 5.0), [*command, name], folder / "run") for name in ("receive", "infer")
]
sys.exit(supervise(process, workers, "ready: all"))
"""

WORKER = """
import os, sys
from pathlib import Path
from appliance.observe.process import Process
folder, name = Path(sys.argv[1]), sys.argv[2]
process = Process(name, folder / "run")
def note(event):
    with (folder / "events").open("a") as events:
        events.write(f"{name} {event} {os.getpid()}\\n")
if (folder / f"{name}.misconfigured").exists():
    sys.exit(2)
note("start")
process.ready()
while not process.stopping.is_set():
    if not (folder / f"{name}.hang").exists():
        process.alive()
    process.wait(0.2)
note("stop")
"""


class Supervised:
    """A supervisor with the two workers `receive` and `infer`, and what they wrote down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "worker.py").write_text(WORKER)
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SUPERVISOR, str(folder)],
                env=ENVIRONMENT,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def events(self, event: str) -> list[tuple[str, int]]:
        """Names and process ids of those who wrote `event`, in order."""
        path = self.folder / "events"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(name, int(number)) for name, word, number in lines if word == event]

    def pids(self, name: str) -> list[int]:
        """The process ids that `name` has had."""
        return [number for started, number in self.events("start") if started == name]

    def ready(self) -> bytes:
        """The first line on standard output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self) -> tuple[int, bytes]:
        """Wait for the end; returns the exit status and the rest of standard output."""
        rest, _ = self.process.communicate(timeout=20)
        return self.process.returncode, rest


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    started = Supervised(tmp_path)
    yield started
    if started.process.poll() is None:
        started.process.kill()
    started.process.communicate()


def test_it_says_once_that_all_are_ready_and_stops_them_in_order(supervised: Supervised) -> None:
    assert supervised.ready() == b"ready: all\n"
    supervised.process.terminate()
    assert supervised.end() == (0, b"")
    assert [name for name, _ in supervised.events("stop")] == ["receive", "infer"]


def test_a_process_that_is_killed_is_restarted_and_the_others_are_left_alone(supervised: Supervised) -> None:
    supervised.ready()
    os.kill(supervised.pids("infer")[0], signal.SIGKILL)
    wait_until(lambda: len(supervised.pids("infer")) == 2, 10, "infer is started again")
    assert len(supervised.pids("receive")) == 1
    supervised.process.terminate()
    assert supervised.end() == (0, b"")
    assert "a process died and is restarted" in supervised.log.read_text()


@pytest.mark.slow
def test_a_process_that_hangs_is_killed_and_restarted(supervised: Supervised) -> None:
    supervised.ready()
    hang = supervised.folder / "infer.hang"
    hang.touch()
    wait_until(lambda: "a process hangs" in supervised.log.read_text(), 20, "the hang is noticed")
    hang.unlink()
    wait_until(lambda: len(supervised.pids("infer")) >= 2, 10, "infer is started again")
    assert len(supervised.pids("receive")) == 1
    assert not is_running(supervised.pids("infer")[0])


def test_a_misconfigured_process_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "infer.misconfigured").touch()
    supervised = Supervised(tmp_path)
    assert supervised.end() == (2, b"")
    assert [name for name, _ in supervised.events("start")] == [name for name, _ in supervised.events("stop")]


def test_a_process_that_becomes_misconfigured_later_stops_nothing_else(supervised: Supervised) -> None:
    supervised.ready()
    fault = supervised.folder / "infer.misconfigured"
    fault.touch()
    os.kill(supervised.pids("infer")[0], signal.SIGKILL)
    wait_until(lambda: '"code": 2' in supervised.log.read_text(), 10, "infer refuses to start")
    fault.unlink()
    wait_until(lambda: len(supervised.pids("infer")) == 2, 10, "infer is started again")
    assert len(supervised.pids("receive")) == 1
    assert supervised.process.poll() is None


def test_the_processes_die_with_their_supervisor(supervised: Supervised) -> None:
    supervised.ready()
    children = supervised.pids("receive") + supervised.pids("infer")
    assert all(map(is_running, children))
    supervised.process.kill()
    wait_until(lambda: not any(map(is_running, children)), 10, "both processes are gone")


def test_ctrl_c_reaches_only_the_supervisor(supervised: Supervised) -> None:
    supervised.ready()
    for pid in supervised.pids("receive") + supervised.pids("infer"):
        os.kill(pid, signal.SIGINT)
    supervised.process.send_signal(signal.SIGINT)
    assert supervised.end() == (0, b"")
    assert [name for name, _ in supervised.events("stop")] == ["receive", "infer"]


def test_receiving_stops_first_and_the_monitor_last() -> None:
    config = load(ROOT / "config" / "site.yaml")
    assert list(limits(config)) == ["receive", "plan", "infer", "forward", "monitor"]
    assert limits(config)["infer"].silence_s == config.inference.step_s


def test_a_steady_life_clears_earlier_failures() -> None:
    assert failures_in_a_row(0, 0.1) == 1
    assert failures_in_a_row(4, STEADY_S - 1) == 5
    assert failures_in_a_row(4, STEADY_S) == 1


def test_a_process_may_take_long_before_it_is_ready() -> None:
    assert is_silent(121, ready=True, silence_s=120)
    assert not is_silent(119, ready=True, silence_s=120)
    assert not is_silent(121, ready=False, silence_s=120)
    assert is_silent(10_000, ready=False, silence_s=120)
