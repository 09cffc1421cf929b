"""`tools/bench spool`: ways to make one received object durable, side by side.

The first way is not durable: it is what flushing has to be compared with.
"""

from __future__ import annotations

import os
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from appliance.spool.store import Spool
from tools.benchmarks.report import Report, Result

OBJECT_BYTES = 525_000
_FRAGMENT_BYTES = 131_066  # what fits into a PDU of the default length
_UNMEASURED = 4


class Way(ABC):
    """One way to store objects. `folder` exists and is its own."""

    name: str

    def __init__(self, folder: Path, objects: int) -> None:
        self.folder = folder
        self.objects = objects

    def prepare(self) -> None:  # noqa: B027 - most ways have nothing to prepare
        """Do what may be done while nobody waits."""

    @abstractmethod
    def store(self, number: int, fragments: list[memoryview]) -> None:
        """Store one object; it is as durable as this way makes it when this returns."""


class WriteOnly(Way):
    """A new file, left to the kernel."""

    name = "write, no flush"

    def store(self, number: int, fragments: list[memoryview]) -> None:
        os.close(_written(self.folder / str(number), fragments))


class Flushed(Way):
    """The bytes are durable; that their name is, no standard promises."""

    name = "write, fsync"

    def store(self, number: int, fragments: list[memoryview]) -> None:
        descriptor = _written(self.folder / str(number), fragments)
        os.fsync(descriptor)
        os.close(descriptor)


class Renamed(Way):
    """The textbook: two flushes."""

    name = "write, fsync, rename, fsync of the folder"

    def store(self, number: int, fragments: list[memoryview]) -> None:
        draft = self.folder / f"{number}.part"
        descriptor = _written(draft, fragments)
        os.fsync(descriptor)
        os.close(descriptor)
        draft.rename(self.folder / str(number))
        directory = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(directory)
        os.close(directory)


class NamesMadeAhead(Way):
    """The appliance's spool, its checksum included."""

    name = "names made ahead, fdatasync (the spool)"

    def __init__(self, folder: Path, objects: int) -> None:
        super().__init__(folder, objects)
        self._spool = Spool(folder)

    def prepare(self) -> None:
        self._spool.prepare()

    def store(self, number: int, fragments: list[memoryview]) -> None:
        self._spool.put(fragments)


class Log(Way):
    """One file with its blocks allocated and written beforehand: a flush without any metadata."""

    name = "preallocated log, fdatasync"

    def __init__(self, folder: Path, objects: int) -> None:
        super().__init__(folder, objects)
        self._descriptor = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
        for _ in range(objects):
            os.write(self._descriptor, bytes(OBJECT_BYTES))
        os.fsync(self._descriptor)
        os.lseek(self._descriptor, 0, os.SEEK_SET)

    def store(self, number: int, fragments: list[memoryview]) -> None:
        for fragment in fragments:
            os.write(self._descriptor, fragment)
        os.fdatasync(self._descriptor)


WAYS: tuple[type[Way], ...] = (WriteOnly, Flushed, Renamed, NamesMadeAhead, Log)


def benchmark(folder: Path, *, objects: int, command: str) -> Report:
    """Store `objects` in each way."""
    seconds = _seconds(folder, WAYS, objects)
    medians = {way: statistics.median(found) for way, found in seconds.items()}
    results = [_result(way.name, found) for way, found in seconds.items()]
    ratios = {
        "spool_vs_textbook": medians[Renamed] / medians[NamesMadeAhead],
        "spool_vs_log": medians[Log] / medians[NamesMadeAhead],
    }
    return Report(command, tuple(results), ratios, ())


def median_seconds(folder: Path, ways: Sequence[type[Way]], objects: int) -> dict[type[Way], float]:
    """What storing one object takes in each way."""
    return {way: statistics.median(found) for way, found in _seconds(folder, ways, objects).items()}


def _seconds(folder: Path, kinds: Sequence[type[Way]], objects: int) -> dict[type[Way], list[float]]:
    """In turns, so that a busy minute hits all alike."""
    ways = []
    for kind in kinds:
        own = folder / kind.__name__
        own.mkdir()
        ways.append(kind(own, objects + _UNMEASURED))
    content = memoryview(os.urandom(OBJECT_BYTES))
    fragments = [content[at : at + _FRAGMENT_BYTES] for at in range(0, OBJECT_BYTES, _FRAGMENT_BYTES)]
    os.sync()
    seconds: dict[type[Way], list[float]] = {kind: [] for kind in kinds}
    for number in range(objects + _UNMEASURED):
        for way in ways:
            way.prepare()
            begin = time.perf_counter()
            way.store(number, fragments)
            if number >= _UNMEASURED:
                seconds[type(way)].append(time.perf_counter() - begin)
    return seconds


def _result(name: str, seconds: list[float]) -> Result:
    ordered = sorted(seconds)
    return {
        "case": name,
        "median_ms": 1000.0 * statistics.median(ordered),
        "p95_ms": 1000.0 * ordered[int(0.95 * (len(ordered) - 1))],
    }


def _written(path: Path, fragments: list[memoryview]) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    for fragment in fragments:
        os.write(descriptor, fragment)
    return descriptor
