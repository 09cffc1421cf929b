"""A wall clock that jumps by a day changes no decision: every timer runs on the boot clock."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from tests.support.processes import ROOT, program, wait_until
from tools.campaigns.crash import SIZE, SLICES
from tools.campaigns.journal_view import QUIET, JournalView
from tools.campaigns.pacs import Pacs
from tools.campaigns.scanner import Scanner, Series, new_series
from tools.campaigns.tree import Tree
from tools.simulate.head_series import write_series

QUIET_S = 2.0
RETRY_S = 2.0
SLOW_S = 8.0
"""What a busy machine may add to a wait. A timer on the wall clock would be wrong by a day."""


SLEEP = """
import select, time
time.sleep = lambda seconds: select.poll().poll(seconds * 1000.0) and None
"""
"""libfaketime 0.9.10 breaks the clock_nanosleep(2) of time.sleep while the monotonic clock is real."""


class FakeClock:
    """The wall clock of Python programs that run with `environment`, by libfaketime; others are real."""

    def __init__(self, folder: Path) -> None:
        program("/usr/bin/faketime", "faketime")
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(SLEEP)
        self._file = folder / "offset"
        self.jump("+0d")
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": f"{folder}:{ROOT}",
        }

    def jump(self, offset: str) -> None:
        """Put the wall clock to real time plus `offset`, such as -1d."""
        draft = self._file.with_suffix(".draft")
        draft.write_text(f"{offset}\n")
        draft.rename(self._file)


@dataclass(frozen=True)
class Place:
    """A running appliance whose wall clock can be moved, and its PACS."""

    folder: Path
    template: list[Path]
    clock: FakeClock
    pacs: Pacs
    tree: Tree
    journal: JournalView

    def send(self, name: str) -> tuple[Series, Scanner]:
        """Begin to send a new series."""
        series = new_series(self.template, self.folder / name)
        scanner = Scanner(self.tree.port, series, patience_s=60)
        scanner.start()
        return series, scanner

    def assert_complete_in_time(self, series: Series, since: float) -> None:
        """Wait for the decision on a series whose last image was acknowledged at `since`."""
        wait_until(
            lambda: self.journal.stage(series, all_acknowledged=True) != QUIET,
            QUIET_S + SLOW_S,
            "the series is complete",
        )
        assert time.monotonic() - since > QUIET_S - 0.5

    def assert_everything_arrives(self, series: Series) -> None:
        """Originals and derived images reach the PACS."""
        wait_until(lambda: not self.journal.pending(series), 60, "all is delivered")
        arrived = self.pacs.arrived(series.study_instance_uid)
        assert set(series.images) < set(arrived)
        assert len(arrived) == 2 * len(series.images)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    program("/usr/bin/storescp", "dcmtk")
    clock = FakeClock(tmp_path / "clock")
    template = write_series(tmp_path / "template", seed=1, bleed=False, slices=SLICES, size=SIZE)
    pacs = Pacs(tmp_path / "pacs")
    pacs.start()
    settings = {
        "pipelines": [{"model": "ct-denoise", "destinations": ["pacs"]}],
        "completeness": {"quiet_s": {"default": QUIET_S, "CT": QUIET_S}},
        "delivery": {"retry_minimum_s": RETRY_S, "retry_maximum_s": RETRY_S},
    }
    tree = Tree(tmp_path / "appliance", pacs.port, settings, clock.environment)
    try:
        tree.start()
        yield Place(tmp_path, template, clock, pacs, tree, JournalView(tree.storage))
        assert tree.stop() == 0
    finally:
        tree.stop()
        pacs.stop()


@pytest.mark.slow
@pytest.mark.parametrize("jump", ["+1d", "-1d"])
def test_a_jump_of_the_wall_clock_moves_no_timer(place: Place, jump: str) -> None:
    # While images come in.
    series, scanner = place.send("receiving")
    wait_until(lambda: bool(scanner.acknowledged), 30, "the first image is acknowledged")
    place.clock.jump(jump)
    scanner.join()
    place.assert_complete_in_time(series, time.monotonic())
    place.assert_everything_arrives(series)

    # While a series waits for quiet.
    place.clock.jump("+0d")
    series, scanner = place.send("quiet")
    scanner.join()
    last = time.monotonic()
    time.sleep(1.0)
    place.clock.jump(jump)
    place.assert_complete_in_time(series, last)
    place.assert_everything_arrives(series)

    # While deliveries wait for their next attempt.
    place.clock.jump("+0d")
    place.pacs.stop()
    series, scanner = place.send("retry")
    scanner.join()
    wait_until(lambda: "delivery pending" in place.journal.pending(series), 30, "deliveries wait")
    time.sleep(1.0)
    place.clock.jump(jump)
    time.sleep(RETRY_S)
    place.pacs.start()
    place.assert_everything_arrives(series)
    assert scanner.associations == 1
    with closing(sqlite3.connect(place.tree.storage / "journal.sqlite")) as connection:
        (first, last) = connection.execute("SELECT min(at), max(at) FROM history").fetchone()
    seen = datetime.fromisoformat(last) - datetime.fromisoformat(first)
    assert seen > timedelta(hours=23), "the clock of the appliance did not jump"


@pytest.mark.slow
def test_a_jump_of_the_wall_clock_ends_no_association(place: Place) -> None:
    series = new_series(place.template, place.folder / "sent")
    entity = AE("SCANNER")
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", place.tree.port, ae_title="EDGE")
    for number, path in enumerate(series.images.values()):
        if number == SLICES // 2:
            place.clock.jump("+1d")
            time.sleep(3.0)
        assert association.send_c_store(path).Status == 0x0000
    association.release()
    place.assert_everything_arrives(series)
