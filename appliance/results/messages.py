"""Makes the message about a finding for each destination that is to be told of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydicom.uid import ExplicitVRLittleEndian

from appliance.config.destinations import Hl7Destination, UpsDestination, WebhookDestination
from appliance.config.schema import Config
from appliance.dicom.uids import derived_uid
from appliance.results.hl7_message import Parties, load_template, oru_message
from appliance.results.notification import Notification
from appliance.results.ups_workitem import UPS_PUSH, workitem
from appliance.results.webhook_message import finding_document
from appliance.spool.store import PREAMBLE_BYTES


@dataclass(frozen=True)
class Written:
    """A message as it is to be spooled, behind the preamble. `uid` is the same for the same answer.

    `withheld` is the word for why it must not be sent as it is, with a sentence for people.
    """

    kind: str
    uid: str
    content: bytes
    sop_class_uid: str = ""
    transfer_syntax_uid: str = ""
    withheld: tuple[str, str] | None = None


class CannotTell(Exception):
    """A kind of message cannot say this. The text is a short stable word for metrics."""


MessageWriter = Callable[[Notification], Written]
"""Raises `CannotTell`, or `GiveUp` where the message cannot be written."""

_NO_ACCESSION = (
    "no_accession_number",
    "the study has no accession number, so that nothing says which order the result is for",
)


def message_writer(config: Config, name: str) -> MessageWriter:
    """What writes the messages for the destination `name`.

    Raises:
        Misconfigured: its template has mistakes.
    """
    match config.message_destinations[name]:
        case Hl7Destination() as hl7:
            return _hl7_writer(name, hl7)
        case UpsDestination() as ups:
            return _ups_writer(name, ups)
        case WebhookDestination() as webhook:
            return _webhook_writer(name, webhook)
        case other:
            raise TypeError(f"no messages for {type(other).__name__}")


def _hl7_writer(name: str, settings: Hl7Destination) -> MessageWriter:
    template = load_template(f"destinations.{name}.template", settings.template)
    parties = Parties(
        settings.sending_application,
        settings.sending_facility,
        settings.receiving_application,
        settings.receiving_facility,
        settings.study_uid_type,
    )

    def write(told: Notification) -> Written:
        uid = _uid(name, told)
        withheld = None if told.order.accession_number else _NO_ACCESSION
        return Written("hl7", uid, oru_message(told, uid, parties, template), withheld=withheld)

    return write


def _ups_writer(name: str, settings: UpsDestination) -> MessageWriter:
    def write(told: Notification) -> Written:
        if not told.positive:
            # An N-CREATE asks for work to be done; only people can tell whether work begun on it is to stop.
            raise CannotTell("workitem_stands")
        uid = _uid(name, told)
        file = workitem(told, uid, worklist=settings.worklist_label, retrieve_from=settings.retrieve_ae_title)
        return Written("ups", uid, file[PREAMBLE_BYTES:], UPS_PUSH, str(ExplicitVRLittleEndian))

    return write


def _webhook_writer(name: str, settings: WebhookDestination) -> MessageWriter:
    def write(told: Notification) -> Written:
        uid = _uid(name, told)
        return Written("webhook", uid, finding_document(told, uid, identifiers=settings.identifiers))

    return write


def _uid(name: str, told: Notification) -> str:
    return derived_uid("message", name, told.uid)
