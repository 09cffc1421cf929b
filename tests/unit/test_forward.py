"""The forwarder's workers against destinations that are slow, busy, away or hang up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance.config.load import load
from appliance.config.schema import Config
from appliance.destinations.base import Parcel
from appliance.domain.errors import TryAgain
from appliance.domain.types import Postponed, Refused, SendResult, Stored
from appliance.journal import deliveries, summary
from appliance.journal.instances import record
from appliance.observe import metrics
from appliance.services.forwarding import forward
from appliance.services.forwarding.forward import Line
from appliance.services.forwarding.ledger import Ledger
from appliance.services.storage import Storage
from tests.journal_samples import artifact, image
from tests.support.processes import wait_until

Answer = Callable[[str, int], SendResult | None]
"""What a destination says to (SOP Instance UID, attempt); None: it hangs up."""


class FakePacs:
    """A destination of any number of workers. `answer` may be changed while it works."""

    def __init__(self) -> None:
        self.answer: Answer = lambda _uid, _attempt: Stored(0)
        self.is_away = False
        self.sent: list[str] = []
        self.batches: list[list[str]] = []
        self.probes = 0
        self.rests = 0
        self._lock = threading.Lock()

    def send(self, parcels: Sequence[Parcel], settle: Callable[[Parcel, SendResult], bool]) -> None:
        if self.is_away:
            raise TryAgain("away")
        with self._lock:
            self.batches.append([parcel.delivery.sop_instance_uid for parcel in parcels])
        for parcel in parcels:
            uid = parcel.delivery.sop_instance_uid
            result = self.answer(uid, parcel.delivery.attempts)
            with self._lock:
                self.sent.append(uid)
            if not settle(parcel, result or Postponed("hung up")):
                return
            if result is None:
                raise TryAgain("hung up")

    def probe(self) -> None:
        self.probes += 1
        if self.is_away:
            raise TryAgain("away")

    def rest(self) -> None:
        self.rests += 1


class Forwarder:
    """The line of workers to one fake PACS, with a journal of its own."""

    def __init__(self, folder: Path, delivery: dict[str, Any]) -> None:
        path = folder / "site.yaml"
        settings = {
            "station": {"ae_title": "EDGE"},
            "storage": {"path": str(folder / "var")},
            "destinations": {"pacs": {"ae_title": "PACS", "host": "pacs", "port": 104}},
            "delivery": {"retry_minimum_s": 0.1, "retry_maximum_s": 0.4, **delivery},
        }
        path.write_text(yaml.safe_dump(settings))
        self.config: Config = load(path)
        self.storage = Storage(self.config)
        self.pacs = FakePacs()
        forward.take_back(self.config, self.storage)
        self.ledger = Ledger(self.storage.journal)
        self.line = Line("pacs", self.config, self.storage, self.ledger)

    def start(self) -> None:
        self.ledger.start()
        for worker in self.line.workers:
            worker.start()

    def put(self, *uids: str, study: str = "1.2.3") -> None:
        with self.storage.journal.write() as connection:
            for uid in uids:
                record(connection, image(uid, study_instance_uid=study), ["pacs"])
        for worker in self.line.workers:
            worker.ring()

    def count(self, *states: str) -> int:
        with self.storage.journal.read() as connection:
            rows = summary.deliveries_by_state(connection)
        return sum(row.count for row in rows if row.labels[2] in states)

    def circuit(self) -> str:
        with self.storage.journal.read() as connection:
            (seen,) = summary.circuits(connection)
        return seen.state

    def stop(self) -> None:
        for worker in self.line.workers:
            worker.stop()
        for worker in self.line.workers:
            worker.join(10)
        self.ledger.close(10)
        assert self.count("sending") == 0
        self.storage.journal.close()


@pytest.fixture(params=[1, 2], ids=["one association", "two associations"])
def forwarder(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Forwarder]:
    pacs: list[FakePacs] = []
    monkeypatch.setattr(forward, "DESTINATIONS", {"dicom": lambda _config, _name: pacs[0]})
    made = FakePacs()
    pacs.append(made)
    started = Forwarder(tmp_path, {"associations": request.param})
    started.pacs = made
    yield started
    started.stop()


UIDS = tuple(f"1.{number}" for number in range(20))


def test_a_study_arrives_in_order(forwarder: Forwarder) -> None:
    forwarder.start()
    forwarder.put(*UIDS[:3])
    forwarder.put(*UIDS[3:])
    wait_until(lambda: forwarder.count("stored") == 20, 10, "all are stored")
    assert forwarder.pacs.sent == list(UIDS)


def test_what_comes_leaves_at_once_and_the_connection_is_let_go_of_later(
    forwarder: Forwarder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.services.forwarding.sending.LINGER_S", 0.3)
    forwarder.start()
    time.sleep(0.2)
    began = time.monotonic()
    forwarder.put("1")
    wait_until(lambda: bool(forwarder.pacs.sent), 5, "it is sent")
    assert time.monotonic() - began < 0.5
    assert forwarder.pacs.rests == 0
    wait_until(lambda: forwarder.pacs.rests == 1, 5, "the connection is let go of")


def test_one_at_which_the_destination_always_hangs_up_holds_up_no_other(forwarder: Forwarder) -> None:
    forwarder.pacs.answer = lambda uid, _attempt: None if uid == "bad" else Stored(0)
    forwarder.put("bad", *UIDS)
    forwarder.start()
    wait_until(lambda: forwarder.count("stored") == 20, 10, "the others are stored")
    wait_until(lambda: forwarder.pacs.sent.count("bad") >= 4, 10, "it is tried again and again")
    assert all(batch == ["bad"] for batch in forwarder.pacs.batches[1:] if "bad" in batch), "always alone"
    assert forwarder.circuit() == "closed"
    forwarder.put("late")
    wait_until(lambda: forwarder.count("stored") == 21, 0.5, "what comes later is not held up")
    forwarder.pacs.answer = lambda _uid, _attempt: Stored(0)
    wait_until(lambda: forwarder.count("stored") == 22, 5, "it arrives when the destination takes it")


def test_a_destination_that_hangs_up_at_everything_is_left_alone_and_found_again(
    forwarder: Forwarder,
) -> None:
    forwarder.pacs.answer = lambda _uid, _attempt: None
    forwarder.put(*UIDS)
    forwarder.start()
    wait_until(lambda: forwarder.pacs.probes >= 2, 10, "it is asked whether it is there")
    assert len(set(forwarder.pacs.sent)) < 10, "not everything is tried in vain"
    forwarder.pacs.answer = lambda _uid, _attempt: Stored(0)
    wait_until(lambda: forwarder.count("stored") == 20, 5, "all are stored soon after")
    assert forwarder.circuit() == "closed"


def test_a_series_at_which_the_destination_hangs_up_holds_up_no_other_study(forwarder: Forwarder) -> None:
    forwarder.pacs.answer = lambda uid, _attempt: None if uid.startswith("bad") else Stored(0)
    forwarder.put(*(f"bad{number}" for number in range(8)), study="bad")
    for study in range(5):
        forwarder.put(*(f"{study}.{number}" for number in range(20)), study=str(study))
    forwarder.start()
    wait_until(lambda: forwarder.count("stored") == 100, 3, "the others are stored soon")
    wait_until(lambda: len({uid for uid in forwarder.pacs.sent if uid.startswith("bad")}) == 8, 20, "all")
    forwarder.put("late", study="late")
    wait_until(lambda: forwarder.count("stored") == 101, 2, "nor what comes later")
    forwarder.pacs.answer = lambda _uid, _attempt: Stored(0)
    wait_until(lambda: forwarder.count("stored") == 109, 5, "all arrive when the destination takes them")


def test_an_urgent_result_goes_before_what_the_destination_hangs_up_at(forwarder: Forwarder) -> None:
    def answer(uid: str, _attempt: int) -> SendResult | None:
        time.sleep(0.05)
        return None if uid.startswith("bad") else Stored(0)

    forwarder.pacs.answer = answer
    forwarder.put("bad1", "bad2", "bad3", study="bad")
    forwarder.start()
    wait_until(lambda: len(forwarder.pacs.sent) >= 6, 10, "they are suspects")
    with forwarder.storage.journal.write() as connection:
        deliveries.enqueue_result(connection, artifact("sr", urgent=True), ["pacs"])
        before = len(forwarder.pacs.sent)
    for worker in forwarder.line.workers:
        worker.ring()
    wait_until(lambda: "sr" in forwarder.pacs.sent, 5, "it is sent")
    assert forwarder.pacs.sent.index("sr") - before <= len(forwarder.line.workers)


def test_a_fault_of_ours_at_one_object_holds_up_no_other(forwarder: Forwarder) -> None:
    def answer(uid: str, _attempt: int) -> SendResult:
        if uid == "bad":
            raise ValueError("a fault")
        return Stored(0)

    forwarder.pacs.answer = answer
    forwarder.put("bad", *UIDS)
    forwarder.start()
    wait_until(lambda: forwarder.count("stored") == 20, 5, "the others are stored")
    assert forwarder.count("pending", "sending") == 1
    assert all(worker.is_alive for worker in forwarder.line.workers)


def test_a_destination_that_is_away_is_asked_by_one_and_costs_no_attempts(forwarder: Forwarder) -> None:
    forwarder.pacs.is_away = True
    forwarder.put(*UIDS)
    forwarder.start()
    wait_until(lambda: forwarder.pacs.probes >= 3, 10, "it is asked whether it is there")
    assert forwarder.circuit() == "open"
    assert forwarder.count("pending") == 20
    forwarder.pacs.is_away = False
    wait_until(lambda: forwarder.count("stored") == 20, 2, "all are stored soon after")
    with forwarder.storage.journal.read() as connection:
        attempts = connection.execute("SELECT DISTINCT attempts FROM deliveries").fetchall()
    assert [row[0] for row in attempts] == [1]
    assert forwarder.circuit() == "closed"
    assert forwarder.pacs.sent == list(UIDS)


def test_what_the_destination_is_too_busy_for_is_sent_again(forwarder: Forwarder) -> None:
    forwarder.pacs.answer = lambda _uid, attempt: Postponed("busy", 0xA700) if attempt < 3 else Stored(0)
    forwarder.put(*UIDS)
    forwarder.start()
    wait_until(lambda: forwarder.count("stored") == 20, 20, "all are stored")
    assert forwarder.circuit() == "closed"


def test_a_destination_that_has_no_room_is_not_flooded_and_found_again(forwarder: Forwarder) -> None:
    forwarder.pacs.answer = lambda _uid, _attempt: Postponed("full", 0xA700)
    many = [f"2.{number}" for number in range(400)]
    forwarder.put(*many)
    forwarder.start()
    time.sleep(1.0)
    assert len(forwarder.pacs.sent) < 200
    forwarder.pacs.answer = lambda _uid, _attempt: Stored(0)
    wait_until(lambda: forwarder.count("stored") == 400, 10, "all are stored")


def test_what_is_refused_needs_a_person_and_holds_up_no_other(forwarder: Forwarder) -> None:
    forwarder.pacs.answer = lambda uid, _attempt: Refused("no", 0xC000) if uid == "bad" else Stored(0)
    forwarder.put("bad", *UIDS)
    forwarder.start()
    wait_until(lambda: forwarder.count("stored") == 20, 10, "the others are stored")
    assert forwarder.count("rejected") == 1
    assert forwarder.pacs.sent.count("bad") == 1


def counted(name: str, **labels: str) -> float:
    value = metrics.REGISTRY.get_sample_value(name, {"destination": "pacs", **labels})
    assert value is not None, "it must be there before its first event"
    return value


def test_what_was_sent_and_what_failed_is_counted(forwarder: Forwarder) -> None:
    names: list[tuple[str, dict[str, str]]] = [
        ("appliance_deliveries_total", {"kind": "original", "result": "stored"}),
        ("appliance_sent_bytes_total", {"kind": "original"}),
        ("appliance_delivery_failures_total", {"status": "A7xx"}),
        ("appliance_delivery_failures_total", {"status": "Cxxx"}),
        ("appliance_delivery_failures_total", {"status": "none"}),
        ("appliance_destination_failures_total", {}),
    ]
    before = [counted(name, **labels) for name, labels in names]
    answers: dict[str, SendResult | None] = {
        "busy": Postponed("busy", 0xA702),
        "bad": Refused("no", 0xC123),
        "poison": None,
    }
    forwarder.pacs.answer = lambda uid, attempt: Stored(0) if attempt > 1 else answers.get(uid, Stored(0))
    forwarder.put("1", "busy", "bad", "poison", "2")
    forwarder.start()
    wait_until(lambda: forwarder.count("stored") == 4, 10, "all but one are stored")
    after = [counted(name, **labels) for name, labels in names]
    # A sample image has 10 bytes.
    assert [now - then for now, then in zip(after, before, strict=True)] == [4, 40, 1, 1, 1, 1]


def test_a_stop_ends_after_the_present_object_and_puts_the_others_back(forwarder: Forwarder) -> None:
    sending = threading.Event()

    def answer(_uid: str, _attempt: int) -> SendResult:
        sending.set()
        time.sleep(0.3)
        return Stored(0)

    forwarder.pacs.answer = answer
    forwarder.put(*UIDS)
    forwarder.start()
    assert sending.wait(5)
    for worker in forwarder.line.workers:
        worker.stop()
    for worker in forwarder.line.workers:
        worker.join(5)
    assert (forwarder.count("stored"), forwarder.count("pending")) == (1, 19)


def test_a_journal_that_is_locked_for_a_while_loses_nothing(
    forwarder: Forwarder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.services.forwarding.ledger._RETRY_S", 0.1)
    blocked = threading.Event()
    write = forwarder.storage.journal.write

    def unwilling() -> Any:
        if blocked.is_set():
            raise TryAgain("locked")
        return write()

    forwarder.pacs.answer = lambda uid, _attempt: blocked.set() or Stored(0)  # type: ignore[func-returns-value]
    forwarder.put(*UIDS)
    monkeypatch.setattr(forwarder.storage.journal, "write", unwilling)
    forwarder.start()
    wait_until(lambda: len(forwarder.pacs.sent) >= 8, 5, "a batch is sent")
    time.sleep(0.5)
    assert forwarder.count("stored") == 0
    forwarder.pacs.answer = lambda _uid, _attempt: Stored(0)
    blocked.clear()
    wait_until(lambda: forwarder.count("stored") == 20, 10, "all are written down")
    assert forwarder.pacs.sent == list(UIDS), "nothing was sent twice"
