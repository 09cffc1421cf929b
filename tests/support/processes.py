"""What the tests need of the machine: programs, ports and processes that end with the test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Without it DCMTK sends and receives about 20 images a second on the loopback interface.
DCMTK_ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}


def program(path: str, package: str) -> str:
    """`path` if that program is there; otherwise the test is skipped, naming the Debian package."""
    if not os.access(path, os.X_OK):
        pytest.skip(f"{path} is not installed (Debian package {package})")
    return path


_given: set[int] = set()


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on, and that no other test was given."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        # Linux gives odd ports here, hence the half.
        if port // 2 % processes == number and port not in _given:
            _given.add(port)
            return port


def wait_until(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Ask `true` until it holds; after `seconds` the test fails, saying `what` did not happen."""
    end = time.monotonic() + seconds
    pause = 0.005
    while not true():
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds:g} s: {what}")
        time.sleep(pause)
        pause = min(2 * pause, 0.1)


def listens(port: int) -> bool:
    """Whether something accepts connections on `port`."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def stop(process: subprocess.Popen[bytes], seconds: float = 20.0) -> int:
    """End `process` with SIGTERM, or with SIGKILL after `seconds`; returns its exit status."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
