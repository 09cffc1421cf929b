"""What every process of the appliance has: a bell, an orderly stop, and word to its supervisor.

Processes wake each other with a datagram ("ring the bell"); it carries nothing, since the journal is
the truth. A bell that nobody hears is fine: every process also looks by itself, slowly.

The word to the supervisor is sd_notify(3), so `appliance run` and systemd are served alike.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from appliance.domain.errors import Misconfigured
from appliance.observe import sockets

SUPERVISOR_VARIABLE = "APPLIANCE_SUPERVISOR"
"""Holds the process id of the supervisor that started this process, if `appliance run` did."""

READY = "READY=1"
ALIVE_INTERVAL_S = 1.0
LOCK_PATIENCE_S = 5.0
_PR_SET_PDEATHSIG = 1  # prctl(2)


class _Stopping(threading.Event):
    """An event that also ends a wait on the bell."""

    def __init__(self) -> None:
        super().__init__()
        self.reader, self._writer = socket.socketpair()

    def set(self) -> None:
        super().set()
        # One byte that is never read: the reader stays readable for good.
        self._writer.send(b"\0")

    def close(self) -> None:
        self.reader.close()
        self._writer.close()


class Process:
    """The running process `name`. Create it once, in the main thread, before any work starts."""

    def __init__(self, name: str, run_directory: Path) -> None:
        """Bind the bell and take over SIGTERM and SIGINT.

        Raises:
            Misconfigured: another process of this name uses the run directory.
            OSError: the run directory cannot be made or written.
        """
        self.name = name
        supervisor = os.environ.get(SUPERVISOR_VARIABLE)
        if supervisor is not None:
            # First of all: an orphan must not take lock and bell from the next supervisor's process.
            die_with(int(supervisor))
        run_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _lock(run_directory, name)
        self.stopping: threading.Event = _Stopping()
        self._bell = sockets.bind(_bell_path(run_directory, name), socket.SOCK_DGRAM)
        self._bell.setblocking(False)
        self._last_alive = -ALIVE_INTERVAL_S
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_signal)
            # Ctrl-C reaches the whole foreground group; under a supervisor it alone decides the order.
            signal.signal(signal.SIGINT, self._on_signal if supervisor is None else signal.SIG_IGN)

    def ready(self) -> None:
        """Tell the supervisor that the process does its work from now on."""
        _notify(READY)

    def alive(self) -> None:
        """Tell the supervisor that work progresses. Cheap: most calls do nothing."""
        now = time.monotonic()
        if now - self._last_alive >= ALIVE_INTERVAL_S:
            self._last_alive = now
            _notify("WATCHDOG=1")

    def wait(self, seconds: float, also: Iterable[int] = ()) -> None:
        """Return when the bell rings, the process is to stop, or `seconds` have passed.

        Or when one of the file descriptors in `also` can be read.
        """
        assert isinstance(self.stopping, _Stopping)
        # poll(2), unlike select(2), also works with descriptors above 1023.
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        poll.register(self.stopping.reader, select.POLLIN)
        for descriptor in also:
            poll.register(descriptor, select.POLLIN)
        poll.poll(max(0.0, seconds) * 1000.0)
        while True:
            try:
                self._bell.recv(16)
            except BlockingIOError:
                return

    def close(self) -> None:
        """Give bell and name back. Only tests need it: a process that ends does this by ending."""
        self._bell.close()
        os.close(self._lock)
        assert isinstance(self.stopping, _Stopping)
        self.stopping.close()

    def _on_signal(self, _number: int, _frame: object) -> None:
        # From a thread: the main thread may hold the event's lock at this very moment.
        threading.Thread(target=self._stop, daemon=True).start()

    def _stop(self) -> None:
        _notify("STOPPING=1")
        self.stopping.set()


def ring(run_directory: Path, name: str) -> None:
    """Wake the process `name`, if it runs. Never blocks."""
    try:
        with sockets.connect(_bell_path(run_directory, name), socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.send(b"\0")
    except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
        # Not running, or already rung and not yet awake: its own slow look finds the work.
        return


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies: more exactly, the thread that started it.

    So that no port stays taken, and no core. Ends this process if the parent is dead already.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit("the parent ended before this process was ready")


def _lock(run_directory: Path, name: str) -> int:
    """Hold the name while this process lives: a second process would take over the first one's bell."""
    descriptor = os.open(run_directory / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise Misconfigured(
                    [f"storage.path: another {name} process already uses {run_directory.parent}"]
                ) from None
            # A predecessor that was killed a moment ago may not be quite dead.
            time.sleep(0.05)


def _bell_path(run_directory: Path, name: str) -> Path:
    return run_directory / f"{name}.bell"


def _notify(message: str) -> None:
    """sd_notify(3): one datagram to the socket that the environment names; without one, nothing."""
    target = os.environ.get("NOTIFY_SOCKET")
    if not target:
        return
    try:
        with _notify_socket(target) as sender:
            # A supervisor that is busy, as while it waits for another process to drain, must not hold up
            # this one; only that it is ready must not get lost.
            sender.setblocking(message == READY)
            sender.send(message.encode())
    except OSError:
        # The supervisor is gone or does not listen now: there is nothing to do about it here.
        return


def _notify_socket(target: str) -> socket.socket:
    if not target.startswith("@"):
        return sockets.connect(Path(target), socket.SOCK_DGRAM)
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.connect("\0" + target[1:])
    return sender
