"""Storage commitment (PS3.4 annex J): what flows in either direction, and when an instance is safe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Failure Reasons (0008,1197), PS3.3 C.14.1.1.
PROCESSING_FAILURE = 0x0110
NO_SUCH_OBJECT_INSTANCE = 0x0112
CLASS_INSTANCE_CONFLICT = 0x0119
RESOURCE_LIMITATION = 0x0213

SEND_AGAIN = frozenset({NO_SUCH_OBJECT_INSTANCE, RESOURCE_LIMITATION})
"""Reasons that say that the destination does not have the object, so that asking again is no use."""


@dataclass(frozen=True)
class Reference:
    """One instance of a request or report."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class CommitmentRequest:
    """The instances that are to be committed, under the name that the requester gave its request."""

    transaction_uid: str
    references: tuple[Reference, ...]


@dataclass(frozen=True)
class CommitmentReport:
    """The answer to the request of that name: `failures` holds a Failure Reason for each SOP instance UID."""

    transaction_uid: str
    committed: frozenset[str]
    failures: Mapping[str, int]


@dataclass(frozen=True)
class Duty:
    """What the configuration says of a destination: whether it is waited for, and for which word of it."""

    required: bool
    commits: bool


@dataclass(frozen=True)
class Standing:
    """How far one delivery of a file is, and what is expected of its destination."""

    state: str
    duty: Duty

    @property
    def is_safe(self) -> bool:
        """Whether the destination has the object, as far as it is to say so."""
        return self.state == "committed" or (self.state == "stored" and not self.duty.commits)


def verdict(files: Sequence[Sequence[Standing]]) -> int | None:
    """What a scanner is told of one instance: 0 for committed, a Failure Reason, or None for not yet.

    `files` holds the deliveries of each file that was received under its UID, usually one. The spool is no
    archive: an instance that no required destination is to get is never committed, and one that a person
    has to decide about, or has decided not to send, is a failure.
    """
    required = [[standing for standing in file if standing.duty.required] for file in files]
    if not all(required):
        return PROCESSING_FAILURE
    standings = [standing for file in required for standing in file]
    if any(standing.state in ("rejected", "dropped") for standing in standings):
        return PROCESSING_FAILURE
    return 0 if all(standing.is_safe for standing in standings) else None
