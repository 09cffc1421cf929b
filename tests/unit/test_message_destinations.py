"""HL7, UPS and webhook destinations against real peers that answer in every way, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian

from appliance.config.load import load
from appliance.config.schema import Config
from appliance.destinations import DESTINATIONS
from appliance.destinations.base import Destination, Parcel
from appliance.destinations.ups import judge_cancellation
from appliance.destinations.webhook import signature
from appliance.domain.errors import Misconfigured, TryAgain
from appliance.domain.types import Delivery, Postponed, Priority, Refused, SendResult, Stored
from appliance.results.messages import CannotTell, Written, message_writer
from appliance.results.notification import Notification
from appliance.results.ups_workitem import UPS_PUSH, request_to_cancel
from appliance.services.administration.preflight import check
from appliance.spool.store import PREAMBLE_BYTES, Spool
from tests.message_samples import NEGATIVE, NOTIFICATION
from tests.support.certificates import certificates
from tests.support.message_peers import (
    HANG_UP,
    SILENCE,
    Hl7Server,
    UpsManager,
    WebhookReceiver,
    server_tls,
)
from tests.support.processes import free_port

SECRET = b"0123456789abcdef-secret"


P = TypeVar("P", Hl7Server, UpsManager, WebhookReceiver)


class Running:
    """Starts peers, and stops them at the end."""

    def __init__(self) -> None:
        self.peers = ExitStack()

    def __call__(self, peer: P) -> P:
        peer.start()
        self.peers.callback(peer.stop)
        return peer


@pytest.fixture
def run() -> Iterator[Running]:
    """`run(peer)` starts it."""
    running = Running()
    with running.peers:
        yield running


class Site:
    """One destination of a configuration in `folder`, and messages for it in a spool."""

    def __init__(self, folder: Path, **settings: object) -> None:
        (folder / "secret").write_bytes(SECRET + b"\n")
        path = folder / "site.yaml"
        path.write_text(
            yaml.safe_dump(
                {
                    "station": {"ae_title": "EDGE"},
                    "storage": {"path": "./var"},
                    "destinations": {"told": settings},
                    "delivery": {"dimse_timeout_s": 1.0},
                }
            )
        )
        self.config: Config = load(path)
        self.destination: Destination = DESTINATIONS[str(settings["kind"])](self.config, "told")
        self._spool = Spool(folder / "spool", "os")
        self._attempts: dict[str, int] = {}

    def parcel(self, told: Notification = NOTIFICATION, *, attempts: int = 1) -> Parcel:
        """The spooled message about a finding."""
        return self._parcel(message_writer(self.config, "told")(told), attempts)

    def cancellation(self, workitem_uid: str, *, attempts: int = 1) -> Parcel:
        """The spooled request to cancel a workitem."""
        content = request_to_cancel(workitem_uid, "wrong\nh\u00e4matoma", "EDGE")[PREAMBLE_BYTES:]
        written = Written("ups_cancel", "2.25.5", content, UPS_PUSH, ExplicitVRLittleEndian)
        return self._parcel(written, attempts)

    def _parcel(self, written: Written, attempts: int) -> Parcel:
        key = self._spool.put((written.content,))
        delivery = Delivery(
            id=1,
            destination="told",
            spool="results",
            spool_key=key,
            sop_instance_uid=written.uid,
            sop_class_uid=written.sop_class_uid,
            transfer_syntax_uid=written.transfer_syntax_uid,
            size=len(written.content),
            priority=Priority.URGENT_RESULT,
            attempts=attempts,
            urgent=True,
        )
        return Parcel(delivery, self._spool.path(key))

    def send(self, *parcels: Parcel) -> list[SendResult]:
        """What became of the parcels, as far as they were tried before the destination failed."""
        results: list[SendResult] = []

        def settle(_parcel: Parcel, result: SendResult) -> bool:
            results.append(result)
            return True

        try:
            self.destination.send(parcels, settle)
        except TryAgain:
            results.append(Postponed("the destination failed"))
        return results


def hl7(folder: Path, port: int, **more: object) -> Site:
    return Site(folder, **{"kind": "hl7", "host": "127.0.0.1", "port": port, "timeout_s": 1.0, **more})


def webhook(folder: Path, port: int, **more: object) -> Site:
    url = f"http://127.0.0.1:{port}/findings?site=1"
    return Site(folder, **{"kind": "webhook", "url": url, "secret": "secret", "timeout_s": 1.0, **more})


def ups(folder: Path, port: int, **more: object) -> Site:
    place = {"ae_title": "RIS", "host": "127.0.0.1", "port": port, "retrieve_ae_title": "PACS"}
    return Site(folder, **{"kind": "ups", **place, **more})


FAILED = Postponed("the destination failed")


def test_hl7_messages_are_acknowledged_on_one_connection(tmp_path: Path, run: Running) -> None:
    server = run(Hl7Server(["AA", "CA"]))
    site = hl7(tmp_path, server.port, receiving_application="RIS")
    assert site.send(site.parcel(), site.parcel(NEGATIVE)) == [Stored(0), Stored(0)]
    assert server.connections == 1
    assert str(server.messages[0].segment("MSH")[5]) == "RIS"
    assert str(server.messages[0].segment("PID")[5]) == "Sample^Synthetic^Middle^Jr^Dr"
    site.destination.probe()
    site.destination.rest()


def test_an_hl7_connection_that_ended_meanwhile_is_no_failure(tmp_path: Path, run: Running) -> None:
    port = free_port()
    first = Hl7Server(port=port).start()
    site = hl7(tmp_path, port)
    assert site.send(site.parcel()) == [Stored(0)]
    first.stop()
    second = run(Hl7Server(port=port))
    assert site.send(site.parcel()) == [Stored(0)]
    assert len(second.messages) == 1
    site.destination.rest()


@pytest.mark.parametrize(
    ("answer", "attempts", "result"),
    [
        ("AE", 1, Postponed("the destination answers AE", 207)),
        ("AR", 9, Postponed("the destination answers AR", 207)),
        ("CR", 10, Refused("the destination answers CR, 10 times", 207)),
        ("AE", 11, Refused("the destination answers AE, 11 times", 207)),
    ],
)
def test_hl7_errors_are_retried_for_a_while(
    tmp_path: Path, run: Running, answer: str, attempts: int, result: SendResult
) -> None:
    server = run(Hl7Server([answer, "AA"]))
    site = hl7(tmp_path, server.port)
    # What comes behind it is sent on the same connection.
    assert site.send(site.parcel(attempts=attempts), site.parcel(NEGATIVE)) == [result, Stored(0)]
    assert server.connections == 1
    site.destination.rest()


@pytest.mark.parametrize("answer", [SILENCE, HANG_UP])
def test_without_an_hl7_answer_the_same_message_is_sent_again(
    tmp_path: Path, run: Running, answer: str
) -> None:
    server = run(Hl7Server([answer, "AA"]))
    site = hl7(tmp_path, server.port)
    parcel = site.parcel()
    first, failed = site.send(parcel, site.parcel(NEGATIVE))
    assert isinstance(first, Postponed)
    assert first.status is None
    assert failed == FAILED
    assert site.send(parcel) == [Stored(0)]
    one, two = server.messages
    assert str(one) == str(two)
    site.destination.rest()


def test_hl7_over_tls_with_certificates_on_both_sides(tmp_path: Path, run: Running) -> None:
    certificates(tmp_path, "ris", "edge")
    server = run(Hl7Server(tls=server_tls(tmp_path, "ris")))
    files = {"ca": "ca.pem", "certificate": "edge.pem", "key": "edge.key", "name": "ris"}
    site = hl7(tmp_path, server.port, tls=files)
    assert site.send(site.parcel()) == [Stored(0)]
    site.destination.rest()
    other = hl7(tmp_path, server.port, tls={**files, "name": "pacs"})
    with pytest.raises(TryAgain, match=r"not valid for .pacs."):
        other.destination.probe()


@pytest.mark.parametrize("make", [hl7, webhook, ups])
def test_nobody_there(tmp_path: Path, make: Callable[..., Site]) -> None:
    site = make(tmp_path, free_port())
    assert site.send(site.parcel()) == [FAILED]
    with pytest.raises(TryAgain):
        site.destination.probe()
    site.destination.rest()


def test_a_document_is_signed_and_named(tmp_path: Path, run: Running) -> None:
    receiver = run(WebhookReceiver(SECRET, [202]))
    site = webhook(tmp_path, receiver.port)
    parcel = site.parcel()
    assert site.send(parcel, parcel) == [Stored(0), Stored(0)]
    assert receiver.refused_signatures == 0
    assert receiver.documents[0] == receiver.documents[1]
    request, again = receiver.requests
    assert request["path"] == "/findings?site=1"
    assert request["Idempotency-Key"] == again["Idempotency-Key"] == receiver.documents[0]["id"]
    site.destination.probe()
    site.destination.rest()


def test_a_receiver_with_another_secret_refuses(tmp_path: Path, run: Running) -> None:
    receiver = run(WebhookReceiver(b"another secret, long"))
    site = webhook(tmp_path, receiver.port)
    assert site.send(site.parcel()) == [Refused("the destination answers with the HTTP status 401", 401)]
    assert receiver.refused_signatures == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, Stored) for status in (200, 201, 202, 204)),
        *((status, Postponed) for status in (408, 425, 429, 500, 502, 503)),
        *((status, Refused) for status in (301, 302, 307, 400, 403, 404, 409, 422)),
    ],
)
def test_http_statuses(tmp_path: Path, run: Running, status: int, kind: type[SendResult]) -> None:
    receiver = run(WebhookReceiver(SECRET, [status], headers={"Location": "http://127.0.0.1:1/"}))
    site = webhook(tmp_path, receiver.port)
    (result,) = site.send(site.parcel())
    assert isinstance(result, kind)
    assert len(receiver.requests) == 1


def test_https_wants_a_certificate_that_fits(tmp_path: Path, run: Running) -> None:
    certificates(tmp_path, "hook", "edge")
    receiver = WebhookReceiver(SECRET)
    receiver.wrap(server_tls(tmp_path, "hook"))
    run(receiver)
    files = {"ca": "ca.pem", "certificate": "edge.pem", "key": "edge.key", "name": "hook"}
    url = f"https://127.0.0.1:{receiver.port}/"
    site = webhook(tmp_path, receiver.port, url=url, tls=files)
    assert site.send(site.parcel()) == [Stored(0)]
    for unfit in ({"tls": {**files, "name": "other"}}, {}):
        stranger = webhook(tmp_path, receiver.port, url=url, **unfit)
        assert stranger.send(stranger.parcel()) == [FAILED]
    assert len(receiver.requests) == 1


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_signatures_tell_documents_apart(one: bytes, two: bytes) -> None:
    assert (signature(SECRET, "1", one) == signature(SECRET, "1", two)) is (one == two)
    assert signature(SECRET, "1", one) != signature(SECRET, "2", one)


def test_a_workitem_is_created_once(tmp_path: Path, run: Running) -> None:
    manager = run(UpsManager())
    site = ups(tmp_path, manager.port)
    parcel = site.parcel()
    assert site.send(parcel, parcel) == [Stored(0), Stored(0x0111)]
    (uid,) = manager.workitems
    assert uid == parcel.delivery.sop_instance_uid
    item = manager.workitems[uid]
    assert item.ScheduledProcedureStepPriority == "HIGH"
    assert item.ReferencedRequestSequence[0].StudyInstanceUID == NOTIFICATION.study_instance_uid
    site.destination.probe()


@pytest.mark.parametrize(
    ("status", "attempts", "kind"),
    [
        (0x0001, 1, Stored),
        (0xB300, 1, Stored),
        (0x0110, 1, Postponed),
        (0x0213, 9, Postponed),
        (0x0110, 10, Refused),
        (0x0106, 1, Refused),
        (0x0120, 1, Refused),
        (0xC309, 1, Refused),
    ],
)
def test_statuses_of_a_worklist_manager(
    tmp_path: Path, run: Running, status: int, attempts: int, kind: type[SendResult]
) -> None:
    manager = run(UpsManager([status]))
    site = ups(tmp_path, manager.port)
    (result,) = site.send(site.parcel(attempts=attempts))
    assert isinstance(result, kind)
    assert result.status == status


def test_a_workitem_is_cancelled_once(tmp_path: Path, run: Running) -> None:
    manager = run(UpsManager())
    site = ups(tmp_path, manager.port)
    workitem = site.parcel()
    cancellation = site.cancellation(workitem.delivery.sop_instance_uid)
    assert site.send(workitem, cancellation, cancellation) == [Stored(0), Stored(0), Stored(0xB304)]
    (uid, information), _ = manager.cancellations
    assert uid == workitem.delivery.sop_instance_uid
    assert information.ReasonForCancellation == "Retracted: wrong h\u00e4matoma"
    assert manager.workitems[uid].ProcedureStepState == "CANCELED"


def test_a_workitem_that_was_never_created_needs_no_cancelling(tmp_path: Path, run: Running) -> None:
    manager = run(UpsManager())
    site = ups(tmp_path, manager.port)
    assert site.send(site.cancellation("2.25.9")) == [Stored(0xC307)]


@pytest.mark.parametrize(
    ("state", "attempts", "result"),
    [
        (
            "COMPLETED",
            1,
            Refused("the workitem was completed before: whoever did it has to be told", 0xC311),
        ),
        ("IN PROGRESS", 1, Postponed("the destination answers with the status 0xC312", 0xC312)),
        ("IN PROGRESS", 10, Refused("the destination answers with the status 0xC312, 10 times", 0xC312)),
    ],
)
def test_a_workitem_that_somebody_has_begun(
    tmp_path: Path, run: Running, state: str, attempts: int, result: SendResult
) -> None:
    manager = run(UpsManager())
    site = ups(tmp_path, manager.port)
    workitem = site.parcel()
    assert site.send(workitem) == [Stored(0)]
    uid = workitem.delivery.sop_instance_uid
    manager.workitems[uid].ProcedureStepState = state
    assert site.send(site.cancellation(uid, attempts=attempts)) == [result]


def test_what_answers_to_a_request_to_cancel_mean() -> None:
    assert judge_cancellation(0x0112, 1, 10) == Stored(0x0112)
    for status in (0x0123, 0x0122, 0xC313):
        assert isinstance(judge_cancellation(status, 1, 10), Refused)
    for status in (0x0110, 0x0124, 0xC312):
        assert isinstance(judge_cancellation(status, 9, 10), Postponed)
        assert isinstance(judge_cancellation(status, 10, 10), Refused)


def test_a_workitem_cannot_say_that_there_is_nothing(tmp_path: Path) -> None:
    site = ups(tmp_path, free_port())
    with pytest.raises(CannotTell):
        site.parcel(NEGATIVE)


@pytest.mark.parametrize("make", [hl7, webhook, ups])
def test_a_message_that_is_not_in_the_spool_waits(
    tmp_path: Path, run: Running, make: Callable[..., Site]
) -> None:
    site = make(tmp_path, run(Hl7Server()).port)
    parcel = site.parcel()
    parcel.file.unlink()
    (result,) = site.send(parcel)
    assert result == Postponed("the spooled file cannot be read: FileNotFoundError")


def test_what_a_destination_refers_to_is_checked_before_a_start(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"short")
    (tmp_path / "wrong.template").write_text("MSH|^~\\&|\nOBX|{what}\n")
    (tmp_path / "nobody.pem").write_text("nobody")
    here = {"host": "127.0.0.1"}
    site = {
        "station": {"ae_title": "EDGE"},
        "storage": {"path": "./var"},
        "destinations": {
            "pager": {"kind": "webhook", "url": "http://pager/", "secret": "short"},
            "ris": {"kind": "hl7", **here, "port": 2575, "template": "wrong.template"},
            "list": {
                **{"kind": "ups", **here, "port": 104, "ae_title": "RIS", "retrieve_ae_title": "PACS"},
                "tls": {"ca": "nobody.pem"},
            },
        },
        "pipelines": [{"model": "ct-denoise", "destinations": ["ris"]}],
    }
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(site))
    with pytest.raises(Misconfigured) as caught:
        check(load(tmp_path / "site.yaml"))
    problems = "\n".join(caught.value.problems)
    assert "destinations.pager.secret: has fewer than 16 bytes" in problems
    assert "destinations.ris.template: wrong.template line 2: {what} is not known" in problems
    assert "destinations.list.tls: the certificate, key or ca cannot be used" in problems
    assert "pipelines.0.destinations: ct-denoise finds nothing that ris could be told of" in problems
