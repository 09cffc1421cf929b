"""Storage commitment in the journal: what a report does, and what a scanner is told when."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.commitment import (
    CommitmentReport,
    CommitmentRequest,
    Duty,
    Reference,
    Standing,
    verdict,
)
from appliance.domain.states import DELIVERY
from appliance.domain.types import Origin
from appliance.journal import commitments, instances, summary, transactions
from appliance.journal.commitments import Patience
from appliance.journal.database import Journal, move
from appliance.journal.transactions import Persistence, Transaction
from tests.journal_samples import IMAGE, image, open_journal, state_of
from tests.support.clock import BootClock, stopped_clock

CLASS = IMAGE.sop_class_uid
SCANNER = Origin("SCANNER", "EDGE", "10.0.0.1")
PERSISTENCE = Persistence(lambda attempts: 10.0 * attempts, maximum_attempts=3)
PATIENCE = Patience(unknown_s=60.0, undecided_s=1000.0)
DUTIES = {
    "pacs": Duty(required=True, commits=True),
    "archive": Duty(required=True, commits=False),
    "viewer": Duty(required=False, commits=False),
}


@pytest.fixture
def clock() -> Iterator[BootClock]:
    with stopped_clock() as clock:
        yield clock


@pytest.fixture
def journal(tmp_path: Path, clock: BootClock) -> Journal:
    journal = open_journal(tmp_path)
    with journal.write() as connection:
        transactions.resume(connection, ["pacs"])
    return journal


def receive(journal: Journal, uid: str, *destinations: str, **changes: object) -> None:
    with journal.write() as connection:
        instances.record(connection, image(uid, **changes), destinations)


def deliver(journal: Journal, uid: str, destination: str, *events: str) -> None:
    with journal.write() as connection:
        row = connection.execute(
            "SELECT id FROM deliveries WHERE sop_instance_uid = ? AND destination = ?", (uid, destination)
        ).fetchone()
        for event in events:
            move(connection, DELIVERY, row["id"], event)


def stored(journal: Journal, *uids: str) -> None:
    """Images that the PACS has stored."""
    for uid in uids:
        receive(journal, uid, "pacs")
        deliver(journal, uid, "pacs", "claim", "ack")


def asked(journal: Journal) -> Transaction:
    """What the PACS is asked now."""
    with journal.write() as connection:
        transaction = transactions.make(connection, "pacs", limit=500)
        assert transaction is not None
        transactions.asked(connection, transaction)
    return transaction


def uids(transaction: Transaction) -> list[str]:
    return [reference.sop_instance_uid for reference in transaction.references]


def report(
    journal: Journal, transaction: Transaction, *committed: str, **failures: int
) -> transactions.Answered:
    """The PACS reports; a failure is given as `_UID=reason`."""
    reasons = {uid[1:]: reason for uid, reason in failures.items()}
    with journal.write() as connection:
        told = CommitmentReport(transaction.transaction_uid, frozenset(committed), reasons)
        return transactions.answer(connection, told, PERSISTENCE)


def due(journal: Journal) -> int:
    with journal.read() as connection:
        return transactions.due(connection, "pacs", limit=500)


def delivery_state(journal: Journal, uid: str) -> str:
    with journal.read() as connection:
        query = "SELECT state FROM deliveries WHERE sop_instance_uid = ? AND destination = 'pacs'"
        return str(connection.execute(query, (uid,)).fetchone()[0])


class TestAsking:
    def test_what_is_committed_is_asked_about_no_more(self, journal: Journal) -> None:
        stored(journal, "1", "2")
        transaction = asked(journal)
        assert uids(transaction) == ["1", "2"]
        assert due(journal) == 0
        assert report(journal, transaction, "1", "2").committed == 2
        assert {delivery_state(journal, uid) for uid in "12"} == {"committed"}
        with journal.read() as connection:
            assert summary.uncommitted(connection) == []

    def test_only_what_is_stored_where_it_is_to_be_committed_is_asked_about(self, journal: Journal) -> None:
        receive(journal, "1", "pacs", "archive")
        deliver(journal, "1", "archive", "claim", "ack")
        deliver(journal, "1", "pacs", "claim")
        assert due(journal) == 0

    def test_a_request_has_at_most_so_many_instances(self, journal: Journal) -> None:
        stored(journal, "1", "2", "3")
        with journal.write() as connection:
            one = transactions.make(connection, "pacs", limit=2)
            other = transactions.make(connection, "pacs", limit=2)
        assert one is not None
        assert other is not None
        assert [len(uids(one)), len(uids(other))] == [2, 1]
        assert one.transaction_uid != other.transaction_uid

    def test_one_uid_with_two_contents_is_one_instance_of_a_request(self, journal: Journal) -> None:
        stored(journal, "1")
        receive(journal, "1", "pacs", checksum="other")
        with journal.write() as connection:
            rows = connection.execute("SELECT id FROM deliveries WHERE state = 'pending'").fetchall()
            for event in ("claim", "ack"):
                move(connection, DELIVERY, rows[0]["id"], event)
        transaction = asked(journal)
        assert uids(transaction) == ["1"]
        assert report(journal, transaction, "1").committed == 2

    @pytest.mark.parametrize("reason", [0x0112, 0x0213])
    def test_what_the_pacs_does_not_have_is_sent_again_and_asked_about_anew(
        self, journal: Journal, clock: BootClock, reason: int
    ) -> None:
        stored(journal, "1", "2")
        first = asked(journal)
        report(journal, first, "2", _1=reason)
        assert (delivery_state(journal, "1"), delivery_state(journal, "2")) == ("pending", "committed")
        clock.advance(100.0)
        assert due(journal) == 0
        deliver(journal, "1", "pacs", "claim", "ack")
        second = asked(journal)
        assert uids(second) == ["1"]
        assert second.transaction_uid != first.transaction_uid
        report(journal, second, "1")
        assert delivery_state(journal, "1") == "committed"

    @pytest.mark.parametrize("reason", [0x0110, 0x0119, 0x0122, 0x0131])
    def test_any_other_no_is_asked_about_again_a_few_times(
        self, journal: Journal, clock: BootClock, reason: int
    ) -> None:
        stored(journal, "1")
        for attempt in (1, 2):
            report(journal, asked(journal), _1=reason)
            assert delivery_state(journal, "1") == "stored"
            clock.advance(10.0 * attempt - 1.0)
            assert due(journal) == 0
            clock.advance(2.0)
            assert due(journal) == 1
        report(journal, asked(journal), _1=reason)
        clock.advance(1e6)
        assert due(journal) == 0
        with journal.read() as connection:
            (given_up,) = summary.uncommitted(connection)
        assert given_up.labels == ("pacs", "given_up")
        # A restart is the way to ask again, once the destination was put right.
        with journal.write() as connection:
            transactions.resume(connection, ["pacs"])
        assert uids(asked(journal)) == ["1"]

    def test_what_a_report_leaves_out_is_not_committed(self, journal: Journal, clock: BootClock) -> None:
        stored(journal, "1", "2")
        answered = report(journal, asked(journal), "1")
        assert answered.failures == {0x0110: 1}
        assert delivery_state(journal, "2") == "stored"
        clock.advance(11.0)
        assert due(journal) == 1

    def test_a_failure_outweighs_success_in_the_same_report(self, journal: Journal) -> None:
        stored(journal, "1")
        assert report(journal, asked(journal), "1", _1=0x0110).committed == 0
        assert delivery_state(journal, "1") == "stored"

    def test_a_report_counts_once(self, journal: Journal, clock: BootClock) -> None:
        stored(journal, "1")
        transaction = asked(journal)
        report(journal, transaction, _1=0x0112)
        deliver(journal, "1", "pacs", "claim", "ack")
        assert report(journal, transaction, _1=0x0112).failures == {}
        assert delivery_state(journal, "1") == "stored"

    def test_without_a_report_it_is_asked_again_and_the_late_one_still_counts(
        self, journal: Journal, clock: BootClock
    ) -> None:
        stored(journal, "1", "2")
        first = asked(journal)
        clock.advance(100.0)
        with journal.write() as connection:
            (overdue,) = transactions.overdue(connection, "pacs", patience_s=99.0)
            transactions.expire(connection, overdue, delay_s=0.0)
        second = asked(journal)
        assert second.transaction_uid != first.transaction_uid
        report(journal, first, "1", _2=0x0112)
        assert (delivery_state(journal, "1"), delivery_state(journal, "2")) == ("committed", "stored")
        assert report(journal, second, "1", "2").committed == 1
        assert delivery_state(journal, "2") == "committed"

    def test_a_report_may_be_faster_than_the_answer(self, journal: Journal) -> None:
        stored(journal, "1")
        with journal.write() as connection:
            transaction = transactions.make(connection, "pacs", limit=500)
        assert transaction is not None
        report(journal, transaction, "1")
        with journal.write() as connection:
            transactions.asked(connection, transaction)
            transactions.expire(connection, transaction.id, delay_s=0.0)
        assert state_of(journal, "commitment_transactions", transaction.id) == "answered"
        assert delivery_state(journal, "1") == "committed"

    def test_a_restart_asks_anew_what_nobody_knows_was_asked(self, journal: Journal) -> None:
        stored(journal, "1")
        with journal.write() as connection:
            first = transactions.make(connection, "pacs", limit=500)
            transactions.resume(connection, ["pacs"])
        assert first is not None
        assert state_of(journal, "commitment_transactions", first.id) == "expired"
        second = asked(journal)
        with journal.write() as connection:
            transactions.resume(connection, ["pacs"])
        assert state_of(journal, "commitment_transactions", second.id) == "asked"
        assert due(journal) == 0

    def test_what_was_stored_before_commitment_was_wanted_is_asked_about(self, journal: Journal) -> None:
        with journal.write() as connection:
            transactions.resume(connection, [])
        stored(journal, "1")
        assert due(journal) == 0
        with journal.write() as connection:
            transactions.resume(connection, ["pacs"])
        assert due(journal) == 1
        with journal.write() as connection:
            transactions.resume(connection, [])
            assert connection.execute("SELECT count(*) FROM uncommitted").fetchone()[0] == 0

    def test_what_left_the_spool_cannot_be_sent_again(self, journal: Journal, clock: BootClock) -> None:
        stored(journal, "1")
        transaction = asked(journal)
        with journal.write() as connection:
            connection.execute("UPDATE files SET state = 'purged'")
        report(journal, transaction, _1=0x0112)
        assert delivery_state(journal, "1") == "stored"


STANDINGS = st.builds(Standing, st.sampled_from(DELIVERY.states), st.sampled_from(list(DUTIES.values())))


@given(st.lists(st.lists(STANDINGS, max_size=3), min_size=1, max_size=3))
def test_success_is_said_only_of_what_all_required_destinations_have(files: list[list[Standing]]) -> None:
    answer = verdict(files)
    required = [[one for one in file if one.duty.required] for file in files]
    safe = all(
        one.state == "committed" or (one.state == "stored" and not one.duty.commits)
        for file in required
        for one in file
    )
    assert (answer == 0) == (safe and all(required))
    undecided = {one.state for file in required for one in file} & {"pending", "sending", "stored"}
    assert answer is not None or undecided


class TestAnswering:
    def ask(self, journal: Journal, *uids: str, sop_class: str = CLASS, transaction: str = "1.9") -> bool:
        request = CommitmentRequest(transaction, tuple(Reference(sop_class, uid) for uid in uids))
        with journal.write() as connection:
            return commitments.request(connection, request, SCANNER)

    def answers(self, journal: Journal) -> dict[str, int] | None:
        with journal.read() as connection:
            (commitment,) = commitments.due(connection, "requested")
            return commitments.verdicts(connection, commitment, DUTIES, PATIENCE)

    def test_the_scanner_waits_for_the_last_required_destination(self, journal: Journal) -> None:
        receive(journal, "1", "pacs", "archive", "viewer")
        self.ask(journal, "1")
        assert self.answers(journal) is None
        deliver(journal, "1", "archive", "claim", "ack")
        assert self.answers(journal) is None
        deliver(journal, "1", "pacs", "claim", "ack")
        assert self.answers(journal) is None
        deliver(journal, "1", "pacs", "commit")
        assert self.answers(journal) == {"1": 0}

    @pytest.mark.parametrize("events", [("claim", "reject"), ("drop",)])
    def test_what_a_person_has_to_decide_about_is_a_failure(
        self, journal: Journal, events: tuple[str, ...]
    ) -> None:
        receive(journal, "1", "archive")
        deliver(journal, "1", "archive", *events)
        self.ask(journal, "1")
        assert self.answers(journal) == {"1": 0x0110}

    def test_the_spool_alone_is_no_success(self, journal: Journal) -> None:
        receive(journal, "1", "viewer")
        deliver(journal, "1", "viewer", "claim", "ack")
        self.ask(journal, "1")
        assert self.answers(journal) == {"1": 0x0110}

    def test_an_unknown_instance_may_still_turn_up_for_a_while(
        self, journal: Journal, clock: BootClock
    ) -> None:
        self.ask(journal, "1")
        clock.advance(59.0)
        assert self.answers(journal) is None
        clock.advance(2.0)
        assert self.answers(journal) == {"1": 0x0112}
        receive(journal, "1", "archive")
        assert self.answers(journal) is None

    def test_another_class_is_a_conflict(self, journal: Journal) -> None:
        receive(journal, "1", "archive")
        deliver(journal, "1", "archive", "claim", "ack")
        self.ask(journal, "1", sop_class="1.2.840.10008.5.1.4.1.1.4")
        assert self.answers(journal) == {"1": 0x0119}

    def test_in_the_end_what_is_outstanding_is_a_failure(self, journal: Journal, clock: BootClock) -> None:
        receive(journal, "1", "archive")
        receive(journal, "2", "archive")
        deliver(journal, "2", "archive", "claim", "ack")
        self.ask(journal, "1", "2", "3")
        clock.advance(999.0)
        assert self.answers(journal) is None
        clock.advance(2.0)
        assert self.answers(journal) == {"1": 0x0110, "2": 0, "3": 0x0112}

    def test_a_request_for_all_that_came_of_a_series_says_that_it_is_complete(self, journal: Journal) -> None:
        def names_series() -> bool:
            with journal.read() as connection:
                return commitments.names_series(connection, IMAGE.series_instance_uid)

        for uid in "12":
            receive(journal, uid)
        assert not names_series()
        self.ask(journal, "1", transaction="1.7")
        self.ask(journal, "2", transaction="1.8")
        assert not names_series()
        self.ask(journal, "1", "2", "3", transaction="1.9")
        assert not names_series()
        receive(journal, "3", series_instance_uid="1.2.4")
        assert names_series()
        receive(journal, "4")
        assert not names_series()

    def test_a_repeated_request_is_answered_once_more(self, journal: Journal, clock: BootClock) -> None:
        receive(journal, "1", "archive")
        deliver(journal, "1", "archive", "claim", "ack")
        assert self.ask(journal, "1")
        assert self.ask(journal, "1")
        assert not self.ask(journal, "1", "2")
        for _ in range(2):
            with journal.write() as connection:
                (commitment,) = commitments.due(connection, "requested")
                commitments.aggregate(connection, commitment, {"1": 0})
                (ready,) = commitments.due(connection, "ready")
                told, references = commitments.report(connection, ready)
                commitments.reported(connection, ready)
            assert told == CommitmentReport("1.9", frozenset({"1"}), {})
            assert references == [Reference(CLASS, "1")]
            assert self.ask(journal, "1")

    def test_a_scanner_that_is_away_is_tried_again_with_all_its_reports(
        self, journal: Journal, clock: BootClock
    ) -> None:
        for transaction in ("1.8", "1.9"):
            self.ask(journal, "1", transaction=transaction)
        with journal.write() as connection:
            for commitment in commitments.due(connection, "requested"):
                commitments.aggregate(connection, commitment, {"1": 0x0112})
            ready = commitments.due(connection, "ready")
            commitments.postpone(connection, ready[0], "away", delay_s=10.0)
            assert commitments.due(connection, "ready") == []
        clock.advance(11.0)
        with journal.write() as connection:
            first, second = commitments.due(connection, "ready")
            assert {first.attempts, second.attempts} == {0, 1}
            commitments.expire(connection, first, "away")
            commitments.reported(connection, second)
            assert [count.labels[1] for count in summary.commitments_by_state(connection)] == [
                "failed", "reported"
            ]  # fmt: skip
