"""Associations are counted over all receiving processes, and those of dead processes are not."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from appliance.services.receiving.admission import OpenAssociations, Peer

CT: Peer = ("CT", "10.0.0.1")
MR: Peer = ("MR", "10.0.0.2")


def leave_behind(folder: Path, name: str) -> Path:
    """The file of a process that died while it had an association open."""
    file = folder / "associations" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([[*CT, 7]]))
    return file


def everywhere(one: OpenAssociations, own: Counter[Peer]) -> Counter[Peer]:
    with one.alone():
        return one.everywhere(own)


def test_each_process_sees_the_sum(tmp_path: Path) -> None:
    first, second = (OpenAssociations(tmp_path, name) for name in ("receive", "receive-2"))
    with first.alone():
        first.publish(Counter({CT: 2, MR: 1}))
    assert everywhere(second, Counter({CT: 1})) == Counter({CT: 3, MR: 1})
    with first.alone():
        first.publish(Counter({MR: 1}))
    assert everywhere(second, Counter()) == Counter({MR: 1})
    assert everywhere(first, Counter({MR: 1})) == Counter({MR: 1})


def test_the_dead_have_nothing_open(tmp_path: Path) -> None:
    left = leave_behind(tmp_path, "receive-2")
    assert everywhere(OpenAssociations(tmp_path, "receive"), Counter({MR: 1})) == Counter({MR: 1})
    assert not left.exists()


def test_a_process_that_starts_anew_begins_with_nothing(tmp_path: Path) -> None:
    leave_behind(tmp_path, "receive-2")
    OpenAssociations(tmp_path, "receive-2")
    assert everywhere(OpenAssociations(tmp_path, "receive"), Counter()) == Counter()
