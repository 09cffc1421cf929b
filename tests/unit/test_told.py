"""Who was told what, in the journal: once, in order, never silently withheld, and not without an alarm."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from appliance.config.load import load
from appliance.domain.types import Delivery, EarlyFlag, Job, Refused, SendResult, Stored
from appliance.journal import deliveries, jobs, messages
from appliance.journal.database import Journal
from appliance.journal.instances import record
from appliance.journal.messages import Message
from appliance.observe import metrics
from appliance.results.notification import Notification
from appliance.services.inference.messenger import Messenger
from appliance.services.monitoring.alarm import Alarm
from appliance.services.storage import Storage
from appliance.spool.store import PREAMBLE_BYTES
from tests.journal_samples import claimed_job, decide, finish_job, image, new_job, open_journal, planned_job
from tests.message_samples import NEGATIVE, NOTIFICATION

SERIES = NOTIFICATION.series_instance_uid
MODEL = "head-ct-triage"
TOLD = ("ris", "pager")


class Site:
    """A journal and a messenger for an HL7 listener and a webhook."""

    def __init__(self, folder: Path) -> None:
        (folder / "secret").write_bytes(b"0123456789abcdef")
        path = folder / "site.yaml"
        path.write_text(
            yaml.safe_dump(
                {
                    "station": {"ae_title": "EDGE"},
                    "storage": {"path": "./var", "durability": "os"},
                    "destinations": {
                        "ris": {"kind": "hl7", "host": "ris", "port": 2575, "alarm_after_minutes": 0.001},
                        "pager": {"kind": "webhook", "url": "http://pager/", "secret": "secret"},
                    },
                }
            )
        )
        self.config = load(path)
        self.config.storage.path.mkdir()
        self.journal: Journal = open_journal(self.config.storage.path)
        self.storage = Storage(self.config)
        self.messenger = Messenger(self.config, self.storage)
        planned_job(self.journal, uid=SERIES, model=MODEL)

    def close(self) -> None:
        self.storage.journal.close()

    def revise(self, number: int) -> None:
        """One more image of the series arrives."""
        with self.journal.write() as connection:
            record(connection, image(f"{SERIES}.{number}", series_instance_uid=SERIES), ())
            decide(connection, SERIES, new_job(MODEL))

    def tell(self, told: Notification, kinds: frozenset[str] = frozenset({"message"})) -> list[Message]:
        """Finish the next job with this answer; the messages about it."""
        job = claimed_job(self.journal)
        told = replace(told, uid=f"2.25.{job.id}", revision=job.series[0][1])
        made = self.messenger.messages(job, told, TOLD, kinds)
        self.finish(job, told, made)
        return made

    def finish(self, job: Job, told: Notification, made: list[Message]) -> list[str]:
        with self.journal.write() as connection:
            return finish_job(connection, job, outcome=told.verdict, told=made)

    def claim(self, destination: str) -> list[Delivery]:
        with self.journal.write() as connection:
            return deliveries.claim(connection, destination, limit=10, maximum_bytes=10**9)

    def settle(self, delivery: Delivery, result: SendResult) -> None:
        with self.journal.write() as connection:
            deliveries.settle(connection, delivery, result, delay_s=3600.0)

    def states(self, destination: str) -> list[tuple[str, str | None]]:
        """State and reason of each delivery."""
        with self.journal.read() as connection:
            rows = connection.execute(
                "SELECT state, reason FROM deliveries WHERE destination = ? ORDER BY id", (destination,)
            ).fetchall()
        return [tuple(row) for row in rows]

    def content(self, message: Message) -> bytes:
        return self.storage.results.path(message.artifact.spool_key).read_bytes()[PREAMBLE_BYTES:]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


def test_a_positive_goes_to_each_destination_ahead_of_all_else(site: Site) -> None:
    made = site.tell(NOTIFICATION)
    assert {message.destination for message in made} == set(TOLD)
    assert len({message.artifact.sop_instance_uid for message in made}) == 2
    for name in TOLD:
        (delivery,) = site.claim(name)
        assert delivery.priority.name == "URGENT_RESULT"
        site.settle(delivery, Stored(0))
        assert site.states(name) == [("stored", None)]


def test_a_negative_is_not_told_unless_it_is_wanted(site: Site) -> None:
    assert site.tell(NEGATIVE, frozenset({"sr"})) == []
    site.revise(1)
    assert len(site.tell(NEGATIVE)) == 2


def test_a_job_that_ends_twice_tells_once(site: Site) -> None:
    job = claimed_job(site.journal)
    first = site.messenger.messages(job, NOTIFICATION, TOLD, {"message"})
    again = site.messenger.messages(job, NOTIFICATION, TOLD, {"message"})
    assert [site.content(message) for message in first] == [site.content(message) for message in again]
    assert site.finish(job, NOTIFICATION, first) == []
    with site.journal.write() as connection:
        connection.execute("UPDATE jobs SET state = 'running'")
    assert site.finish(job, NOTIFICATION, again) == [message.artifact.spool_key for message in again]
    assert [len(site.states(name)) for name in TOLD] == [1, 1]


@pytest.mark.parametrize("answer", [Stored(0), Refused("no such patient")])
def test_what_was_told_early_is_not_told_again_at_the_end(site: Site, answer: SendResult) -> None:
    job = claimed_job(site.journal)
    early = site.messenger.messages(job, replace(NOTIFICATION, uid="2.25.1", early=True), TOLD, {"message"})
    flag = EarlyFlag(NOTIFICATION.score, "1.2.3")
    with site.journal.write() as connection:
        jobs.rest(connection, job, jobs.Yield(1.0, told=early, flag=flag), images_due=0)
    for name in TOLD:
        (delivery,) = site.claim(name)
        site.settle(delivery, answer)
    job = claimed_job(site.journal)
    assert job.flag == flag
    assert site.messenger.messages(job, NOTIFICATION, TOLD, {"message"}) == []


def test_the_same_answer_to_more_images_is_no_news(site: Site) -> None:
    site.tell(NOTIFICATION)
    site.revise(1)
    assert site.tell(NOTIFICATION) == []
    site.revise(2)
    changed = site.tell(NEGATIVE, frozenset())
    assert len(changed) == 2
    assert json.loads(site.content(changed[1]))["outcome"] == "negative"
    site.revise(3)
    assert site.tell(NEGATIVE, frozenset()) == []
    site.revise(4)
    assert len(site.tell(NOTIFICATION)) == 2


def test_a_message_that_waits_gives_way_to_a_later_answer(site: Site) -> None:
    site.tell(NOTIFICATION)
    (sending,) = site.claim("pager")
    site.revise(1)
    site.tell(NEGATIVE)
    # Otherwise the first, once postponed, could arrive after the second.
    assert [state for state, _ in site.states("ris")] == ["dropped", "pending"]
    assert [state for state, _ in site.states("pager")] == ["sending", "pending"]
    site.settle(sending, Stored(0))


def test_what_a_person_has_to_look_at_was_not_told(site: Site) -> None:
    site.tell(NOTIFICATION)
    (delivery,) = site.claim("ris")
    site.settle(delivery, Refused("the destination answers AE, 10 times", 207))
    site.revise(1)
    assert [message.destination for message in site.tell(NOTIFICATION)] == ["ris"]


def test_without_an_accession_number_a_person_decides(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    counter = metrics.MESSAGES_WITHHELD.labels(destination="ris", reason="no_accession_number")
    before = counter._value.get()
    unnumbered = replace(NOTIFICATION, order=replace(NOTIFICATION.order, accession_number=""))
    with caplog.at_level(logging.ERROR):
        made = site.tell(unnumbered)
    assert len(made) == 2
    ((state, reason),) = site.states("ris")
    assert state == "rejected"
    assert "no accession number" in str(reason)
    assert [state for state, _ in site.states("pager")] == ["pending"]
    assert counter._value.get() == before + 1
    (found,) = [one for one in caplog.records if one.message == "message_withheld"]
    assert "SYNTHETIC" not in str(vars(found))


def test_the_alarm_is_raised_once_and_counts_until_it_is_acknowledged(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    alarm = Alarm(site.config)

    def look() -> tuple[int, dict[str, float], list[str]]:
        with site.journal.read() as connection:
            alarm.look(connection)
            oldest, overdue = alarm.families(connection)
            lines = alarm.lines(connection)
        logged = [one for one in caplog.records if one.message == "message_unacknowledged"]
        assert {sample.labels["destination"] for sample in oldest.samples} == set(TOLD)
        return len(logged), {one.labels["destination"]: one.value for one in overdue.samples}, lines

    with caplog.at_level(logging.ERROR):
        assert look() == (0, {"ris": 0.0, "pager": 0.0}, [])
        site.tell(NOTIFICATION)
        with site.journal.write() as connection:
            connection.execute("UPDATE deliveries SET created_s = created_s - 1")
        line = "ris has not acknowledged 1 messages in time"
        assert look() == (1, {"ris": 1.0, "pager": 0.0}, [line])
        (delivery,) = site.claim("ris")
        assert look() == (1, {"ris": 1.0, "pager": 0.0}, [line])
        site.settle(delivery, Refused("the destination answers AE, 10 times", 207))
        assert look() == (1, {"ris": 1.0, "pager": 0.0}, [line])
        with site.journal.read() as connection:
            (waiting,) = messages.unacknowledged(connection, ["ris"])
        assert (waiting.state, waiting.attempts) == ("rejected", 1)
        with site.journal.write() as connection:
            connection.execute("UPDATE deliveries SET state = 'stored'")
        assert look() == (1, {"ris": 0.0, "pager": 0.0}, [])
