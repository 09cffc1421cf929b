"""The tables of the conformance statement that are about the network: contexts, statuses, limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from pydicom.uid import UID, UID_dictionary  # type: ignore[attr-defined]

from appliance.config.destinations import DicomNode
from appliance.config.schema import Config
from appliance.destinations.statuses import judge
from appliance.destinations.ups import judge_cancellation, judge_creation
from appliance.dicom.header import CANNOT_UNDERSTAND
from appliance.dicom.transcode import TARGETS, targets
from appliance.domain.commitment import SEND_AGAIN
from appliance.domain.types import Postponed, Refused, SendResult, Stored
from appliance.network import acceptor, commitment
from appliance.network.limits import Limits
from appliance.network.negotiation import PREFERRED_SYNTAXES, is_storage
from appliance.services import commitment_desk
from appliance.services.receiving import receive

_STATUSES = 1 << 16


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)


def name_of(uid: str) -> str:
    """The name of a UID in PS3.6, without what is said of it there in parentheses."""
    return UID(uid).name if uid in UID_dictionary else "(unknown)"


def storage_classes() -> list[str]:
    """The SOP Class UIDs of PS3.6 that are accepted for storage."""
    return [uid for uid, entry in UID_dictionary.items() if entry[1] == "SOP Class" and is_storage(UID(uid))]


def storage_class_table() -> str:
    """What a scanner can store."""
    return table(["SOP class", "UID"], [(name_of(uid), uid) for uid in storage_classes()])


def syntax_table() -> str:
    """The transfer syntaxes in the order of preference, and what each can be sent as."""
    return table(
        ["preference", "transfer syntax", "UID", "sent on as it is, or as"],
        [
            (number, name_of(uid), uid, ", ".join(map(name_of, targets(uid))) or "only as it is")
            for number, uid in enumerate(PREFERRED_SYNTAXES, 1)
        ],
    )


def proposal_table() -> str:
    """What is proposed for each object that is sent."""
    written = ", ".join(map(name_of, TARGETS))
    return table(
        ["context", "abstract syntax", "transfer syntaxes", "role"],
        [
            ("1", "SOP class of the object", "that in which the object is stored, alone", "SCU"),
            ("2, if the stored one can be converted without loss", "the same", written, "SCU"),
        ],
    )


def rejection_table() -> str:
    """How associations are refused."""
    reasons = [
        (acceptor.CALLED_AE_TITLE_NOT_RECOGNIZED, "the called AE title is none of `station`"),
        (acceptor.CALLING_AE_TITLE_NOT_RECOGNIZED, "no rule of `listener.accept` has the calling AE title"),
        (acceptor.UNKNOWN_NETWORK, "no rule of `listener.accept` has the address"),
        (acceptor.TEMPORARY_CONGESTION, "disk space is short, or the appliance is about to stop"),
        (acceptor.LIMIT_EXCEEDED, "too many associations are open, in all or from this peer"),
    ]
    return table(
        ["result", "source", "reason", "when"],
        [(one.result, one.source, one.code, words) for one, words in reasons],
    )


def limit_table(config: Config) -> str:
    """Deadlines and sizes of the acceptor."""
    listener = config.listener
    limits = Limits(listener.maximum_pdu, listener.network_timeout_s)
    return table(
        ["limit of the acceptor", "value"],
        [
            ("largest PDU received", f"{limits.pdu_bytes} bytes"),
            ("associations at the same time", listener.maximum_associations),
            ("of these, of one AE title at one address", listener.maximum_associations_per_peer),
            ("time between two messages", f"{limits.idle_s:g} s"),
            ("time for the TLS handshake", f"{limits.handshake_s:g} s"),
            ("time from connection to A-ASSOCIATE-RQ (ARTIM)", f"{limits.request_s:g} s"),
            ("time for one PDU", f"{limits.pdu_s:g} s"),
            ("time between two PDUs of one message", f"{limits.stall_s:g} s"),
            ("time for one message, beside a second for every 4 KiB of it", f"{limits.message_s:g} s"),
            ("asynchronous operations window", "not negotiated (one operation at a time)"),
        ],
    )


def store_status_table() -> str:
    """What a scanner is answered."""
    rows = [
        (receive.SUCCESS.status, "Success", "the object is on stable storage; also a repeated one"),
        (receive.OUT_OF_RESOURCES, "Refused: Out of Resources", "no disk space, or any fault of ours"),
        (
            receive.MISMATCH,
            "Error: Data Set does not match SOP Class",
            "SOP class or instance UID differs from the request; the bytes are kept in quarantine",
        ),
        (
            CANNOT_UNDERSTAND,
            "Error: Cannot understand",
            "no SOP class, SOP instance, study or series UID can be read; the bytes are kept in quarantine",
        ),
    ]
    return table(["status", "meaning", "when"], [(f"{status:04X}", *words) for status, *words in rows])


def commitment_status_table() -> str:
    """What is answered to requests and reports of storage commitment."""
    rows = [
        (commitment.SUCCESS, "the journal has the request or report for good"),
        (commitment.PROCESSING_FAILURE, "a fault of ours; to be asked again"),
        (commitment.NO_SUCH_INSTANCE, "not the well-known SOP instance"),
        (commitment.NO_SUCH_EVENT_TYPE, "event type other than 1 and 2"),
        (commitment.INVALID_ARGUMENT, "a UID or the references are missing"),
        (commitment_desk.INVALID_ARGUMENT, "the transaction UID was used before, for other instances"),
        (commitment.NO_SUCH_ACTION_TYPE, "action type other than 1"),
        (commitment_desk.NOT_AUTHORISED, "a report from whom nothing was asked"),
    ]
    return table(["status", "when"], [(f"{status:04X}", words) for status, words in rows])


def send_again_codes() -> str:
    """The failure reasons at which an object is sent once more."""
    return ", ".join(f"{code:04X}" for code in sorted(SEND_AGAIN))


def received_store_statuses() -> str:
    """What the answer of a destination means, found out for every status that there could be."""
    return _received(lambda status: (judge(status, 1), judge(status, 2)))


def received_creation_statuses(attempts: int) -> str:
    """The same of a workitem."""
    return _received(
        lambda status: (judge_creation(status, 1, attempts), judge_creation(status, attempts, attempts))
    )


def received_cancellation_statuses(attempts: int) -> str:
    """The same of a request to cancel a workitem."""
    return _received(
        lambda status: (
            judge_cancellation(status, 1, attempts),
            judge_cancellation(status, attempts, attempts),
        )
    )


def _received(meaning: Callable[[int], tuple[SendResult, SendResult]]) -> str:
    spans: dict[tuple[SendResult, SendResult], list[str]] = {}
    for first, last, meant in _ranges(meaning):
        spans.setdefault(meant, []).append(f"{first:04X}" if first == last else f"{first:04X}-{last:04X}")
    rows = []
    for (at_first, later), found in spans.items():
        done, reason = _words(at_first)
        rows.append((", ".join(found), done, "the same" if later == at_first else _words(later)[0], reason))
    return table(["status", "at the first attempt", "later", "noted as"], rows)


def _ranges(
    meaning: Callable[[int], tuple[SendResult, SendResult]],
) -> Iterator[tuple[int, int, tuple[SendResult, SendResult]]]:
    """Neighbouring statuses that mean the same, but for their number."""
    first, present = 0, _without_number(meaning(0), 0)
    for status in range(1, _STATUSES + 1):
        following = _without_number(meaning(status), status) if status < _STATUSES else None
        if following != present:
            yield first, status - 1, present
            if following is not None:
                first, present = status, following


def _without_number(results: tuple[SendResult, SendResult], status: int) -> tuple[SendResult, SendResult]:
    def plain(result: SendResult) -> SendResult:
        match result:
            case Stored():
                return Stored(0)
            case Postponed(reason):
                return Postponed(reason.replace(f" 0x{status:04X}", ""))
            case Refused(reason):
                return Refused(reason.replace(f" 0x{status:04X}", ""))

    return plain(results[0]), plain(results[1])


def _words(result: SendResult) -> tuple[str, str]:
    match result:
        case Stored():
            return "done", ""
        case Postponed(reason):
            return "sent again later", reason
        case Refused(reason):
            return "not sent again", reason


def destination_table(config: Config) -> str:
    """The destinations of this configuration."""
    rows = []
    for name, one in config.destinations.items():
        title = one.ae_title if isinstance(one, DicomNode) else ""
        tls = "yes" if getattr(one, "tls", None) is not None else "no"
        takes = ", ".join(one.takes) or "messages"
        commits, notes = one.commitment, getattr(one, "rejection_notes", False)
        wants = ("yes" if wanted else "no" for wanted in (commits, notes))
        rows.append((name, one.kind, title, tls, takes, *wants))
    heads = ["destination", "kind", "AE title", "TLS", "takes", "asked to commit", "rejection notes"]
    return table(heads, rows)
