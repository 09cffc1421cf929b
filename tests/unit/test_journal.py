"""The journal: what is recorded once, claimed by one, and survives whatever happens in between."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.domain.errors import GiveUp, TryAgain
from appliance.domain.types import Postponed, Refused, Stored
from appliance.journal import database, deliveries, instances, jobs, series
from appliance.journal.database import Journal
from appliance.journal.instances import Recorded, record
from appliance.journal.jobs import Result
from appliance.journal.series import Arrived, NewJob, Skip
from tests.journal_samples import (
    PACS,
    REPORTS,
    artifact,
    claimed_job,
    count,
    decide,
    finish_job,
    image,
    new_job,
    open_journal,
    planned_job,
    state_of,
)
from tests.support.running import ENVIRONMENT


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return open_journal(tmp_path)


def put(journal: Journal, uid: str, destinations: tuple[str, ...] = PACS, **changes: object) -> Recorded:
    with journal.write() as connection:
        return record(connection, image(uid, **changes), destinations)


def claim(journal: Journal, limit: int = 50) -> list[str]:
    with journal.write() as connection:
        return [one.sop_instance_uid for one in deliveries.claim(connection, "pacs", limit=limit)]


class TestRecording:
    def test_a_new_image_opens_its_series_and_goes_to_every_destination(self, journal: Journal) -> None:
        assert put(journal, "1", ("pacs", "archive")) is Recorded.NEW
        assert state_of(journal, "series", "1.2.3.0") == "open"
        assert count(journal, "instances") == 1
        assert count(journal, "deliveries") == 2

    def test_an_identical_duplicate_is_recorded_once(self, journal: Journal) -> None:
        put(journal, "1")
        assert put(journal, "1") is Recorded.DUPLICATE
        assert not Recorded.DUPLICATE.keeps_file
        assert count(journal, "instances") == count(journal, "deliveries") == 1

    def test_changed_content_is_kept_beside_the_first_and_holds_the_series(self, journal: Journal) -> None:
        put(journal, "1")
        assert put(journal, "1", checksum="other") is Recorded.CHANGED_CONTENT
        assert Recorded.CHANGED_CONTENT.keeps_file
        assert count(journal, "instances") == count(journal, "deliveries") == 2
        with journal.read() as connection:
            (one,) = series.waiting(connection)
        assert one.changed_content
        assert put(journal, "2") is Recorded.NEW
        with journal.read() as connection:
            (one,) = series.waiting(connection)
        assert one.changed_content, "another image must not lift the hold"

    def test_each_of_two_contents_is_known_for_good(self, journal: Journal) -> None:
        put(journal, "1")
        put(journal, "1", checksum="other")
        assert put(journal, "1") is Recorded.DUPLICATE
        assert put(journal, "1", checksum="other") is Recorded.DUPLICATE

    def test_what_says_that_we_made_it_is_neither_forwarded_nor_processed(self, journal: Journal) -> None:
        assert put(journal, "1", ours=True) is Recorded.OWN_RESULT
        assert not Recorded.OWN_RESULT.keeps_file
        assert count(journal, "instances") == count(journal, "deliveries") == count(journal, "series") == 0

    def test_a_result_that_comes_back_is_known_by_its_uid(self, journal: Journal) -> None:
        planned_job(journal)
        job = claimed_job(journal)
        with journal.write() as connection:
            finish_job(connection, job, [artifact("2.25.9")], REPORTS)
        assert put(journal, "2.25.9") is Recorded.OWN_RESULT
        assert count(journal, "deliveries") == 2

    def test_a_group_is_recorded_as_a_whole_or_not_at_all(self, journal: Journal) -> None:
        with pytest.raises(sqlite3.IntegrityError), journal.write() as connection:
            one = image("1")
            record(connection, one, PACS)
            record(connection, replace(one, sop_instance_uid="2"), PACS)  # claims the same spool file
        for table in ("instances", "series", "deliveries", "history"):
            assert count(journal, table) == 0

    def test_the_spool_can_be_compared_with_the_journal(self, journal: Journal) -> None:
        one = image("1")
        with journal.write() as connection:
            record(connection, one, PACS)
            assert instances.is_recorded(connection, one.spool_key)
            assert not instances.is_recorded(connection, "another")


class TestLateImages:
    def test_an_image_for_an_open_series_leaves_its_revision(self, journal: Journal) -> None:
        put(journal, "1")
        put(journal, "2")
        with journal.read() as connection:
            (one,) = series.waiting(connection)
        assert (one.revision, one.images) == (1, 2)

    @pytest.mark.parametrize("planned", [[new_job("m")], []], ids=["planned", "skipped"])
    def test_a_late_image_opens_a_decided_series_at_the_next_revision(
        self, journal: Journal, planned: list[NewJob]
    ) -> None:
        put(journal, "1")
        with journal.write() as connection:
            decide(connection, "1.2.3.0", *planned)
        put(journal, "2")
        with journal.read() as connection:
            (one,) = series.waiting(connection)
        assert (one.state, one.revision, one.images) == ("open", 2, 2)

    def test_the_new_revision_gets_a_job_of_its_own(self, journal: Journal) -> None:
        planned_job(journal)
        planned_job(journal, number=1)
        first, second = claimed_job(journal), claimed_job(journal)
        assert (first.series, second.series) == ((("1.2.3.0", 1),), (("1.2.3.0", 2),))
        with journal.read() as connection:
            assert not series.arrived(connection, first).current
            assert series.arrived(connection, second) == Arrived(current=True, open=False, images=2)

    def test_a_decision_about_what_was_seen_before_the_image_came_is_not_written(
        self, journal: Journal
    ) -> None:
        put(journal, "1")
        with journal.read() as connection:
            (seen,) = series.waiting(connection)
        put(journal, "2")
        with journal.write() as connection:
            assert not series.complete(connection, seen, "quiet")
            (seen,) = series.waiting(connection)
            assert series.complete(connection, seen, "quiet")
        put(journal, "3")
        with journal.write() as connection:
            assert not series.plan(connection, seen, [new_job("m")], [Skip("n", "modality", "")])
        assert state_of(journal, "series", "1.2.3.0") == "open"
        assert count(journal, "jobs") == count(journal, "skips") == 0

    def test_a_duplicate_does_not_open_a_decided_series(self, journal: Journal) -> None:
        planned_job(journal)
        assert put(journal, "1.2.3.0.0") is Recorded.DUPLICATE
        assert state_of(journal, "series", "1.2.3.0") == "planned"


class TestOutbox:
    def test_images_of_a_study_leave_in_the_order_of_arrival(self, journal: Journal) -> None:
        for uid in ("5", "3", "4"):
            put(journal, uid)
        assert claim(journal, limit=2) == ["5", "3"]

    def test_a_study_is_never_sent_by_two_at_a_time(self, journal: Journal) -> None:
        for uid in ("1", "2"):
            put(journal, uid, study_instance_uid="a")
        put(journal, "3", study_instance_uid="b")
        assert claim(journal, limit=1) == ["1"]
        assert claim(journal) == ["3"]
        assert claim(journal) == []

    def test_urgent_results_before_originals_before_routine_results(self, journal: Journal) -> None:
        planned_job(journal)
        job = claimed_job(journal)
        results = [artifact("routine", study="r"), artifact("urgent", urgent=True, study="u")]
        with journal.write() as connection:
            finish_job(connection, job, results, REPORTS)
        put(journal, "late", study_instance_uid="o")
        claimed = [claim(journal) for _ in range(5)]
        assert claimed == [["urgent"], ["1.2.3.0.0"], ["late"], ["routine"], []]

    def test_what_is_postponed_waits_and_holds_up_nobody_else(self, journal: Journal) -> None:
        put(journal, "1")
        put(journal, "2")
        with journal.write() as connection:
            first, second = deliveries.claim(connection, "pacs", limit=2)
            deliveries.settle(connection, first, Postponed("busy", 0xA700), delay_s=1000.0)
            deliveries.settle(connection, second, Stored(0), delay_s=1000.0)
            assert 990 < (deliveries.next_due_s(connection, "pacs") or 0) <= 1000
        put(journal, "3")
        assert claim(journal) == ["3"]

    def test_what_is_refused_is_not_sent_again_and_says_why(self, journal: Journal) -> None:
        put(journal, "1")
        with journal.write() as connection:
            (one,) = deliveries.claim(connection, "pacs", limit=2)
            deliveries.settle(connection, one, Refused("not wanted", 0xA900), delay_s=0.0)
            row = connection.execute("SELECT state, status, reason FROM deliveries").fetchone()
        assert tuple(row) == ("rejected", 0xA900, "not wanted")
        assert claim(journal) == []

    def test_attempts_count_what_was_tried_only(self, journal: Journal) -> None:
        put(journal, "1")
        for _ in range(3):
            with journal.write() as connection:
                (one,) = deliveries.claim(connection, "pacs", limit=1)
                assert one.attempts == 1
                deliveries.unclaim(connection, [one])
        with journal.write() as connection:
            (one,) = deliveries.claim(connection, "pacs", limit=1)
            deliveries.settle(connection, one, Postponed("busy", 0xA700), delay_s=0.0)
            (one,) = deliveries.claim(connection, "pacs", limit=1)
        assert one.attempts == 2

    def test_a_start_takes_back_what_was_being_sent(self, journal: Journal) -> None:
        put(journal, "1")
        claim(journal)
        with journal.write() as connection:
            assert deliveries.release(connection) == 1
            assert deliveries.release(connection) == 0
        assert claim(journal) == ["1"]


class TestJobs:
    def test_the_most_urgent_job_first_and_then_the_oldest(self, journal: Journal) -> None:
        for uid, urgency in (("a", 1), ("b", 0), ("c", 0)):
            planned_job(journal, uid=uid, urgency=urgency)
        order = [claimed_job(journal).series[0][0] for _ in range(3)]
        assert order == ["b", "c", "a"]
        with journal.write() as connection:
            assert jobs.claim(connection, {}) is None

    def test_attempts_are_counted_when_claimed_so_that_a_crash_counts(self, journal: Journal) -> None:
        planned_job(journal)
        for attempt in (1, 2):
            assert claimed_job(journal).attempts == attempt
            with journal.write() as connection:
                assert jobs.release(connection, maximum_attempts=3) == []
        assert claimed_job(journal).attempts == 3
        with journal.write() as connection:
            (failed,) = jobs.release(connection, maximum_attempts=3)
            row = connection.execute("SELECT state, outcome, reason FROM jobs").fetchone()
        assert failed.series == (("1.2.3.0", 1),)
        assert tuple(row) == ("failed", "not_analysed", "crashed")

    def test_stopping_costs_no_attempt(self, journal: Journal) -> None:
        planned_job(journal)
        for _ in range(5):
            job = claimed_job(journal)
            assert job.attempts == 1
            with journal.write() as connection:
                jobs.put_back(connection, job)

    def test_a_failed_attempt_is_due_again_later(self, journal: Journal) -> None:
        planned_job(journal)
        job = claimed_job(journal)
        with journal.write() as connection:
            jobs.retry(connection, job.id, delay_s=1000.0, detail="OSError")
            assert jobs.claim(connection, {}) is None
        assert state_of(journal, "jobs", job.id) == "queued"

    def test_the_first_finished_bytes_are_the_result_for_good(self, journal: Journal) -> None:
        planned_job(journal)
        first = artifact("2.25.9")
        with journal.write() as connection:
            job = jobs.claim(connection, {})
            assert job is not None
            assert finish_job(connection, job, [first], REPORTS) == []
        planned_job(journal, number=1)
        again, new = artifact("2.25.9"), artifact("2.25.10")
        job = claimed_job(journal)
        with journal.write() as connection:
            assert finish_job(connection, job, [again, new], REPORTS) == [again.spool_key]
            assert jobs.artifact_keys(connection) == {first.spool_key, new.spool_key}
        with journal.read() as connection:
            sent = connection.execute("SELECT sop_instance_uid FROM deliveries WHERE spool = 'results'")
            assert [row[0] for row in sent] == ["2.25.9", "2.25.10"]

    def test_finishing_is_all_or_nothing(self, journal: Journal) -> None:
        planned_job(journal)
        job = claimed_job(journal)
        one = artifact("2.25.9")
        with pytest.raises(sqlite3.IntegrityError), journal.write() as connection:
            finish_job(connection, job, [one], REPORTS, outcome="nonsense")
        assert count(journal, "artifacts") == 0
        assert count(journal, "deliveries") == 1
        assert state_of(journal, "jobs", job.id) == "running"

    def test_all_revisions_of_a_series_begin_with_the_first(self, journal: Journal) -> None:
        planned_job(journal)
        first = claimed_job(journal)
        planned_job(journal, number=1)
        planned_job(journal, uid="other")
        second = claimed_job(journal)
        with journal.write() as connection:
            connection.execute("UPDATE jobs SET created_at = 'before' WHERE id = ?", (first.id,))
            connection.execute("UPDATE jobs SET created_at = 'later' WHERE id = ?", (second.id,))
            assert jobs.begun_at(connection, first) == jobs.begun_at(connection, second) == "before"

    def test_what_finished_says_how(self, journal: Journal) -> None:
        planned_job(journal)
        job = claimed_job(journal)
        result = Result("not_analysed", "no_decoder", "a sentence", "sha2")
        with journal.write() as connection:
            jobs.finish(connection, job, result, jobs.Yield(2.5))
            row = connection.execute(
                "SELECT outcome, reason, detail, model_sha256, seconds FROM jobs"
            ).fetchone()
        assert tuple(row) == ("not_analysed", "no_decoder", "a sentence", "sha2", 2.5)


class TestTurns:
    def test_scanners_take_turns_and_the_more_urgent_comes_first(self, journal: Journal) -> None:
        for number, (source, urgency) in enumerate([("A", 2), ("A", 2), ("B", 2), ("B", 1)]):
            uid = f"1.2.{number}"
            with journal.write() as connection:
                record(connection, image(f"{uid}.1", series_instance_uid=uid), PACS)
                decide(connection, uid, new_job("m", urgency, source))
        order, served = [], {"A": 2.0, "B": 1.0}
        for turn in range(4):
            with journal.write() as connection:
                job = jobs.claim(connection, served)
            assert job is not None
            served[job.source] = 3.0 + turn
            order.append((job.source, job.series[0][0]))
        assert order == [("B", "1.2.3"), ("A", "1.2.0"), ("B", "1.2.2"), ("A", "1.2.1")]

    def test_a_job_rests_until_enough_images_came_or_all(self, journal: Journal) -> None:
        put(journal, "1")
        with journal.write() as connection:
            (one,) = series.waiting(connection)
            assert series.begin(connection, one, [new_job()])
            assert not series.begin(connection, one, [new_job()]), "one job for a revision"
        for images_due, number in ((2, "2"), (9, "3")):
            job = claimed_job(journal)
            with journal.write() as connection:
                jobs.rest(connection, job, jobs.Yield(1.0), images_due=images_due)
                assert jobs.claim(connection, {}) is None
            put(journal, number)
        with journal.write() as connection:
            assert jobs.claim(connection, {}) is None, "it waits for nine images"
            (one,) = series.waiting(connection)
            assert series.complete(connection, one, "quiet")
            assert jobs.claim(connection, {}) is None, "nothing is decided yet"
            assert series.plan(connection, one, [new_job()], [])
        assert claimed_job(journal).attempts == 1, "what made progress begins to count anew"

    def test_a_model_that_began_and_does_not_take_the_whole_ends_with_the_reason(
        self, journal: Journal
    ) -> None:
        put(journal, "1")
        with journal.write() as connection:
            (one,) = series.waiting(connection)
            series.begin(connection, one, [new_job()])
            series.complete(connection, one, "quiet")
            assert series.plan(connection, one, [], [Skip("model", "gantry_tilt", "sheared")])
        job = claimed_job(journal)
        with journal.read() as connection:
            assert jobs.refusal(connection, job) == ("gantry_tilt", "sheared")
        assert count(journal, "skips") == 0


class TestReboot:
    def test_timers_start_anew_after_a_reboot(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(database, "boot_seconds", lambda: 9e8)
        journal = open_journal(tmp_path)
        planned_job(journal, uid="a")
        put(journal, "9")
        job = claimed_job(journal)
        with journal.write() as connection:
            jobs.retry(connection, job.id, delay_s=1e9, detail="")
            for sent in deliveries.claim(connection, "pacs", limit=50):
                deliveries.settle(connection, sent, Postponed("busy", 0xA700), delay_s=1e9)
            connection.execute("UPDATE series SET first_s = 1e9, last_s = 1e9")
        open_journal(tmp_path)
        with journal.write() as connection:
            assert jobs.claim(connection, {}) is None, "the same boot changes nothing"
        monkeypatch.setattr(database, "boot_id", lambda: "another boot")
        monkeypatch.setattr(database, "boot_seconds", lambda: 5.0)
        rebooted = open_journal(tmp_path)
        with rebooted.read() as connection:
            (one,) = series.waiting(connection)
        assert (one.first_s, one.last_s) == (5.0, 5.0)
        assert claimed_job(rebooted).id == job.id
        assert len(claim(rebooted)) == 2


class TestTrouble:
    def test_a_locked_journal_is_worth_another_attempt(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database, "_BUSY_TIMEOUT_S", 0.1)
        journal = open_journal(tmp_path)
        put(journal, "1")
        blocker = sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)
        blocker.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TryAgain, match="locked"), journal.write():
            pytest.fail("the block must not be entered")
        with journal.read() as connection:
            assert len(series.waiting(connection)) == 1, "readers go on"
        blocker.execute("ROLLBACK")
        blocker.close()
        assert put(journal, "2") is Recorded.NEW

    def test_a_journal_that_cannot_be_opened_is_worth_another_attempt(self, tmp_path: Path) -> None:
        (tmp_path / "journal.sqlite").mkdir()
        with pytest.raises(TryAgain, match="cannot be opened"):
            open_journal(tmp_path)

    def test_a_start_while_another_writes_is_worth_another_attempt(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database, "_BUSY_TIMEOUT_S", 0.1)
        blocker = sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)
        blocker.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TryAgain, match="cannot be opened"):
            open_journal(tmp_path)
        blocker.close()

    def test_what_is_not_a_journal_is_said_to_be_none(self, tmp_path: Path) -> None:
        (tmp_path / "journal.sqlite").write_bytes(b"no database at all" * 100)
        with pytest.raises(GiveUp, match="not a database"):
            open_journal(tmp_path)

    def test_a_process_that_dies_in_a_transaction_leaves_nothing_of_it(self, tmp_path: Path) -> None:
        put(open_journal(tmp_path), "1")
        script = (
            "import os, sys; from pathlib import Path\n"
            "from appliance.journal.instances import record\n"
            "from tests.journal_samples import PACS, image, open_journal\n"
            "with open_journal(Path(sys.argv[1])).write() as connection:\n"
            "    record(connection, image('2'), PACS)\n"
            "    os._exit(9)\n"
        )
        died = subprocess.run([sys.executable, "-c", script, tmp_path], env=ENVIRONMENT, check=False)
        assert died.returncode == 9
        assert count(open_journal(tmp_path), "instances") == 1
