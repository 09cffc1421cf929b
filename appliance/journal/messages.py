"""Messages about findings: what each destination was told of a series, and what it has not acknowledged."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from appliance.domain.states import DELIVERY
from appliance.domain.types import Artifact, Job, Priority
from appliance.journal.clock import boot_seconds
from appliance.journal.database import move
from appliance.journal.deliveries import enqueue


@dataclass(frozen=True)
class Message:
    """A spooled message for one destination. `withheld` says why a person has to decide about sending it."""

    artifact: Artifact
    destination: str
    withheld: str | None = None


@dataclass(frozen=True)
class Unacknowledged:
    """A message that its destination has not acknowledged."""

    delivery_id: int
    destination: str
    state: str
    age_s: float
    attempts: int
    reason: str | None


def put(connection: sqlite3.Connection, job: Job, message: Message) -> None:
    """Put a message into the outbox of its destination, in place of earlier ones that still wait there.

    An earlier one that is postponed could otherwise arrive after it, and have the last word.
    """
    for row in connection.execute(
        f"SELECT d.id {_TOLD_EARLIER} AND d.state = 'pending'", _earlier(job, message.destination)
    ).fetchall():
        move(connection, DELIVERY, row["id"], "drop", detail="a later revision has another answer")
    enqueue(connection, "results", message.artifact, Priority.URGENT_RESULT, [message.destination])
    if message.withheld is None:
        return
    (delivery_id,) = connection.execute(
        "SELECT id FROM deliveries WHERE destination = ? AND spool_key = ?",
        (message.destination, message.artifact.spool_key),
    ).fetchone()
    move(connection, DELIVERY, delivery_id, "claim", detail="not to be sent")
    move(connection, DELIVERY, delivery_id, "reject", detail=message.withheld)
    connection.execute("UPDATE deliveries SET reason = ? WHERE id = ?", (message.withheld, delivery_id))


def told(connection: sqlite3.Connection, job: Job, destination: str) -> str | None:
    """What a destination was, or is about to be, told last of the job's series before.

    A word of the `jobs.outcome` column, `retracted`, or None if nothing. What is left to a person was not
    told of an earlier revision; of this one it is, so that the same answer is not left to a person twice.
    """
    row = connection.execute(
        # A job that has not ended told of a finding early.
        "SELECT CASE j.reason WHEN 'retracted' THEN j.reason ELSE coalesce(j.outcome, 'positive') END"
        " AS outcome"
        f" {_TOLD_EARLIER} AND (j.id = ? OR d.state NOT IN ('rejected', 'dropped'))"
        " ORDER BY s.revision DESC, d.id DESC LIMIT 1",
        (*_earlier(job, destination), job.id),
    ).fetchone()
    return None if row is None else str(row["outcome"])


def unacknowledged(connection: sqlite3.Connection, destinations: Iterable[str]) -> list[Unacknowledged]:
    """The messages that wait, are being sent or were left to a person, those of a destination together."""
    found = []
    now = boot_seconds()
    for destination in destinations:
        # One question for each state, because an index holds the rows of one or two states only.
        rows = connection.execute(
            "SELECT * FROM deliveries WHERE destination = ? AND state = 'pending' UNION ALL"
            " SELECT * FROM deliveries WHERE destination = ? AND state = 'sending' UNION ALL"
            " SELECT * FROM deliveries WHERE destination = ? AND state = 'rejected'",
            (destination, destination, destination),
        )
        found += [
            Unacknowledged(
                row["id"],
                destination,
                row["state"],
                max(0.0, now - row["created_s"]),
                row["attempts"],
                row["reason"],
            )
            for row in rows
        ]
    return found


_TOLD_EARLIER = (
    "FROM job_series s JOIN jobs j ON j.id = s.job_id JOIN artifacts a ON a.job_id = j.id"
    " JOIN deliveries d ON d.destination = ? AND d.spool_key = a.spool_key"
    " WHERE s.series_instance_uid = ? AND s.revision <= ? AND j.model = ?"
)


def _earlier(job: Job, destination: str) -> tuple[str, str, int, str]:
    (uid, revision) = job.series[0]
    return destination, uid, revision, job.model
