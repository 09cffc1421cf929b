"""What really crosses the wire: packets captured by dumpcap, C-STORE requests told apart by tshark."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.processes import listens, program, stop

_START_S = 10.0
_SETTLE_S = 0.5
_BUFFER_MIB = "64"  # with the default of 2, packets are lost on a busy machine
_REQUEST = re.compile(
    r"^ +\(0000,0700\) +2 Priority +(?P<priority>\d+)\n"
    r"(?: +\(0000,....\) .*\n)*? +\(0000,1000\) +\d+ Affected SOP Instance UID +(?P<uid>[\d.]+)$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class StoreRequest:
    """One C-STORE request: its SOP Instance UID and (0000,0700) as it crossed the wire."""

    sop_instance_uid: str
    priority: int


@contextmanager
def captured(port: int, file: Path) -> Iterator[None]:
    """Write all packets from and to a TCP port of the loopback interface into `file` while open.

    The test is skipped where packets may not be captured.
    """
    command = [program("/usr/bin/dumpcap", "tshark"), "-q", "-i", "lo", "-B", _BUFFER_MIB]
    command += ["-f", f"tcp port {port}"]
    log = file.with_suffix(".log")
    with log.open("wb") as output:
        capture = subprocess.Popen(
            [*command, "-w", str(file)], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        _await_packets(capture, port, file, log)
        yield
        time.sleep(_SETTLE_S)  # the last packets are on their way to the file
    finally:
        stop(capture)


def _await_packets(capture: subprocess.Popen[bytes], port: int, file: Path, log: Path) -> None:
    """Knock at the port until dumpcap writes that down."""
    end = time.monotonic() + _START_S
    empty = None
    while empty is None or file.stat().st_size == empty:
        if capture.poll() is not None:
            pytest.skip(f"packets cannot be captured here: {log.read_text().strip()}")
        assert time.monotonic() < end, f"dumpcap writes nothing: {log.read_text()}"
        if empty is None and file.exists() and file.stat().st_size:
            empty = file.stat().st_size
        listens(port)
        time.sleep(0.1)


def store_requests(port: int, file: Path) -> list[StoreRequest]:
    """The C-STORE requests of a capture in the order in which they were sent."""
    decode = ["-d", f"tcp.port=={port},dicom", "-O", "dicom", "-V"]
    answer = subprocess.run(
        [program("/usr/bin/tshark", "tshark"), "-r", file, *decode, "-Y", "dicom"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [StoreRequest(found["uid"], int(found["priority"])) for found in _REQUEST.finditer(answer.stdout)]
