"""Taking back the answer of a job that is done: what was made of it, who has it, and what tells them."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
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
    """A finished job. `report` is the SOP Instance UID of its structured report, if any."""

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
    """One delivery of something made of an answer. `dropped_from` is its state until it was dropped."""

    delivery_id: int
    destination: str
    state: str
    attempts: int
    dropped_from: str | None

    @property
    def is_there(self) -> bool:
        """Whether the destination has it."""
        return self.state in ("stored", "committed")

    @property
    def may_be_there(self) -> bool:
        """Whether the destination has it, or could have it without our knowing."""
        doubtful = self.state == "pending" or self.dropped_from == "pending"
        return self.is_there or (doubtful and self.attempts > 0)


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
    """The answers of the models, the newest first; of those that gave none, the ones that told of it."""
    rows = connection.execute(
        f"{_ANSWERS} WHERE j.state = 'done' AND (j.outcome != 'not_analysed'"
        " OR EXISTS (SELECT 1 FROM artifacts a WHERE a.job_id = j.id)) ORDER BY j.id DESC LIMIT ?",
        (limit,),
    )
    return [_answer(row) for row in rows]


def find(connection: sqlite3.Connection, name: str) -> Answer | None:
    """The answer with this job id, or with this SOP Instance UID among what was made of it."""
    by_uid = "SELECT job_id FROM artifacts WHERE sop_instance_uid = ?"
    condition, value = ("j.id = ?", int(name)) if name.isdecimal() else (f"j.id = ({by_uid})", name)
    row = connection.execute(f"{_ANSWERS} WHERE j.state = 'done' AND {condition}", (value,)).fetchone()
    return None if row is None else _answer(row)


def parts(connection: sqlite3.Connection, answer: Answer) -> tuple[int, ...]:
    """The jobs that an answer was given by and that were not taken back, in their order.

    That is one; but images that join a derived series later come from a job of their own.
    """
    rows = connection.execute(
        "SELECT DISTINCT j.id FROM job_series s JOIN jobs j ON j.id = s.job_id"
        " JOIN artifacts a ON a.job_id = j.id AND a.kind = 'enhanced'"
        " WHERE s.series_instance_uid = ? AND j.state = 'done' AND j.reason IS NOT ?"
        " AND a.series_instance_uid IN"
        " (SELECT series_instance_uid FROM artifacts WHERE job_id = ? AND kind = 'enhanced')",
        (answer.series_instance_uid, RETRACTED, answer.job_id),
    )
    return tuple(sorted({answer.job_id, *(row["id"] for row in rows)}))


def unfinished(connection: sqlite3.Connection, answer: Answer) -> list[int]:
    """The jobs of the same model on the same series that are not done: what they make is sent as ever."""
    rows = connection.execute(
        "SELECT j.id FROM job_series s JOIN jobs j ON j.id = s.job_id WHERE s.series_instance_uid = ?"
        " AND j.model = ? AND j.state IN ('queued', 'running') ORDER BY j.id",
        (answer.series_instance_uid, answer.model),
    )
    return [row["id"] for row in rows]


def made_of(connection: sqlite3.Connection, job_ids: Collection[int]) -> list[Made]:
    """All that was made by some jobs, in the order in which it was."""
    found = []
    places = ", ".join("?" * len(job_ids))
    for row in connection.execute(
        f"SELECT * FROM artifacts WHERE job_id IN ({places}) ORDER BY id", tuple(job_ids)
    ).fetchall():
        deliveries = connection.execute(
            "SELECT d.id, d.destination, d.state, d.attempts,"
            " CASE d.state WHEN 'dropped' THEN (SELECT h.source FROM history h WHERE h.aggregate = ?"
            " AND h.aggregate_id = CAST(d.id AS TEXT) AND h.event = 'drop' ORDER BY h.id DESC LIMIT 1) END"
            " FROM (SELECT DISTINCT destination FROM delivery_counts) c"
            " CROSS JOIN deliveries d ON d.destination = c.destination AND d.spool_key = ? ORDER BY d.id",
            (DELIVERY.name, row["spool_key"]),
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


def drop_waiting(connection: sqlite3.Connection, made: Sequence[Made], detail: str) -> None:
    """Drop what still waits to be sent, or was refused, in the caller's transaction.

    `detail` (who, and why) is kept in its history.
    """
    for one in made:
        for standing in one.standings:
            if standing.state in ("pending", "rejected"):
                move(connection, DELIVERY, standing.delivery_id, "drop", detail=detail)


def retract(
    connection: sqlite3.Connection,
    job_ids: Collection[int],
    made: Sequence[Made],
    corrections: Sequence[Correction],
    detail: str,
) -> bool:
    """Take an answer back, all in the caller's transaction. `detail` (who, and why) is kept in the history.

    What still waits, or was refused, is dropped; the corrections go into the outbox as urgent results.

    Returns:
        False, with nothing changed, if the journal is not as `made` says any more.
    """
    if made_of(connection, job_ids) != list(made) or _is_retracted(connection, job_ids):
        return False
    drop_waiting(connection, made, detail)
    for correction in corrections:
        take_artifact(connection, min(job_ids), correction.artifact)
        enqueue(connection, "results", correction.artifact, Priority.URGENT_RESULT, correction.destinations)
    for job_id in job_ids:
        move(connection, JOB, job_id, "retract", detail=detail)
        connection.execute("UPDATE jobs SET reason = ?, detail = ? WHERE id = ?", (RETRACTED, detail, job_id))
    return True


def _is_retracted(connection: sqlite3.Connection, job_ids: Collection[int]) -> bool:
    places = ", ".join("?" * len(job_ids))
    query = f"SELECT 1 FROM jobs WHERE reason = ? AND id IN ({places}) LIMIT 1"
    return connection.execute(query, (RETRACTED, *job_ids)).fetchone() is not None


_ANSWERS = (
    "SELECT j.id, j.model, j.outcome, j.reason, s.series_instance_uid, s.revision, j.created_at,"
    " (SELECT a.sop_instance_uid FROM artifacts a WHERE a.job_id = j.id AND a.kind = 'sr'"
    " AND a.stands_for IS NULL ORDER BY a.id LIMIT 1) AS report"
    " FROM jobs j JOIN job_series s ON s.job_id = j.id"
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
