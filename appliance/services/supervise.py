"""`appliance run`: start the processes, restart what dies or hangs, stop them in order.

It does in the foreground what systemd does with the units in `systemd/`, over the same sd_notify(3)
messages, so the processes cannot tell the difference.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from appliance.config.schema import Config
from appliance.domain.policy import backoff_s
from appliance.observe import exposition, metrics, sockets
from appliance.observe.process import SUPERVISOR_VARIABLE, Process

_log = logging.getLogger(__name__)

MISCONFIGURED = 2
"""Exit code of a process whose configuration cannot work: there is no use in starting it again."""

STEADY_S = 60.0
RESTART_MINIMUM_S = 0.2
RESTART_MAXIMUM_S = 30.0
START_PATIENCE_S = 600.0


@dataclass(frozen=True)
class Limits:
    """How long a process may be silent while it works, and how long it may take to stop."""

    silence_s: float
    drain_s: float


def subcommand(name: str) -> list[str]:
    """The command line words that start the process `name`."""
    duty, _, number = name.partition("-")
    return [duty, "--number", number] if number else [duty]


def limits(config: Config) -> dict[str, Limits]:
    """The processes and their limits, in the order in which they are stopped."""
    step_s, dimse_s = config.inference.step_s, config.delivery.dimse_timeout_s
    return {
        **{name: Limits(silence_s=60.0, drain_s=60.0) for name in config.receivers},
        "plan": Limits(silence_s=120.0, drain_s=30.0),
        # It speaks after each step and only then: what it may be silent for is one step.
        "infer": Limits(silence_s=step_s, drain_s=step_s),
        # One C-STORE may use its whole time-out, and a second one that of a new association.
        "forward": Limits(silence_s=60.0 + 2.0 * dimse_s, drain_s=10.0 + dimse_s),
        "monitor": Limits(silence_s=60.0, drain_s=10.0),
    }


def failures_in_a_row(before: int, lived_s: float) -> int:
    """Failures to count when a process dies after `lived_s`; a steady life clears what was before."""
    return 1 if lived_s >= STEADY_S else before + 1


def is_silent(silent_s: float, ready: bool, silence_s: float) -> bool:
    """Whether a process counts as hung. Before it is ready it may take long, as a large spool does."""
    return silent_s > (silence_s if ready else max(silence_s, START_PATIENCE_S))


class Worker:
    """One process under supervision. All times are those of the monotonic clock."""

    def __init__(self, name: str, limits: Limits, command: list[str], run_directory: Path) -> None:
        self.name = name
        self.limits = limits
        self.was_ready = False
        self._command = command
        self._notify_path = run_directory / f"{name}.notify"
        self._notify = sockets.bind(self._notify_path, socket.SOCK_DGRAM)
        self._notify.setblocking(False)
        self._child: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._hung = False
        self._ready = False
        self._started = self._last_word = self._due = 0.0

    def start(self, now: float) -> None:
        """Start the process, or try again later if the machine cannot."""
        self._hear()
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": str(self._notify_path),
            SUPERVISOR_VARIABLE: str(os.getpid()),
        }
        try:
            self._child = subprocess.Popen(self._command, env=environment, stdin=subprocess.DEVNULL)
        except OSError:
            _log.exception("a process could not be started", extra={"worker": self.name})
            self._due = now + RESTART_MAXIMUM_S
            return
        self._hung = self._ready = False
        self._started = self._last_word = now

    def step(self, now: float) -> int | None:
        """Hear what the process says, restart it if it died, kill it if it hangs.

        Returns its exit code if it has just died.
        """
        words = self._hear()
        if words:
            self._last_word = now
            self._ready = self._ready or "READY=1" in words
            self.was_ready = self.was_ready or self._ready
        if self._child is None:
            if now >= self._due:
                self.start(now)
            return None
        code = self._child.poll()
        if code is not None:
            self._mourn(code, now)
            return code
        if not self._hung and is_silent(now - self._last_word, self._ready, self.limits.silence_s):
            _log.error("a process hangs and is killed", extra={"worker": self.name})
            self._hung = True
            self._child.kill()
        return None

    def stop(self) -> None:
        """Ask the process to finish, wait as long as it may take, then insist."""
        if self._child is not None:
            self._child.terminate()
            try:
                self._child.wait(self.limits.drain_s)
            except subprocess.TimeoutExpired:
                _log.error("a process did not stop in time and is killed", extra={"worker": self.name})
                self._child.kill()
                self._child.wait()
        self._notify.close()
        self._notify_path.unlink(missing_ok=True)

    def descriptors(self) -> list[int]:
        """File descriptors whose readability means that `step` has something to do."""
        return [self._notify.fileno()]

    def _hear(self) -> set[str]:
        words: set[str] = set()
        while True:
            try:
                words |= set(self._notify.recv(4096).decode().split("\n"))
            except BlockingIOError:
                return words

    def _mourn(self, code: int, now: float) -> None:
        reason = "hang" if self._hung else "signal" if code < 0 else "exit"
        metrics.WORKER_RESTARTS.labels(self.name, reason).inc()
        self._child = None
        self._failures = failures_in_a_row(self._failures, now - self._started)
        delay_s = backoff_s(
            self._failures, minimum_s=RESTART_MINIMUM_S, maximum_s=RESTART_MAXIMUM_S, random=random.random
        )
        self._due = now + delay_s
        _log.error(
            "a process died and is restarted",
            extra={"worker": self.name, "reason": reason, "code": code, "delay_s": round(delay_s, 2)},
        )


def run(config_path: Path, config: Config) -> int:
    """Run the whole appliance in the foreground until SIGTERM or SIGINT; returns the exit code.

    Raises:
        Misconfigured: another appliance runs in the same storage folder.
    """
    process = Process("run", config.run_directory)
    exposition.expose(config.run_directory, process.name)
    workers = []
    for name, allowed in limits(config).items():
        words = [*subcommand(name), "--config", str(config_path.resolve())]
        command = [sys.executable, "-m", "appliance", *words]
        workers.append(Worker(name, allowed, command, config.run_directory))
    return supervise(process, workers, _announcement(config))


def supervise(process: Process, workers: list[Worker], announcement: str) -> int:
    """Keep `workers` running until `process` is to stop, then stop them in their order.

    Prints `announcement` once all of them are ready. Returns 0, or 2 if one of them says before that
    moment that its configuration cannot work.
    """
    try:
        return _keep_running(process, workers, announcement)
    finally:
        for worker in workers:
            worker.stop()


def _keep_running(process: Process, workers: list[Worker], announcement: str) -> int:
    announced = False
    while not process.stopping.is_set():
        now = time.monotonic()
        for worker in workers:
            if worker.step(now) == MISCONFIGURED and not announced:
                return MISCONFIGURED
        if not announced and all(worker.was_ready for worker in workers):
            announced = True
            process.ready()
            sys.stdout.write(f"{announcement}\n")
            sys.stdout.flush()
        process.alive()
        process.wait(0.5, also=[fd for worker in workers for fd in worker.descriptors()])
    return 0


def _announcement(config: Config) -> str:
    listener, monitor = config.listener, config.monitor
    return (
        f"ready: {config.station.ae_title} listening on {listener.host}:{listener.port}, "
        f"monitor on http://{monitor.host}:{monitor.port}"
    )
