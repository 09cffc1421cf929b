"""Killing a process shows nothing about a power cut, so the order of the system calls is looked at.

What fdatasync(2) and fsync(2) have returned for is taken to be on the disk; whether the disk keeps its
word cannot be tested here.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.processes import program, wait_until
from tools.campaigns.journal_view import JournalView
from tools.campaigns.pacs import Pacs
from tools.campaigns.scanner import Scanner, new_series
from tools.campaigns.tree import Tree
from tools.simulate.head_series import write_series

# More than one batch of names holds, so that the trace also shows how a batch is made.
IMAGES = 80
SENT = ("send", "sendto", "sendmsg")
WRITTEN = ("write", "pwrite64")


@dataclass(frozen=True)
class Call:
    """One system call of a trace: thread, name, the file that it is about, whether it has returned."""

    thread: str
    name: str
    path: str
    returned: bool


@contextmanager
def traced(process: int, output: Path) -> Iterator[None]:
    """Write the calls of a process that decide about durability to `output`."""
    strace = program("/usr/bin/strace", "strace")
    calls = ",".join([*SENT, *WRITTEN, "fdatasync", "fsync"])
    tracer = subprocess.Popen(
        [strace, "-f", "-y", "-s", "0", "-e", f"trace={calls}", "-o", str(output), "-p", str(process)],
        stderr=subprocess.PIPE,
    )
    assert tracer.stderr is not None
    try:
        if b"attached" not in tracer.stderr.readline():
            pytest.skip("strace may not attach to a process here")
        yield
    finally:
        tracer.terminate()
        tracer.wait()
        tracer.stderr.close()


def calls_of(trace: str) -> Iterator[Call]:
    """The calls of a trace; one that was interrupted by another thread comes twice, begun and returned."""
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        start = re.match(r"(\d+) +(\w+)\(\d+<([^>]*)>", line)
        if start:
            thread, name, path = start.groups()
            begun[thread] = path
            yield Call(thread, name, path, "<unfinished" not in line)
        end = re.match(r"(\d+) +<\.\.\. (\w+) resumed>", line)
        if end and end[1] in begun:
            yield Call(end[1], end[2], begun[end[1]], True)


@pytest.mark.slow
def test_an_image_is_on_the_disk_before_it_is_acknowledged(tmp_path: Path) -> None:
    program("/usr/bin/storescp", "dcmtk")
    template = write_series(tmp_path / "template", seed=1, bleed=False, slices=IMAGES, size=64)
    series = new_series(template, tmp_path / "sent")
    pacs = Pacs(tmp_path / "pacs")
    pacs.start()
    tree = Tree(tmp_path / "appliance", pacs.port, {"pipelines": []})
    trace = tmp_path / "trace"
    try:
        tree.start()
        with traced(tree.processes()["receive"], trace):
            scanner = Scanner(tree.port, series, patience_s=60)
            scanner.start()
            scanner.join()
        journal = JournalView(tree.storage)
        wait_until(lambda: not journal.pending(series), 60, "all is delivered")
    finally:
        tree.stop()
        pacs.stop()
    assert (scanner.is_done, scanner.associations) == (True, 1)
    spool = str(tree.storage / "spool" / "originals")
    calls = list(calls_of(trace.read_text()))
    assert_flushed_before_answered(calls, spool)
    assert_names_flushed_before_used(calls, spool)


def assert_flushed_before_answered(calls: list[Call], spool: str) -> None:
    """The thread of the association writes a file, flushes it, and then answers: so for every image."""
    (thread,) = {call.thread for call in calls if call.path.startswith(spool) and call.name in WRITTEN}
    order = ""
    for call in (call for call in calls if call.thread == thread):
        if call.name in SENT:
            order += "A"
        elif call.path.startswith(spool) and call.path.endswith(".dcm"):
            order += "W" if call.name in WRITTEN else "F" if call.returned else ""
    # The association is accepted before the first image, and its release is answered after the last.
    assert re.fullmatch(rf"A+(W+FA+){{{IMAGES}}}", order), order


def assert_names_flushed_before_used(calls: list[Call], spool: str) -> None:
    """A folder of names is on the disk before the first file in it is written to."""
    flushed = [call.path for call in calls if call.name == "fsync" and call.returned]
    made = {path for path in flushed if Path(path).parent == Path(spool)}
    assert made, "no folder of names was made during the trace"
    for folder in made:
        paths = [call.path for call in calls if call.returned]
        assert paths.index(spool, paths.index(folder)) < min(
            index for index, path in enumerate(paths) if path.startswith(f"{folder}/")
        )
