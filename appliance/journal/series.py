"""Series: which are waiting to be complete, and what was decided about them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from appliance.domain.states import JOB, SERIES
from appliance.domain.types import Job
from appliance.journal.clock import wall_time
from appliance.journal.database import move


@dataclass(frozen=True)
class WaitingSeries:
    """A series that is open, or complete and not planned yet. Times are of the boot clock."""

    series_instance_uid: str
    modality: str
    state: str
    revision: int
    images: int
    first_s: float
    last_s: float
    changed_content: bool


@dataclass(frozen=True)
class Skip:
    """Why a model does not take a series: `reason` is a stable word, `detail` a sentence for people."""

    model: str
    reason: str
    detail: str


@dataclass(frozen=True)
class NewJob:
    """A model that takes the series. The smallest `urgency` is run first."""

    model: str
    model_sha256: str
    urgency: int


def waiting(connection: sqlite3.Connection) -> list[WaitingSeries]:
    """Every series that a decision is due for sooner or later, the oldest first."""
    rows = connection.execute(
        "SELECT s.*, (SELECT count(*) FROM instances i WHERE i.series_instance_uid = s.series_instance_uid)"
        " AS images FROM series s WHERE state IN ('open', 'complete') ORDER BY first_s"
    )
    return [
        WaitingSeries(
            row["series_instance_uid"],
            row["modality"],
            row["state"],
            row["revision"],
            row["images"],
            row["first_s"],
            row["last_s"],
            bool(row["changed_content"]),
        )
        for row in rows
    ]


def complete(connection: sqlite3.Connection, series: WaitingSeries, evidence: str) -> bool:
    """Mark a series complete, unless an image came in since `series` was read."""
    unchanged = connection.execute(
        "UPDATE series SET completed_by = ? WHERE series_instance_uid = ? AND state = 'open'"
        " AND revision = ? AND last_s = ?",
        (evidence, series.series_instance_uid, series.revision, series.last_s),
    ).rowcount
    if not unchanged:
        return False
    move(connection, SERIES, series.series_instance_uid, "complete", detail=evidence)
    return True


def plan(
    connection: sqlite3.Connection, series: WaitingSeries, jobs: Sequence[NewJob], skips: Sequence[Skip]
) -> bool:
    """Write the decision of every pipeline about a complete series, unless an image came in meanwhile."""
    uid = series.series_instance_uid
    row = connection.execute(
        "SELECT state, revision FROM series WHERE series_instance_uid = ?", (uid,)
    ).fetchone()
    if (row["state"], row["revision"]) != ("complete", series.revision):
        return False
    for job in jobs:
        cursor = connection.execute(
            "INSERT INTO jobs (input, model, model_sha256, urgency, state, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (
                f"{job.model}|{uid}:{series.revision}",
                job.model,
                job.model_sha256,
                job.urgency,
                JOB.initial,
                wall_time(),
            ),
        )
        connection.execute(
            "INSERT INTO job_series VALUES (?, ?, ?)", (cursor.lastrowid, uid, series.revision)
        )
    connection.executemany(
        "INSERT INTO skips VALUES (?, ?, ?, ?, ?)",
        [(uid, series.revision, skip.model, skip.reason, skip.detail) for skip in skips],
    )
    move(connection, SERIES, uid, "plan" if jobs else "skip")
    return True


def is_current(connection: sqlite3.Connection, job: Job) -> bool:
    """Whether the series of a job are still at the revisions that the job is about."""
    return all(
        connection.execute(
            "SELECT 1 FROM series WHERE series_instance_uid = ? AND revision = ?", (uid, revision)
        ).fetchone()
        for uid, revision in job.series
    )


def number_result_series(connection: sqlite3.Connection, study_uid: str, series_uid: str, wanted: int) -> int:
    """The series number of a series of results: `wanted`, or the next that nothing else in its study has.

    A series that has a number keeps it.
    """
    known = connection.execute(
        "SELECT series_number FROM result_series WHERE series_instance_uid = ?", (series_uid,)
    ).fetchone()
    if known is not None:
        return int(known["series_number"])
    taken = {
        row["number"]
        for row in connection.execute(
            "SELECT series_number AS number FROM result_series WHERE study_instance_uid = ? UNION"
            " SELECT (SELECT json_extract(i.facts, '$.series_number') FROM instances i"
            " WHERE i.series_instance_uid = s.series_instance_uid LIMIT 1)"
            " FROM series s WHERE s.study_instance_uid = ?",
            (study_uid, study_uid),
        )
    }
    number = next(candidate for candidate in count(wanted) if candidate not in taken)
    connection.execute("INSERT INTO result_series VALUES (?, ?, ?)", (series_uid, study_uid, number))
    return number
