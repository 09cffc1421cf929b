"""The facts that flow between the layers. Frozen; nothing here does anything."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


@dataclass(frozen=True)
class Origin:
    """Who sent an instance, as the association said it."""

    calling_ae_title: str
    called_ae_title: str
    address: str


@dataclass(frozen=True)
class Instance:
    """One received SOP instance that lies in the spool.

    `checksum` is the XXH3-128 of the encoded data set without file meta information; `facts` is
    the JSON of `dicom.header.Facts`; `ours` says that this appliance made the object.
    """

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    modality: str
    checksum: str
    size: int
    spool_key: str
    origin: Origin
    facts: str
    ours: bool


@dataclass(frozen=True)
class Artifact:
    """One result object, written once to the spool and sent from there for good.

    `key_sop_instance_uids` are the received images that show what an urgent result is about: they leave
    before it.
    """

    kind: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    sha256: str
    size: int
    spool_key: str
    urgent: bool
    key_sop_instance_uids: tuple[str, ...] = ()
    stands_for: str | None = None
    """SOP Instance UID of the result that this one takes the place of where that one is not taken."""
    instead_only: bool = False
    """It is sent only there."""


class Priority(IntEnum):
    """The order in which deliveries leave: the smallest first.

    A key image is an original that an urgent result of its study refers to.
    """

    KEY_IMAGE = 0
    URGENT_RESULT = 1
    ORIGINAL = 2
    ROUTINE_RESULT = 3


@dataclass(frozen=True)
class Delivery:
    """One spooled file on its way to one destination. `attempts` includes the present one.

    `urgent` tells the destination to hurry: a model found something urgent in the study.
    """

    id: int
    destination: str
    spool: str
    spool_key: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    size: int
    priority: Priority
    attempts: int
    urgent: bool


@dataclass(frozen=True)
class EarlyFlag:
    """A finding that was told of while its series still arrived, and the image that shows it best."""

    score: float
    key_sop_instance_uid: str


@dataclass(frozen=True)
class Job:
    """One model on one or more series at given revisions.

    `attempts` are those without any progress, including the present one. `source` is the calling AE title
    of the scanner, `since_s` when the job began to wait for nothing but its turn.
    """

    id: int
    model: str
    model_sha256: str
    series: tuple[tuple[str, int], ...]
    attempts: int
    source: str
    since_s: float
    flag: EarlyFlag | None = None


@dataclass(frozen=True)
class Stored:
    """The destination has the object."""

    status: int


@dataclass(frozen=True)
class Postponed:
    """Nobody knows or not yet: to be sent again under the same UID."""

    reason: str
    status: int | None = None


@dataclass(frozen=True)
class Refused:
    """The destination will never take this object as it is: a person is needed."""

    reason: str
    status: int | None = None


SendResult = Stored | Postponed | Refused
