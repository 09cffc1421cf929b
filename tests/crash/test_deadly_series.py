"""A series that ends the inference process each time it is run becomes a failure that people can see."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.support.processes import program, wait_until
from tools.campaigns.crash import SIZE, SLICES
from tools.campaigns.journal_view import JournalView
from tools.campaigns.pacs import Pacs
from tools.campaigns.scanner import Scanner, Series, new_series
from tools.campaigns.tree import Tree
from tools.simulate.head_series import write_series

DEATHS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)
"""By the kernel or a watchdog, by a fault in a library, by a check in one."""
ATTEMPTS = len(DEATHS)


@pytest.mark.slow
def test_it_is_given_up_after_some_attempts_while_all_else_goes_on(tmp_path: Path) -> None:
    """The death comes from outside, at each claim of the series: what a fault in a library looks like."""
    program("/usr/bin/storescp", "dcmtk")
    template = write_series(tmp_path / "template", seed=1, bleed=False, slices=SLICES, size=SIZE)
    deadly, harmless = (new_series(template, tmp_path / name) for name in ("deadly", "harmless"))
    pacs = Pacs(tmp_path / "pacs")
    pacs.start()
    settings = {
        "pipelines": [{"model": "ct-denoise", "destinations": ["pacs"]}],
        "inference": {"threads": 1, "attempts": ATTEMPTS},
    }
    tree = Tree(tmp_path / "appliance", pacs.port, settings)
    try:
        tree.start()
        journal = JournalView(tree.storage)
        send(tree, deadly)
        for attempt, death in enumerate(DEATHS, 1):
            wait_until(partial(runs, journal, deadly, attempt), 60, f"attempt {attempt}")
            os.kill(tree.processes()["infer"], death)
            if attempt == 1:
                send(tree, harmless)
        wait_until(lambda: not journal.pending(deadly), 60, "the deadly series comes to its end")
        wait_until(lambda: not journal.pending(harmless), 60, "the harmless series comes to its end")
        assert tree.stop() == 0
    finally:
        tree.stop()
        pacs.stop()

    (given_up,) = journal.decisions(deadly)
    assert (given_up.state, given_up.outcome, given_up.reason) == ("failed", "not_analysed", "crashed")
    assert given_up.attempts == ATTEMPTS
    (done,) = journal.decisions(harmless)
    assert (done.state, done.outcome, done.attempts) == ("done", "enhanced", 1)
    assert set(pacs.arrived(deadly.study_instance_uid)) == set(deadly.images)
    arrived = pacs.arrived(harmless.study_instance_uid)
    assert set(harmless.images) < set(arrived)
    assert len(arrived) == 2 * len(harmless.images)
    with closing(sqlite3.connect(tree.storage / "journal.sqlite")) as connection:
        (forwarded_at,) = connection.execute(
            "SELECT max(stored_at) FROM deliveries WHERE series_instance_uid = ?",
            (harmless.series_instance_uid,),
        ).fetchone()
        (given_up_at,) = connection.execute("SELECT at FROM history WHERE event = 'give_up'").fetchone()
    assert forwarded_at < given_up_at


def send(tree: Tree, series: Series) -> None:
    """Send a series and wait until all of it is acknowledged, in one association."""
    scanner = Scanner(tree.port, series, patience_s=30)
    scanner.start()
    scanner.join()
    assert (scanner.is_done, scanner.associations) == (True, 1)


def runs(journal: JournalView, series: Series, attempt: int) -> bool:
    """Whether the job of a series runs for the given time."""
    return [(one.state, one.attempts) for one in journal.decisions(series)] == [("running", attempt)]
