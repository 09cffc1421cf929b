"""Settings of destinations, by their kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from appliance.config.section import Section
from appliance.config.tls import DestinationTLS
from appliance.config.values import AETitle, Host, Port, ReadableFile, Url


class Only(Section):
    """Narrows what a destination gets. An empty list means any; of each other list one entry must fit."""

    modality: list[str] = Field(
        default=[], description="Modality (0008,0060) of the original, or of the source of the result."
    )
    station_name: list[str] = Field(
        default=[], description="Station Name (0008,1010) of the original, or of the source of the result."
    )
    called_ae_title: list[AETitle] = Field(
        default=[], description="The appliance's title that the scanner called when it sent the images."
    )
    model: list[str] = Field(default=[], description="Results only: id of the model package.")
    outcome: list[Literal["positive", "negative", "enhanced", "not_analysed"]] = Field(
        default=[], description="Results only: what the model said."
    )

    def fits_source(self, modality: str, station_name: str, called_ae_title: str) -> bool:
        """Whether originals of this source fit, and results made of them as far as the source decides."""
        return (
            _allows(self.modality, modality)
            and _allows(self.station_name, station_name)
            and _allows(self.called_ae_title, called_ae_title)
        )

    def fits_result(self, model: str, outcome: str) -> bool:
        """Whether a result of this model with this outcome fits, as far as these decide."""
        return _allows(self.model, model) and _allows(self.outcome, outcome)


def _allows(entries: Sequence[str], value: str) -> bool:
    return not entries or value in entries


Kind = Literal["enhanced", "sr", "sc", "seg", "ko"]


class DicomNode(Section):
    """How a DICOM peer is called."""

    ae_title: AETitle = Field(description="AE title of the destination.")
    host: Host = Field(description="Host name or address of the destination.")
    port: Port = Field(description="TCP port of the destination.")
    tls: DestinationTLS | None = Field(default=None, description="TLS to the destination. Left out: no TLS.")


class DicomDestination(DicomNode):
    """A DICOM node that receives originals, results or both."""

    kind: Literal["dicom"] = Field(default="dicom", description="Kind of destination.")
    required: bool = Field(
        default=True, description="Retention and storage commitment wait for this destination."
    )
    takes: list[Kind] = Field(
        default=["enhanced", "sr", "sc", "ko"],
        description="Kinds of result objects that the destination can use: enhanced images, sr (Structured "
        "Report), sc (Secondary Capture), seg (Segmentation), ko (Key Object Selection). Where it has no use "
        "for a report, or refuses one, it gets the card of the outcome (sc) instead.",
    )
    commitment: bool = Field(
        default=False,
        description="Ask the destination to commit what it has stored (PS3.4 annex J). It reports to the "
        "appliance's listener, which has to accept its AE title.",
    )
    rejection_notes: bool = Field(
        default=False,
        description="When an answer is retracted, send a rejection note (Key Object Selection, IHE IOCM) "
        "that names all of its result objects that the destination has. For archives that act on such notes.",
    )
    only: Only = Field(
        default_factory=Only,
        description="Narrows what this destination gets of the originals and results that go to it.",
    )
    associations: Annotated[int, Field(ge=1, le=4)] | None = Field(
        default=None, description="Associations at the same time instead of `delivery.associations`."
    )


class MessageDestination(Section):
    """A system that is told of findings instead of being sent objects."""

    # Nobody else keeps a message; there is no commitment for it; one after the other, in order.
    required: ClassVar[bool] = True
    commitment: ClassVar[bool] = False
    associations: ClassVar[int] = 1
    takes: ClassVar[tuple[Kind, ...]] = ()

    only: Only = Field(
        default_factory=Only, description="Narrows which findings this destination is told of."
    )
    alarm_after_minutes: Annotated[float, Field(gt=0.0, le=10080.0)] = Field(
        default=5.0,
        description="Minutes without acknowledgement after which a message raises the alarm: "
        "`message_unacknowledged` in the log, and `appliance_messages_overdue`.",
    )


Attempts = Annotated[int, Field(ge=1, le=1000)]
_ATTEMPTS = (
    "Attempts after which a message that the destination answers with an error is left to a person. "
    "While there is no answer it is sent again for ever."
)


class Hl7Destination(MessageDestination):
    """A system that is told of findings by HL7 v2 messages (ORU^R01) over MLLP."""

    kind: Literal["hl7"] = Field(description="Kind of destination.")
    host: Host = Field(description="Host name or address of the destination.")
    port: Port = Field(description="TCP port of the destination.")
    tls: DestinationTLS | None = Field(default=None, description="TLS to the destination. Left out: no TLS.")
    template: ReadableFile = Field(
        default_factory=lambda: Path(__file__).resolve().parents[2] / "config" / "hl7" / "oru_r01.template",
        description="File with the segments of the message, see docs/messages.md. "
        "Left out: `config/hl7/oru_r01.template` beside the installed program.",
    )
    sending_application: str = Field(default="EDGEINFER", description="MSH-3, who we are.")
    sending_facility: str = Field(default="", description="MSH-4, where we are.")
    receiving_application: str = Field(default="", description="MSH-5, who the destination is.")
    receiving_facility: str = Field(default="", description="MSH-6, where the destination is.")
    study_uid_type: Literal["HD", "ST"] = Field(
        default="HD", description="Value type (OBX-2) of the Study Instance UID: HD as IHE has it, or ST."
    )
    timeout_s: Annotated[float, Field(ge=1.0, le=600.0)] = Field(
        default=30.0, description="Seconds that the destination may take to acknowledge a message."
    )
    attempts: Attempts = Field(default=10, description=_ATTEMPTS)


class UpsDestination(DicomNode, MessageDestination):
    """A worklist manager in which findings become Unified Procedure Steps (PS3.4 annex CC, UPS Push)."""

    kind: Literal["ups"] = Field(description="Kind of destination.")
    retrieve_ae_title: AETitle = Field(
        description="AE title of the archive from which the images of a step can be retrieved."
    )
    worklist_label: Annotated[str, Field(min_length=1, max_length=64)] = Field(
        default="AI TRIAGE", description="Worklist Label (0074,1202) of the steps."
    )
    attempts: Attempts = Field(default=10, description=_ATTEMPTS)


class WebhookDestination(MessageDestination):
    """A system that is told of findings by a signed JSON document over HTTP (POST)."""

    kind: Literal["webhook"] = Field(description="Kind of destination.")
    url: Url = Field(description="Address of the receiver, https:// or http://.")
    secret: ReadableFile = Field(
        description="File with the secret that signs the documents (HMAC-SHA256), at least 16 bytes."
    )
    tls: DestinationTLS | None = Field(
        default=None,
        description="Authorities and certificates for https. Left out: the authorities of the machine.",
    )
    identifiers: bool = Field(
        default=False,
        description="Say who the patient is. Without it a document names the study by its UID and accession "
        "number only.",
    )
    timeout_s: Annotated[float, Field(ge=1.0, le=600.0)] = Field(
        default=30.0, description="Seconds that the destination may take to answer a document."
    )


def kind_of(value: Any) -> str:
    """The kind of a destination, given or meant."""
    return str(value.get("kind", "dicom") if isinstance(value, dict) else getattr(value, "kind", "dicom"))


Destination = Annotated[
    Annotated[DicomDestination, Tag("dicom")]
    | Annotated[Hl7Destination, Tag("hl7")]
    | Annotated[UpsDestination, Tag("ups")]
    | Annotated[WebhookDestination, Tag("webhook")],
    Discriminator(kind_of),
]
