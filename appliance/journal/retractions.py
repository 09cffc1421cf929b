"""Taking back the answer of a job that is done: what was made of it, who has it, and what tells them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from appliance.domain.states import DELIVERY, JOB
from appliance.domain.types import Artifact, Priority
from appliance.journal.database import move
from appliance.journal.deliveries import enqueue
from appliance.journal.files import is_kept
from appliance.journal.jobs import take_artifact

RETRACTED = "retracted"
"""The reason (`jobs.reason`) of an answer that was taken back."""


@dataclass(frozen=True)
class Answer:
    """A finished job of a triage model. `report` is the SOP Instance UID of its structured report, if any."""

    job_id: int
    model: str
    outcome: str
    retracted: bool
    series_instance_uid: str
    revision: int
    report: str | None
    created_at: str


@dataclass(frozen=True)
class Standing:
    """One delivery of something that was made of an answer."""

    delivery_id: int
    destination: str
    state: str
    attempts: int

    @property
    def may_be_there(self) -> bool:
        """Whether the destination has it, or could have it without our knowing."""
        return self.state in ("stored", "committed") or (self.state == "pending" and self.attempts > 0)


@dataclass(frozen=True)
class Made:
    """Something that was made of an answer, and where it went. `kept`: its file is still there."""

    kind: str
    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    spool_key: str
    kept: bool
    standings: tuple[Standing, ...]


@dataclass(frozen=True)
class Correction:
    """A spooled object or message that takes something back, and the destinations that are to get it."""

    artifact: Artifact
    destinations: tuple[str, ...]


def answers(connection: sqlite3.Connection, *, limit: int) -> list[Answer]:
    """The answers of triage models, the newest first."""
    rows = connection.execute(f"{_ANSWERS} ORDER BY j.id DESC LIMIT ?", (limit,))
    return [_answer(row) for row in rows]


def find(connection: sqlite3.Connection, name: str) -> Answer | None:
    """The answer with this job id, or with this SOP Instance UID among what was made of it."""
    by_uid = "SELECT job_id FROM artifacts WHERE sop_instance_uid = ?"
    condition, value = ("j.id = ?", int(name)) if name.isdecimal() else (f"j.id = ({by_uid})", name)
    row = connection.execute(f"{_ANSWERS} AND {condition}", (value,)).fetchone()
    return None if row is None else _answer(row)


def made_of(connection: sqlite3.Connection, job_id: int) -> list[Made]:
    """All that was made of an answer, in the order in which it was."""
    found = []
    for row in connection.execute(
        "SELECT * FROM artifacts WHERE job_id = ? ORDER BY id", (job_id,)
    ).fetchall():
        deliveries = connection.execute(
            "SELECT d.id, d.destination, d.state, d.attempts"
            " FROM (SELECT DISTINCT destination FROM delivery_counts) c"
            " CROSS JOIN deliveries d ON d.destination = c.destination AND d.spool_key = ? ORDER BY d.id",
            (row["spool_key"],),
        )
        found.append(
            Made(
                row["kind"],
                row["sop_instance_uid"],
                row["sop_class_uid"],
                row["study_instance_uid"],
                row["series_instance_uid"],
                row["spool_key"],
                is_kept(connection, row["spool_key"]),
                tuple(Standing(*delivery) for delivery in deliveries),
            )
        )
    return found


def retract(
    connection: sqlite3.Connection,
    job_id: int,
    made: Sequence[Made],
    corrections: Sequence[Correction],
    detail: str,
) -> bool:
    """Take an answer back, all in the caller's transaction. `detail` (who, and why) is kept in the history.

    What still waits, or was refused, is dropped; the corrections go into the outbox as urgent results.

    Returns:
        False, with nothing changed, if the journal is not as `made` says any more.
    """
    if tuple(made_of(connection, job_id)) != tuple(made):
        return False
    for standing in (standing for one in made for standing in one.standings):
        if standing.state in ("pending", "rejected"):
            move(connection, DELIVERY, standing.delivery_id, "drop", detail=detail)
    for correction in corrections:
        take_artifact(connection, job_id, correction.artifact)
        enqueue(connection, "results", correction.artifact, Priority.URGENT_RESULT, correction.destinations)
    move(connection, JOB, job_id, "retract", detail=detail)
    connection.execute("UPDATE jobs SET reason = ?, detail = ? WHERE id = ?", (RETRACTED, detail, job_id))
    return True


_ANSWERS = (
    "SELECT j.id, j.model, j.outcome, j.reason, s.series_instance_uid, s.revision, j.created_at,"
    " (SELECT a.sop_instance_uid FROM artifacts a WHERE a.job_id = j.id AND a.kind = 'sr'"
    " AND a.stands_for IS NULL ORDER BY a.id LIMIT 1) AS report"
    " FROM jobs j JOIN job_series s ON s.job_id = j.id"
    " WHERE j.state = 'done' AND j.outcome IN ('positive', 'negative')"
)


def _answer(row: sqlite3.Row) -> Answer:
    return Answer(
        row["id"],
        row["model"],
        row["outcome"],
        row["reason"] == RETRACTED,
        row["series_instance_uid"],
        row["revision"],
        row["report"],
        row["created_at"],
    )
