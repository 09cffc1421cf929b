"""What the scanner and the PACS see while the disk, the journal or the PACS itself is in trouble."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import DCMTK_ENVIRONMENT, program, wait_until
from tools.campaigns.crash import SIZE, SLICES
from tools.campaigns.journal_view import JournalView
from tools.campaigns.pacs import Pacs
from tools.campaigns.raw_sender import data_set_bytes
from tools.campaigns.scanner import Scanner, Series, new_series
from tools.campaigns.tree import Tree
from tools.simulate.head_series import write_series

# Originals only: this is about images, and it needs no model.
SETTINGS: dict[str, Any] = {"pipelines": []}
PLENTY = {**SETTINGS, "storage": {"path": "./var", "minimum_free_mb": 2**40}}


@pytest.fixture
def series(tmp_path: Path) -> Series:
    template = write_series(tmp_path / "template", seed=1, bleed=False, slices=SLICES, size=SIZE)
    return new_series(template, tmp_path / "sent")


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Pacs]:
    program("/usr/bin/storescp", "dcmtk")
    peer = Pacs(tmp_path / "pacs")
    peer.start()
    yield peer
    peer.stop()


@pytest.fixture
def tree(tmp_path: Path, pacs: Pacs) -> Iterator[Tree]:
    running = Tree(tmp_path / "appliance", pacs.port, SETTINGS)
    running.start()
    yield running
    assert running.stop() == 0


def send(tree: Tree, series: Series) -> Scanner:
    """Send all of a series in one association."""
    scanner = Scanner(tree.port, series, patience_s=30)
    scanner.start()
    scanner.join()
    assert (scanner.is_done, scanner.associations, scanner.refusals) == (True, 1, [])
    return scanner


def assert_arrives(tree: Tree, pacs: Pacs, series: Series) -> None:
    """Every image reaches the PACS unchanged."""
    journal = JournalView(tree.storage)
    wait_until(lambda: not journal.pending(series), 60, "all is delivered")
    arrived = pacs.arrived(series.study_instance_uid)
    assert {uid: data_set_bytes(copies[0].path) for uid, copies in arrived.items()} == {
        uid: data_set_bytes(path) for uid, path in series.images.items()
    }


@pytest.mark.slow
def test_without_room_nothing_is_taken_until_there_is_room(
    tmp_path: Path, pacs: Pacs, series: Series
) -> None:
    storescu = program("/usr/bin/storescu", "dcmtk")
    full = Tree(tmp_path / "appliance", pacs.port, PLENTY)
    full.start()
    answer = subprocess.run(
        [storescu, "-v", "-aec", "EDGE", "127.0.0.1", str(full.port), *map(str, series.images.values())],
        env=DCMTK_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert full.stop() == 0
    assert answer.returncode != 0
    # A-ASSOCIATE-RJ 2, 3, 1: a scanner keeps its images and calls again.
    assert "Result: Rejected Transient, Source: Service Provider (Presentation Related)" in answer.stderr
    assert "Reason: Temporary Congestion" in answer.stderr

    roomy = Tree(tmp_path / "appliance", pacs.port, SETTINGS)
    roomy.start()
    send(roomy, series)
    assert_arrives(roomy, pacs, series)
    assert roomy.stop() == 0


@pytest.mark.slow
def test_what_comes_while_the_pacs_is_down_arrives_when_it_is_up(
    tree: Tree, pacs: Pacs, series: Series
) -> None:
    pacs.stop()
    send(tree, series)
    journal = JournalView(tree.storage)
    wait_until(lambda: f"{SLICES} delivery pending" in journal.pending(series), 30, "all waits")
    pacs.start()
    assert_arrives(tree, pacs, series)


@pytest.mark.slow
def test_what_comes_while_the_journal_is_locked_arrives_afterwards(
    tree: Tree, pacs: Pacs, series: Series
) -> None:
    with closing(sqlite3.connect(tree.storage / "journal.sqlite", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        send(tree, series)
        time.sleep(17.0)  # longer than the appliance's own patience with a lock
        connection.execute("ROLLBACK")
    assert_arrives(tree, pacs, series)


@pytest.mark.slow
def test_a_fault_in_the_indexer_ends_the_receiver_instead_of_piling_up_images(
    tree: Tree, pacs: Pacs, series: Series
) -> None:
    """A constraint that the journal breaks stands for any error that nobody foresaw."""
    receiver = tree.processes()["receive"]
    with closing(sqlite3.connect(tree.storage / "journal.sqlite", isolation_level=None)) as connection:
        connection.execute(
            "CREATE TRIGGER fault BEFORE INSERT ON instances BEGIN SELECT RAISE(ABORT, 'fault'); END"
        )
        send(tree, series)
        wait_until(lambda: not Path(f"/proc/{receiver}").exists(), 30, "the receiver ends")
        connection.execute("DROP TRIGGER fault")
    assert_arrives(tree, pacs, series)
