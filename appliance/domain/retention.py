"""What keeps a file in the spool, as a pure function of facts, of which neither age nor space is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from appliance.domain.commitment import Standing

NEW = "new"
"""Nobody has looked yet."""
RETENTION = "retention"
"""Nothing keeps it but its time."""


@dataclass(frozen=True)
class Claims:
    """Who may still need one file.

    `series_undecided`: its series is open, or nothing was decided about it; `job`: a job on its series has
    not ended; `commitment_requested`: a scanner waits to be told about it.
    """

    deliveries: Sequence[Standing]
    series_undecided: bool
    job: bool
    commitment_requested: bool


def kept_for(claims: Claims) -> str | None:
    """Who needs the file most, in a word; None if nobody does, so that its retention time may begin.

    A delivery that a person dropped lets go; one that was rejected at a required destination waits for that
    person. Without any required destination nothing says that the object is safe elsewhere.
    """
    if claims.series_undecided:
        return "series"
    if claims.job:
        return "job"
    if any(standing.state in ("pending", "sending") for standing in claims.deliveries):
        return "delivery"
    required = [standing for standing in claims.deliveries if standing.duty.required]
    if not required:
        return "no_destination"
    if any(standing.state == "rejected" for standing in required):
        return "rejected"
    if not all(standing.is_safe or standing.state == "dropped" for standing in required):
        return "commitment"
    if claims.commitment_requested:
        return "commitment_request"
    return None


KEPT_FOR = (
    NEW,
    "series",
    "job",
    "delivery",
    "no_destination",
    "rejected",
    "commitment",
    "commitment_request",
    RETENTION,
)
"""Every word that `files.kept_for` may hold."""
