"""Storage Commitment Push Model (PS3.4 annex J) in both roles: asking, being asked, telling, being told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.pdu import P_DATA_TF

from appliance.domain.commitment import CommitmentReport, CommitmentRequest, Reference
from appliance.domain.errors import ApplianceError, GiveUp, TryAgain
from appliance.network.requestor import Peer, open_association

PUSH_MODEL = UID("1.2.840.10008.1.20.1")
_INSTANCE = UID("1.2.840.10008.1.20.1.1")
_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_REQUEST_COMMITMENT = 1  # action type (PS3.4 table J.3-1)
_ALL_COMMITTED, _SOME_FAILED = 1, 2  # event types (PS3.4 table J.3-2)

# Statuses of PS3.7 10.1.1.1.8 and 10.1.4.1.10.
SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
NO_SUCH_INSTANCE = 0x0112
NO_SUCH_EVENT_TYPE = 0x0113
INVALID_ARGUMENT = 0x0115
NO_SUCH_ACTION_TYPE = 0x0123
_ERROR_COMMENT_CHARACTERS = 64

_log = logging.getLogger(__name__)


def request_commitment(
    peer: Peer,
    request: CommitmentRequest,
    reported: Callable[[CommitmentReport], None],
    *,
    patience_s: float,
) -> int | None:
    """Ask a peer to commit instances (N-ACTION), and return its status; None if it gave none.

    A peer may report on the same association: after success it is left open for up to `patience_s`, and
    `reported` is called in another thread. It may raise `ApplianceError`; the peer is told its status.

    Raises:
        TryAgain: the peer cannot be asked; it has seen nothing of the request.
        NothingAccepted: it is there, and does not offer storage commitment.
    """
    answered = _Answered()
    association = open_association(
        peer,
        [(PUSH_MODEL, _SYNTAXES)],
        handlers=[
            (evt.EVT_N_EVENT_REPORT, lambda event: answered.note(answer_report(event, reported))),
            (evt.EVT_PDU_SENT, answered.sent),
        ],
    )
    information = Dataset()
    information.TransactionUID = request.transaction_uid
    information.ReferencedSOPSequence = [_item(reference) for reference in request.references]
    try:
        response, _ = association.send_n_action(information, _REQUEST_COMMITMENT, PUSH_MODEL, _INSTANCE)
    except (OSError, RuntimeError, ValueError) as error:
        _log.warning("n_action_failed", extra={"error": type(error).__name__})
        association.abort()
        return None
    status: int | None = response.get("Status")
    if status is None:
        association.abort()
        return None
    if status == SUCCESS:
        answered.wait(patience_s)
    _end(association)
    return status


def report_commitment(peer: Peer, report: CommitmentReport, references: Sequence[Reference]) -> None:
    """Tell a peer what became of the instances that it asked about (N-EVENT-REPORT).

    Raises:
        TryAgain: the peer cannot be told, or does not answer with success.
    """
    try:
        AE(ae_title=peer.ae_title)
    except ValueError as error:
        raise TryAgain("the AE title that the peer called with cannot be called") from error
    association = open_association(peer, [(PUSH_MODEL, _SYNTAXES)], scp_roles=[PUSH_MODEL])
    information = Dataset()
    information.TransactionUID = report.transaction_uid
    committed = [one for one in references if one.sop_instance_uid in report.committed]
    failed = [one for one in references if one.sop_instance_uid in report.failures]
    if committed:
        information.ReferencedSOPSequence = [_item(reference) for reference in committed]
    if failed:
        information.FailedSOPSequence = [
            _item(reference, report.failures[reference.sop_instance_uid]) for reference in failed
        ]
    try:
        response, _ = association.send_n_event_report(
            information, _SOME_FAILED if failed else _ALL_COMMITTED, PUSH_MODEL, _INSTANCE
        )
    except (OSError, RuntimeError, ValueError) as error:
        association.abort()
        raise TryAgain(f"the report could not be sent: {type(error).__name__}") from error
    status = response.get("Status")
    if status is None:
        association.abort()
        raise TryAgain("the report was not answered")
    _end(association)
    if status != SUCCESS:
        raise TryAgain(f"the report was answered with 0x{status:04X}", status=status)


def answer_request(event: Event, requested: Callable[[CommitmentRequest], None]) -> tuple[Dataset, None]:
    """Answer an N-ACTION: success once `requested` has returned. What it raises is the peer's status."""
    return _answer(lambda: requested(_read_request(event)))


def answer_report(event: Event, reported: Callable[[CommitmentReport], None]) -> tuple[Dataset, None]:
    """Answer an N-EVENT-REPORT: success once `reported` has returned. What it raises is the peer's status."""
    return _answer(lambda: reported(_read_report(event)))


class _Answered:
    """Waits until the answer to a report has left; only then may the association be released."""

    def __init__(self) -> None:
        self._answering = False
        self._done = threading.Event()

    def note(self, reply: tuple[Dataset, None]) -> tuple[Dataset, None]:
        self._answering = True
        return reply

    def sent(self, event: Event) -> None:
        if self._answering and isinstance(event.pdu, P_DATA_TF):
            self._done.set()

    def wait(self, seconds: float) -> None:
        self._done.wait(seconds)


def _answer(take: Callable[[], None]) -> tuple[Dataset, None]:
    status, comment = SUCCESS, ""
    try:
        take()
    except ApplianceError as error:
        status, comment = error.status or PROCESSING_FAILURE, str(error)
    except Exception as error:  # noqa: BLE001 - the process boundary: a peer waits for an answer
        _log.exception("commitment_failed", extra={"error": type(error).__name__})
        status, comment = PROCESSING_FAILURE, "processing failure"
    reply = Dataset()
    reply.Status = status
    if status != SUCCESS:
        _log.warning("commitment_message_refused", extra={"status": f"0x{status:04X}", "error": comment})
        reply.ErrorComment = comment[:_ERROR_COMMENT_CHARACTERS]
    return reply, None


def _read_request(event: Event) -> CommitmentRequest:
    """The request of an N-ACTION (PS3.4 table J.3-1).

    Raises:
        GiveUp: it is none that we could answer.
    """
    request: Any = event.request
    if request.RequestedSOPInstanceUID != _INSTANCE:
        raise GiveUp("not the well-known SOP instance", status=NO_SUCH_INSTANCE)
    if event.action_type != _REQUEST_COMMITMENT:
        raise GiveUp("no such action type", status=NO_SUCH_ACTION_TYPE)
    information = event.action_information
    references = _references(information, "ReferencedSOPSequence")
    if not references:
        raise GiveUp("Referenced SOP Sequence is missing or empty", status=INVALID_ARGUMENT)
    return CommitmentRequest(_uid(information, "TransactionUID"), tuple(references))


def _read_report(event: Event) -> CommitmentReport:
    """The report of an N-EVENT-REPORT (PS3.4 table J.3-2).

    Raises:
        GiveUp: it is none.
    """
    if event.event_type not in (_ALL_COMMITTED, _SOME_FAILED):
        raise GiveUp("no such event type", status=NO_SUCH_EVENT_TYPE)
    information = event.event_information
    failures: Mapping[Reference, int] = _references(information, "FailedSOPSequence")
    return CommitmentReport(
        _uid(information, "TransactionUID"),
        frozenset(one.sop_instance_uid for one in _references(information, "ReferencedSOPSequence")),
        {one.sop_instance_uid: reason for one, reason in failures.items()},
    )


def _references(information: Dataset, sequence: str) -> dict[Reference, int]:
    """The instances of a sequence, each with its Failure Reason, if it has one."""
    return {
        Reference(_uid(item, "ReferencedSOPClassUID"), _uid(item, "ReferencedSOPInstanceUID")): int(
            item.get("FailureReason") or PROCESSING_FAILURE
        )
        for item in information.get(sequence) or ()
    }


def _uid(item: Dataset, keyword: str) -> str:
    # Scanners make UIDs that break the rules, and then ask for them.
    value = item.get(keyword)
    if not isinstance(value, UID) or not value:
        raise GiveUp(f"{keyword} is missing", status=INVALID_ARGUMENT)
    return str(value)


def _item(reference: Reference, failure: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    if failure is not None:
        item.FailureReason = failure
    return item


def _end(association: Association) -> None:
    if association.is_established:
        association.release()
