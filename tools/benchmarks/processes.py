"""What the kernel says about running processes (proc(5)): processor time, memory, listening sockets."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_LISTEN = "0A"
_SAMPLE_S = 0.05
_Gone = (FileNotFoundError, ProcessLookupError)


def tree(roots: Iterable[int]) -> set[int]:
    """The processes `roots` and all their living descendants."""
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        process = waiting.pop()
        if process in found:
            continue
        found.add(process)
        for task in (_PROC / str(process)).glob("task/*/children"):
            with suppress(*_Gone):
                waiting += map(int, task.read_text().split())
    return found


def has_children(roots: Iterable[int]) -> bool:
    """Whether a descendant is at work; one that ended and was not waited for is not."""
    known = set(roots)
    return any(_stat(process)[:1] not in (["Z"], []) for process in tree(known) - known)


def cpu_seconds(roots: Iterable[int]) -> float:
    """Processor time of the processes and their descendants, those that ended included."""
    ticks = 0
    for process in tree(roots):
        # Fields 14 to 17: own user and system time, and those of children that were waited for.
        ticks += sum(map(int, _stat(process)[11:15]))
    return ticks / _TICKS_PER_S


def _stat(process: int) -> list[str]:
    """The fields of /proc/N/stat from the third, the state, on; none if the process is gone."""
    with suppress(*_Gone):
        return (_PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    return []


def listeners(port: int) -> int:
    """How many sockets listen on a TCP port; several where processes share it."""
    count = 0
    for table in (_PROC / "net" / "tcp", _PROC / "net" / "tcp6"):
        if not table.exists():
            continue
        for line in table.read_text().splitlines()[1:]:
            fields = line.split()
            count += fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port
    return count


class PeakMemory:
    """While it is open, watches the peak resident memory of processes and their descendants."""

    def __init__(self, roots: Iterable[int]) -> None:
        self._roots = tuple(roots)
        self._peaks: dict[int, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def mib(self) -> float:
        """Sum over the processes of the most that each has had, in MiB."""
        return sum(self._peaks.values()) / 1024.0

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._ended.wait(_SAMPLE_S):
            self._look()

    def _look(self) -> None:
        for process in tree(self._roots):
            with suppress(*_Gone):
                for line in (_PROC / str(process) / "status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        self._peaks[process] = int(line.split()[1])


def wait_for_listeners(port: int, count: int, seconds: float) -> bool:
    """Wait until `count` sockets listen on `port`; whether they did in time."""
    end = time.monotonic() + seconds
    while listeners(port) < count:
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
