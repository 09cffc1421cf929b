"""Retention: nothing leaves the spool before everybody has it who is to have it, and its time has passed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.config.load import load
from appliance.dicom.header import read_facts
from appliance.domain.commitment import CommitmentRequest, Duty, Reference, Standing
from appliance.domain.errors import TryAgain
from appliance.domain.retention import Claims, kept_for
from appliance.domain.states import DELIVERY
from appliance.domain.types import Origin
from appliance.journal import commitments, instances, jobs, series, summary
from appliance.journal.database import move
from appliance.journal.instances import Recorded
from appliance.journal.series import NewJob, Skip
from appliance.services.planning.plan import Planner
from appliance.services.planning.retention import Retention
from appliance.services.receiving.indexing import Indexer, recover
from appliance.services.storage import Storage
from appliance.spool.store import Spool
from tests.dicom_samples import CtSeries, write_series
from tests.journal_samples import IMAGE, artifact, decide, finish_job, image, new_job, state_of
from tests.support.clock import BootClock, stopped_clock
from tests.support.examples import examples

HOUR = 3600.0
DUTIES = [Duty(required, commits) for required in (True, False) for commits in (True, False)]
STANDINGS = st.lists(
    st.builds(Standing, st.sampled_from(DELIVERY.states), st.sampled_from(DUTIES)), max_size=4
)


@given(STANDINGS, st.booleans(), st.booleans(), st.booleans())
def test_only_what_every_required_destination_has_may_go(
    deliveries: list[Standing], undecided: bool, job: bool, asked: bool
) -> None:
    may_go = kept_for(Claims(deliveries, undecided, job, asked)) is None
    has = {
        Duty(required=True, commits=False): {"stored", "committed", "dropped"},
        Duty(required=True, commits=True): {"committed", "dropped"},
    }
    others = {"stored", "committed", "rejected", "dropped"}
    everybody_has_it = all(one.state in has.get(one.duty, others) for one in deliveries)
    somebody_is_required = any(one.duty.required for one in deliveries)
    nobody_waits = not (undecided or job or asked)
    assert may_go == (everybody_has_it and somebody_is_required and nobody_waits)


class Site:
    """A journal, spools and retention on a clock of ours. `pacs` commits, `viewer` is not required."""

    def __init__(self, folder: Path, clock: BootClock, **storage: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        address = {"host": "127.0.0.1", "port": 4242}
        settings = {
            "station": {"ae_title": "EDGE"},
            "storage": {"path": "./var", "durability": "os", **storage},
            "destinations": {
                "pacs": {"ae_title": "PACS", **address, "commitment": True},
                "archive": {"ae_title": "ARCHIVE", **address},
                "viewer": {"ae_title": "VIEWER", **address, "required": False},
            },
        }
        path = folder / "site.yaml"
        path.write_text(yaml.safe_dump(settings))
        self.clock = clock
        self.config = load(path)
        self.storage = Storage(self.config)
        self.journal = self.storage.journal
        self.retention = Retention(self.config, self.storage)

    def receive(self, uid: str, *destinations: str, **changes: object) -> str:
        """Put an image into spool and journal, its series being decided; returns its spool key."""
        key = self.storage.originals.put([b"image"])
        with self.journal.write() as connection:
            one = image(uid, size=5, series_instance_uid=f"{uid}.0", **changes)
            instances.record(connection, _at(one, key), destinations)
        return key

    def decide(self, uid: str, *planned: NewJob) -> None:
        """Complete the series of an image, and skip or plan it."""
        with self.journal.write() as connection:
            if planned:
                decide(connection, f"{uid}.0", *planned)
                return
            (one,) = [one for one in series.waiting(connection) if one.series_instance_uid == f"{uid}.0"]
            series.complete(connection, one, "quiet")
            series.plan(connection, one, [], [Skip("model", "reason", "detail")])

    def deliver(self, key: str, destination: str, *events: str) -> None:
        with self.journal.write() as connection:
            row = connection.execute(
                "SELECT id FROM deliveries WHERE spool_key = ? AND destination = ?", (key, destination)
            ).fetchone()
            for event in events:
                move(connection, DELIVERY, row["id"], event)

    def after(self, seconds: float, spool: Spool | None = None) -> set[str]:
        """Let time pass, with a look before and after, and return the keys that are in the spool."""
        for step in (0.0, seconds):
            self.clock.advance(step)
            while self.retention.look():
                pass
        return {
            path.stem
            for path in (spool or self.storage.originals).root.glob("*/*.dcm")
            if path.stat().st_size
        }

    def close(self) -> None:
        self.retention.close()
        self.journal.close()


def _at(one: Any, key: str) -> Any:
    return type(one)(**{**one.__dict__, "spool_key": key})


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with stopped_clock() as clock:
        site = Site(tmp_path, clock, keep_originals_h=1.0, keep_results_h=2.0)
        yield site
        site.close()


STORED, COMMITTED = ("claim", "ack"), ("claim", "ack", "commit")


def test_an_original_goes_once_all_required_destinations_have_it_and_its_time_has_passed(site: Site) -> None:
    key = site.receive("1", "pacs", "archive", "viewer")
    site.decide("1")
    site.deliver(key, "pacs", *STORED)
    site.deliver(key, "archive", *STORED)
    site.deliver(key, "viewer", *STORED)
    assert site.after(100 * HOUR) == {key}  # the PACS is to commit it
    site.deliver(key, "pacs", "commit")
    assert site.after(0.02 * HOUR) == {key}
    assert site.after(0.97 * HOUR) == {key}
    assert site.after(0.03 * HOUR) == set()
    assert state_of(site.journal, "files", 1) == "removed"


@pytest.mark.parametrize(
    ("destination", "events", "kept"),
    [
        ("pacs", (), "delivery"),
        ("pacs", ("claim",), "delivery"),
        ("pacs", ("claim", "reject"), "rejected"),
        ("pacs", STORED, "commitment"),
        ("pacs", ("drop",), None),
        ("viewer", (), "delivery"),
        ("viewer", ("claim",), "delivery"),
        ("viewer", ("claim", "reject"), None),
        ("archive", ("claim", "ack", "lost"), "delivery"),
    ],
)
def test_a_destination_keeps_it(
    site: Site, destination: str, events: tuple[str, ...], kept: str | None
) -> None:
    key = site.receive("1", "pacs", "archive", "viewer")
    site.decide("1")
    has_it = {"pacs": COMMITTED, "archive": STORED, "viewer": STORED, destination: events}
    for name, steps in has_it.items():
        site.deliver(key, name, *steps)
    for _ in range(3):
        left = site.after(50 * HOUR)
    assert left == ({key} if kept else set())
    if kept:
        with site.journal.read() as connection:
            assert summary.spool_files(connection) == {("originals", kept): (1, 5)}
            assert summary.oldest_file_s(connection) == 150 * HOUR


def test_without_a_required_destination_nothing_goes(site: Site) -> None:
    key = site.receive("1", "viewer")
    site.decide("1")
    site.deliver(key, "viewer", *STORED)
    assert site.after(1000 * HOUR) == {key}


def test_an_open_series_and_a_job_keep_it(site: Site) -> None:
    key = site.receive("1", "archive")
    site.deliver(key, "archive", *STORED)
    assert site.after(50 * HOUR) == {key}
    site.decide("1", new_job())
    assert site.after(50 * HOUR) == {key}
    with site.journal.write() as connection:
        job = jobs.claim(connection, {})
    assert job is not None
    assert site.after(50 * HOUR) == {key}
    with site.journal.write() as connection:
        finish_job(connection, job)
    site.after(0.02 * HOUR)
    assert site.after(HOUR) == set()


def test_a_scanner_that_waits_for_commitment_keeps_it(site: Site) -> None:
    key = site.receive("1", "archive")
    site.deliver(key, "archive", *STORED)
    site.decide("1")
    request = CommitmentRequest("1.2.9", (Reference(IMAGE.sop_class_uid, "1"),))
    with site.journal.write() as connection:
        commitments.request(connection, request, Origin("SCANNER", "EDGE", "127.0.0.1"))
    assert site.after(50 * HOUR) == {key}
    with site.journal.write() as connection:
        (commitment,) = commitments.due(connection, "requested")
        commitments.aggregate(connection, commitment, {"1": 0})
    site.after(0.02 * HOUR)
    assert site.after(HOUR) == set()


def test_a_result_has_its_own_time(site: Site) -> None:
    key = site.storage.results.put([b"result"])
    with site.journal.write() as connection:
        decided = image("1")
        instances.record(connection, decided, [])
        decide(connection, decided.series_instance_uid, new_job())
        job = jobs.claim(connection, {})
        assert job is not None
        finish_job(connection, job, [_at(artifact("9"), key)], {"archive": ("sr",)})
    site.deliver(key, "archive", *STORED)
    assert site.after(1.9 * HOUR, site.storage.results) == {key}
    assert site.after(0.2 * HOUR, site.storage.results) == set()


def test_a_duplicate_is_known_after_the_purge_and_other_content_is_not_taken_for_one(site: Site) -> None:
    key = site.receive("1", "archive")
    site.deliver(key, "archive", *STORED)
    site.decide("1")
    assert site.after(2 * HOUR) == set()
    with site.journal.write() as connection:
        again = image("1", series_instance_uid="1.0")
        assert instances.record(connection, again, ["archive"]) is Recorded.DUPLICATE
        other = image("1", series_instance_uid="1.0", checksum="other")
        assert instances.record(connection, other, ["archive"]) is Recorded.CHANGED_CONTENT
        assert not instances.are_all_kept(connection, "1.0")


def test_models_do_not_get_what_is_left_of_a_series(site: Site, tmp_path: Path) -> None:
    (path,) = write_series(tmp_path / "series", CtSeries(slices=1))
    facts = read_facts(path).to_json()
    key = site.receive("1", "archive", facts=facts)
    site.deliver(key, "archive", *STORED)
    site.decide("1")
    assert site.after(2 * HOUR) == set()
    late = site.storage.originals.put([b"late"])
    with site.journal.write() as connection:
        one = _at(image("2", series_instance_uid="1.0", facts=facts), late)
        instances.record(connection, one, ["archive"])
    site.clock.advance(HOUR)
    planner = Planner(site.config, site.storage, [_package()])
    planner.look()
    with site.journal.read() as connection:
        rows = connection.execute("SELECT reason FROM skips WHERE revision = 2").fetchall()
    assert [row["reason"] for row in rows] == ["purged"]


def _package() -> Any:
    return SimpleNamespace(manifest=SimpleNamespace(id="model"), pipeline=None)


def test_a_crash_between_journal_and_disk_leaves_nothing_behind(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = site.receive("1", "archive")
    site.deliver(key, "archive", *STORED)
    site.decide("1")
    site.after(0.0)
    with monkeypatch.context() as patch:

        def fail(self: Spool, keys: list[str]) -> None:
            raise TryAgain("power cut")

        patch.setattr(Spool, "purge", fail)
        with pytest.raises(TryAgain):
            site.after(HOUR)
    assert site.storage.originals.path(key).exists()
    assert state_of(site.journal, "files", 1) == "purged"

    # The receiver starts first: what was given up is neither new nor forwarded again.
    indexer = Indexer(site.config, site.journal, site.storage.originals)
    fresh = Storage(site.config)
    assert recover(site.config, fresh, indexer) == 0
    fresh.journal.close()
    assert site.after(0.0) == set()
    assert state_of(site.journal, "files", 1) == "removed"


def test_a_file_that_is_gone_already_is_fine(site: Site) -> None:
    key = site.receive("1", "archive")
    site.deliver(key, "archive", *STORED)
    site.decide("1")
    site.storage.originals.remove(key)
    site.after(2 * HOUR)
    assert state_of(site.journal, "files", 1) == "removed"


def test_empty_folders_go_as_well(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    keys = [spool.put([b"x"]) for _ in range(65)]
    first = {spool.path(key).parent for key in keys[:64]}
    assert len(first) == 1
    spool.purge(keys[:63])
    assert first.pop().exists()
    spool.purge(keys[63:64])
    # Of the second batch, names are ready for further drafts.
    spool.purge(keys[64:])
    assert [folder for folder in spool.root.iterdir() if not list(folder.glob("*.dcm"))] == []
    assert len(list(spool.root.iterdir())) == 1


def test_a_look_is_bounded(site: Site) -> None:
    for number in range(120):
        site.receive(str(number), "archive")
    assert site.retention.look()
    assert not site.retention.look()


DELIVERY_EVENTS = sorted(DELIVERY.events)
STEPS = st.one_of(
    st.tuples(st.sampled_from(["pacs", "archive", "viewer"]), st.sampled_from(DELIVERY_EVENTS)),
    st.tuples(st.just("wait"), st.floats(1.0, 4000.0)),
    st.tuples(st.just("late"), st.just("image")),
    st.tuples(st.just("decide"), st.just("series")),
)


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_whatever_happens_nothing_leaves_early(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any]]
) -> None:
    with stopped_clock() as clock:
        site = Site(tmp_path_factory.mktemp("walk"), clock, keep_originals_h=1.0)
        key = site.receive("1", "pacs", "archive", "viewer")
        state = dict.fromkeys(("pacs", "archive", "viewer"), "pending")
        is_open, free_since = True, None
        for number, (what, value) in enumerate(steps):
            if what == "wait":
                clock.advance(value)
            elif what == "late":
                with site.journal.write() as connection:
                    instances.record(connection, image(f"1.{number}", series_instance_uid="1.0"), [])
                is_open = True
            elif what == "decide" and is_open:
                site.decide("1")
                is_open = False
            elif what in state and state[what] in DELIVERY.events[value].sources:
                site.deliver(key, what, value)
                state[what] = DELIVERY.events[value].target
            free = (
                not is_open
                and state["pacs"] in ("committed", "dropped")
                and state["archive"] in ("stored", "committed", "dropped")
                and state["viewer"] not in ("pending", "sending")
            )
            free_since = (clock.now if free_since is None else free_since) if free else None
            site.retention.look()
            if not site.storage.originals.path(key).exists():
                assert free_since is not None
                assert clock.now - free_since >= HOUR
                break
        site.close()
