"""Engine files: what was written comes back, and nothing else is ever taken for an engine."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.domain.errors import GiveUp
from appliance.runtime.engine_store import EngineKey, EngineRecord, EngineStore, NotOurs, judged

PLAN = b"an engine" * 100
KEY = EngineKey(
    model="ct-denoise",
    model_sha256="a" * 64,
    flavour="tensorrt_rtx",
    version="1.7.1.116",
    target="SM86",
    precision="fp32",
    profiles="[]",
    builder_revision=1,
)


def record_of(key: EngineKey, plan: bytes) -> EngineRecord:
    return EngineRecord(
        key=key,
        size=len(plan),
        sha256=hashlib.sha256(plan).hexdigest(),
        built_at="2026-11-23T00:00:00+00:00",
        build_s=1.0,
        verdict="candidate",
        parity={},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "engines"


@pytest.fixture
def store(folder: Path) -> EngineStore:
    made = EngineStore(folder)
    made.put(record_of(KEY, PLAN), PLAN)
    return made


def test_what_was_put_is_found_by_a_later_process(store: EngineStore, folder: Path) -> None:
    later = EngineStore(folder)
    record = later.find(KEY)
    assert record is not None
    assert later.read(record) == PLAN
    assert record.verdict == "candidate"
    assert later.find(replace(KEY, version="1.8")) is None


def test_only_the_owner_can_read_anything(store: EngineStore, folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert not list(folder.glob("*.unfinished"))


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, model_sha256="b" * 64),
        replace(KEY, flavour="tensorrt"),
        replace(KEY, version="1.7.2"),
        replace(KEY, target="SM89"),
        replace(KEY, precision="fp16"),
        replace(KEY, profiles="[{}]"),
        replace(KEY, builder_revision=2),
    ],
)
def test_every_part_of_the_key_makes_another_engine(other: EngineKey) -> None:
    assert other.name != KEY.name


def test_the_verdict_is_kept(store: EngineStore) -> None:
    record = store.find(KEY)
    assert record is not None
    store.sign(judged(record, "active", {"passed": True}))
    active = store.find(KEY)
    assert active is not None
    assert (active.verdict, active.parity) == ("active", {"passed": True})
    assert store.read(active) == PLAN


def cut_off(path: Path) -> None:
    path.write_bytes(PLAN[:-1])


def add(path: Path) -> None:
    path.write_bytes(PLAN + b"\0")


def flip(path: Path) -> None:
    path.write_bytes(bytes([PLAN[0] ^ 1]) + PLAN[1:])


def delete(path: Path) -> None:
    path.unlink()


def link(path: Path) -> None:
    other = path.with_name("elsewhere")
    path.rename(other)
    path.symlink_to(other)


def open_up(path: Path) -> None:
    path.chmod(0o666)


@pytest.mark.parametrize("harm", [cut_off, add, flip, delete, link, open_up])
def test_a_harmed_engine_is_refused(store: EngineStore, harm: Callable[[Path], None]) -> None:
    record = store.find(KEY)
    assert record is not None
    harm(store.path(KEY))
    with pytest.raises(NotOurs):
        store.read(record)


def test_engines_that_were_swapped_are_refused(store: EngineStore, folder: Path) -> None:
    other = replace(KEY, model="head-ct-triage")
    store.put(record_of(other, PLAN[::-1]), PLAN[::-1])
    for suffix in ("engine", "json"):
        one, two = folder / f"{KEY.name}.{suffix}", folder / f"{other.name}.{suffix}"
        content = one.read_bytes(), two.read_bytes()
        one.write_bytes(content[1])
        two.write_bytes(content[0])
    for key in (KEY, other):
        with pytest.raises(NotOurs, match="another engine"):
            store.find(key)


def test_an_engine_of_another_appliance_is_refused(store: EngineStore, tmp_path: Path) -> None:
    elsewhere = EngineStore(tmp_path / "elsewhere")
    for path in (tmp_path / "engines").glob(f"{KEY.name}.*"):
        copy = tmp_path / "elsewhere" / path.name
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o600)
    with pytest.raises(NotOurs, match="not written by this appliance"):
        elsewhere.find(KEY)


def test_nobody_activates_an_engine_by_editing_its_record(store: EngineStore, folder: Path) -> None:
    path = folder / f"{KEY.name}.json"
    content = json.loads(path.read_text())
    content["record"]["verdict"] = "active"
    path.write_text(json.dumps(content))
    with pytest.raises(NotOurs, match="was changed"):
        store.find(KEY)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"record": {}}', '{"record": {}, "hmac_sha256": 7}'])
def test_a_damaged_record_is_refused(store: EngineStore, folder: Path, content: str) -> None:
    (folder / f"{KEY.name}.json").write_text(content)
    with pytest.raises(NotOurs):
        store.find(KEY)


def test_an_engine_without_a_record_does_not_exist_but_is_listed(store: EngineStore, folder: Path) -> None:
    (folder / f"{KEY.name}.json").unlink()
    assert store.find(KEY) is None
    ((name, reason),) = store.records()
    assert name == KEY.name
    assert isinstance(reason, NotOurs)


def test_a_record_cannot_be_put_with_another_engine(store: EngineStore) -> None:
    with pytest.raises(ValueError, match="another engine"):
        store.put(record_of(KEY, PLAN), PLAN + b"\0")


def test_a_folder_that_others_may_write_is_refused(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(GiveUp, match="may be written by others"):
        EngineStore(folder)


def test_one_process_builds_an_engine_at_a_time(store: EngineStore, folder: Path) -> None:
    other = EngineStore(folder)
    with store.building(KEY.name) as first, other.building(KEY.name) as second:
        assert (first, second) == (True, False)
    with other.building(KEY.name) as third:
        assert third


def test_leftovers_of_a_dead_build_go_and_those_of_a_living_one_stay(
    store: EngineStore, folder: Path
) -> None:
    dead, living = folder / "dead-1.built.unfinished", folder / "living-1.built.unfinished"
    for path in (dead, living):
        path.write_bytes(b"half")
    with store.building("living-1"):
        assert EngineStore(folder).remove_unfinished() == 1
    assert (dead.exists(), living.exists()) == (False, True)


def test_removing_leaves_nothing_to_run(store: EngineStore) -> None:
    before = store.changed_at()
    store.remove(KEY.name)
    assert store.find(KEY) is None
    assert not list(store.records())
    assert store.changed_at() != before


def test_root_is_no_exception_for_files_of_others(store: EngineStore) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    record = store.find(KEY)
    assert record is not None
    os.chown(store.path(KEY), 12345, 12345)
    with pytest.raises(NotOurs, match="somebody else"):
        store.read(record)
