"""The order in which the outbox lets go: urgent results, key images, studies in order, routine results."""

from __future__ import annotations

import sqlite3
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from appliance.domain.types import Delivery, Postponed, Priority, Refused, SendResult, Stored
from appliance.journal import deliveries, instances
from appliance.journal.database import Journal
from appliance.journal.interventions import Intervention, intervene
from tests.journal_samples import (
    PACS,
    REPORTS,
    artifact,
    claimed_job,
    finish_job,
    image,
    open_journal,
    planned_job,
)
from tests.support.examples import examples


def receive(journal: Journal, *uids: str, study: str) -> None:
    with journal.write() as connection:
        for uid in uids:
            instances.record(
                connection, image(uid, study_instance_uid=study, series_instance_uid=f"{study}.0"), PACS
            )


def finding(journal: Journal, uid: str, *, study: str, key: str, urgent: bool = True) -> None:
    """A result on an image of the study goes into the outbox."""
    with journal.write() as connection:
        deliveries.enqueue_result(
            connection,
            replace(artifact(uid, urgent=urgent, study=study), key_sop_instance_uids=(key,)),
            PACS,
        )


def claim(journal: Journal, limit: int = 50) -> list[Delivery]:
    with journal.write() as connection:
        return deliveries.claim(connection, "pacs", limit=limit)


def settle(journal: Journal, one: Delivery, result: SendResult, delay_s: float = 1000.0) -> None:
    with journal.write() as connection:
        deliveries.settle(connection, one, result, delay_s=delay_s)


def uids(claimed: list[Delivery]) -> list[str]:
    return [one.sop_instance_uid for one in claimed]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return open_journal(tmp_path)


def test_a_finding_overtakes_a_backlog_but_not_its_own_key_image(journal: Journal) -> None:
    receive(journal, *(f"o{number}" for number in range(30)), study="other")
    receive(journal, "1", "2", "3", study="flagged")
    finding(journal, "sr", study="flagged", key="2")
    (key,) = claim(journal)
    assert (key.sop_instance_uid, key.priority, key.urgent) == ("2", Priority.KEY_IMAGE, True)
    assert uids(claim(journal, limit=1)) == ["o0"], "the result waits while its key image is on its way"
    settle(journal, key, Stored(0))
    (result,) = claim(journal)
    assert (result.sop_instance_uid, result.urgent) == ("sr", True)
    settle(journal, result, Stored(0))
    assert [(one.sop_instance_uid, one.urgent) for one in claim(journal)] == [("1", True), ("3", True)]


def test_a_finding_waits_for_a_key_image_that_another_association_is_sending(journal: Journal) -> None:
    receive(journal, "1", "2", study="flagged")
    sending = claim(journal)
    finding(journal, "sr", study="flagged", key="2")
    assert claim(journal) == []
    settle(journal, sending[0], Stored(0))
    assert claim(journal) == []
    settle(journal, sending[1], Stored(0))
    assert uids(claim(journal)) == ["sr"]


@pytest.mark.parametrize("end", [Stored(0), Refused("no", 0xC000)])
def test_a_finding_waits_for_a_postponed_key_image_until_its_end(journal: Journal, end: SendResult) -> None:
    receive(journal, "1", "2", study="flagged")
    finding(journal, "sr", study="flagged", key="1")
    (key,) = claim(journal)
    settle(journal, key, Postponed("busy", 0xA700))
    assert uids(claim(journal)) == ["2"]
    assert claim(journal) == []
    with journal.write() as connection:
        deliveries.wake(connection, "pacs")
    (key,) = claim(journal)
    settle(journal, key, end)
    assert uids(claim(journal)) == ["sr"]


def test_a_finding_does_not_wait_for_ever_for_a_key_image_that_does_not_get_through(
    journal: Journal,
) -> None:
    receive(journal, "1", study="flagged")
    finding(journal, "sr", study="flagged", key="1")
    for _ in range(3):
        (key,) = claim(journal)
        settle(journal, key, Postponed("busy", 0xA700), delay_s=0.0)
    (key,) = claim(journal)
    assert (key.sop_instance_uid, key.attempts) == ("1", 4)
    assert uids(claim(journal)) == ["sr"]


def test_a_finding_does_not_wait_for_a_key_image_that_a_person_dropped(journal: Journal) -> None:
    receive(journal, "1", study="flagged")
    finding(journal, "sr", study="flagged", key="1")
    (key,) = claim(journal)
    settle(journal, key, Postponed("busy", 0xA700))
    with journal.write() as connection:
        intervene(connection, Intervention.DROP, key.id, "somebody: a test")
    assert uids(claim(journal)) == ["sr"]


def test_a_key_image_that_has_arrived_holds_nothing_up(journal: Journal) -> None:
    receive(journal, "1", study="flagged")
    (one,) = claim(journal)
    settle(journal, one, Stored(0))
    finding(journal, "sr", study="flagged", key="1")
    assert uids(claim(journal)) == ["sr"]


def test_from_the_flag_on_all_of_the_study_is_urgent_on_the_wire(journal: Journal) -> None:
    receive(journal, "1", "2", study="flagged")
    receive(journal, "9", study="other")
    (first,) = claim(journal, limit=1)
    assert not first.urgent
    finding(journal, "sr", study="flagged", key="1")
    settle(journal, first, Stored(0))
    finding(journal, "enhanced", study="flagged", key="1", urgent=False)
    claimed = [one for _ in range(4) for one in claim(journal)]
    assert {one.sop_instance_uid: one.urgent for one in claimed} == {"sr": True, "2": True, "9": False}
    settle(journal, next(one for one in claimed if one.sop_instance_uid == "2"), Stored(0))
    (enhanced,) = claim(journal)
    assert (enhanced.priority, enhanced.urgent) == (Priority.ROUTINE_RESULT, True)


def test_a_job_that_finds_something_flags_its_study(journal: Journal) -> None:
    planned_job(journal)
    job = claimed_job(journal)
    found = replace(artifact("2.25.9", urgent=True), key_sop_instance_uids=("1.2.3.0.0",))
    with journal.write() as connection:
        finish_job(connection, job, [found], REPORTS, outcome="positive")
    assert [(one.sop_instance_uid, one.priority) for one in claim(journal)] == [
        ("1.2.3.0.0", Priority.KEY_IMAGE)
    ]


def test_what_a_connection_ended_at_is_sent_alone(journal: Journal) -> None:
    receive(journal, "1", "2", "3", study="a")
    for one in claim(journal)[:2]:
        settle(journal, one, Postponed("hung up"), delay_s=0.0)
    with journal.write() as connection:
        deliveries.release(connection)
    assert uids(claim(journal)) == ["3"]
    with journal.write() as connection:
        (suspect,) = deliveries.claim_suspect(connection, "pacs")
        assert deliveries.claim_suspect(connection, "pacs") == [], "one at a time"
    settle(journal, suspect, Postponed("busy", 0xA700), delay_s=0.0)
    with journal.write() as connection:
        assert uids(deliveries.claim_suspect(connection, "pacs")) == ["2"]


def test_what_was_being_sent_at_two_deaths_is_sent_alone_and_later(journal: Journal) -> None:
    receive(journal, "1", "2", study="a")
    claim(journal, limit=1)
    with journal.write() as connection:
        deliveries.release(connection, lambda attempts: 1000.0 * attempts)
    assert uids(claim(journal)) == ["1", "2"]
    with journal.write() as connection:
        deliveries.release(connection, lambda attempts: 1000.0 * attempts)
        assert 1990 < (deliveries.next_due_s(connection, "pacs") or 0) <= 2000
    assert uids(claim(journal)) == ["2"]
    with journal.write() as connection:
        deliveries.wake(connection, "pacs")
        assert uids(deliveries.claim_suspect(connection, "pacs")) == ["1"]


def test_a_batch_holds_no_more_bytes_than_asked_for_but_one_object_of_any_size(journal: Journal) -> None:
    with journal.write() as connection:
        for uid, size in (("1", 100), ("2", 10), ("3", 10), ("4", 10)):
            instances.record(connection, image(uid, size=size), PACS)
        assert uids(deliveries.claim(connection, "pacs", limit=50, maximum_bytes=50)) == ["1"]
        deliveries.release(connection)
        assert uids(deliveries.claim(connection, "pacs", limit=50, maximum_bytes=115)) == ["1", "2"]


def test_claims_look_at_no_row_that_they_do_not_claim(journal: Journal) -> None:
    """The plans of every question that a claim asks: searches in an index, never a scan or a sort."""
    receive(journal, "1", study="a")
    asked: list[str] = []
    with journal.write() as connection:
        connection.set_trace_callback(asked.append)
        deliveries.is_claimable(connection, "pacs")
        deliveries.claim(connection, "pacs", limit=5)
        deliveries.claim_suspect(connection, "pacs")
        deliveries.next_due_s(connection, "pacs")
        connection.set_trace_callback(None)
        selects = {text for text in asked if text.startswith(("SELECT", "UPDATE"))}
        assert len(selects) > 8
        for text in selects:
            for row in connection.execute(f"EXPLAIN QUERY PLAN {text}").fetchall():
                assert not row["detail"].startswith(("SCAN", "USE TEMP")) or "CONSTANT" in row["detail"], text


@dataclass
class Study:
    """What the model knows of a study: its originals in order of arrival, its findings and key images."""

    originals: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    key_images: set[str] = field(default_factory=set)


class OutboxMachine(RuleBasedStateMachine):
    """Images and results come in while associations claim, succeed, fail and die, in any order."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.journal = open_journal(Path(self.folder.name))
        self.studies = {name: Study() for name in "abc"}
        self.claims: list[list[Delivery]] = []
        self.number = 0

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self.journal.close()
            self.folder.cleanup()

    def new_uid(self) -> str:
        self.number += 1
        return f"1.{self.number}"

    @rule(study=st.sampled_from("abc"), count=st.integers(1, 4))
    def images_arrive(self, study: str, count: int) -> None:
        new = [self.new_uid() for _ in range(count)]
        receive(self.journal, *new, study=study)
        self.studies[study].originals += new

    @precondition(lambda self: any(one.originals for one in self.studies.values()))
    @rule(data=st.data(), urgent=st.booleans())
    def a_model_answers(self, data: st.DataObject, urgent: bool) -> None:
        name = data.draw(st.sampled_from([name for name, one in self.studies.items() if one.originals]))
        key = data.draw(st.sampled_from(self.studies[name].originals))
        uid = self.new_uid()
        finding(self.journal, uid, study=name, key=key, urgent=urgent)
        if urgent:
            self.studies[name].results.append(uid)
            self.studies[name].key_images.add(key)

    @precondition(lambda self: len(self.claims) < 3)
    @rule(limit=st.integers(1, 3))
    def an_association_claims(self, limit: int) -> None:
        before = self.sending()
        claimed = claim(self.journal, limit)
        if not claimed:
            return
        self.claims.append(claimed)
        assert len({(one.priority, self.study_of(one)) for one in claimed}) == 1
        assert uids(claimed) == sorted(uids(claimed), key=lambda uid: int(uid[2:]))
        study = self.studies[self.study_of(claimed[0])]
        if claimed[0].priority is Priority.URGENT_RESULT:
            assert not study.key_images & (self.pending() | before) - self.tried_in_vain()
        if claimed[0].priority is Priority.ORIGINAL:
            assert not before & (set(study.originals) - study.key_images)
            assert not self.claimable_urgent(before)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), result=st.sampled_from(["stored", "busy", "hung up", "refused"]))
    def an_object_is_settled(self, data: st.DataObject, result: str) -> None:
        batch = data.draw(st.sampled_from(self.claims))
        one = batch.pop(0)
        answer: dict[str, SendResult] = {
            "stored": Stored(0),
            "busy": Postponed("busy", 0xA700),
            "hung up": Postponed("hung up"),
            "refused": Refused("no", 0xC000),
        }
        settle(self.journal, one, answer[result], delay_s=0.0)
        self.claims = [batch for batch in self.claims if batch]

    @precondition(lambda self: self.claims)
    @rule()
    def an_association_ends(self) -> None:
        batch = self.claims.pop()
        with self.journal.write() as connection:
            deliveries.unclaim(connection, batch)

    @rule()
    def the_process_dies(self) -> None:
        self.claims = []
        with self.journal.write() as connection:
            deliveries.release(connection)

    @invariant()
    def the_queues_are_those_of_the_deliveries(self) -> None:
        if not hasattr(self, "journal"):
            return
        with self.journal.read() as connection:
            kept = rows(connection, "SELECT destination, priority, study_instance_uid, head FROM queues")
            real = rows(
                connection,
                "SELECT destination, priority, study_instance_uid, min(id) FROM deliveries"
                " WHERE state = 'pending' AND due_s = 0 AND suspect = 0 GROUP BY 1, 2, 3",
            )
        assert kept == real

    def sending(self) -> set[str]:
        return {one.sop_instance_uid for batch in self.claims for one in batch}

    def pending(self) -> set[str]:
        with self.journal.read() as connection:
            return {
                row[0]
                for row in connection.execute(
                    "SELECT sop_instance_uid FROM deliveries WHERE state = 'pending'"
                )
            }

    def tried_in_vain(self) -> set[str]:
        """Deliveries that have failed so often that nothing waits for them."""
        with self.journal.read() as connection:
            query = "SELECT sop_instance_uid FROM deliveries WHERE attempts > 3"
            return {row[0] for row in connection.execute(query)}

    def claimable_urgent(self, sending: set[str]) -> set[str]:
        """Urgent results that nothing holds back: not suspects, and their key images are gone."""
        with self.journal.read() as connection:
            ready = {
                row[0]
                for row in connection.execute(
                    "SELECT sop_instance_uid FROM deliveries"
                    " WHERE state = 'pending' AND due_s = 0 AND suspect = 0 AND priority = 1"
                )
            }
        pending = self.pending()
        return {
            uid
            for study in self.studies.values()
            for uid in study.results
            if uid in ready
            and not (study.key_images & (pending | sending))
            and not set(study.results) & sending
        }

    def study_of(self, one: Delivery) -> str:
        with self.journal.read() as connection:
            row = connection.execute(
                "SELECT study_instance_uid FROM deliveries WHERE id = ?", (one.id,)
            ).fetchone()
        return str(row[0])


def rows(connection: sqlite3.Connection, query: str) -> list[tuple[object, ...]]:
    return sorted(tuple(row) for row in connection.execute(query))


TestOutboxMachine = OutboxMachine.TestCase
TestOutboxMachine.settings = settings(max_examples=examples(30), stateful_step_count=30, deadline=None)
