"""Series: which are waiting to be complete, and what was decided about them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from appliance.domain.states import JOB, SERIES
from appliance.domain.types import Job
from appliance.journal.clock import boot_seconds, wall_time
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
    """A model that takes the series. The smallest `urgency` is run first; scanners take turns by `source`."""

    model: str
    model_sha256: str
    urgency: int
    source: str


def waiting(connection: sqlite3.Connection) -> list[WaitingSeries]:
    """Every series that a decision is due for sooner or later, the oldest first."""
    rows = connection.execute("SELECT * FROM series WHERE state IN ('open', 'complete') ORDER BY first_s")
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


def begin(connection: sqlite3.Connection, series: WaitingSeries, jobs: Sequence[NewJob]) -> bool:
    """Let models look at a series while it arrives, unless it is complete by now.

    Returns whether there is a new job.
    """
    if not _is(connection, series, "open"):
        return False
    begun = [_add_job(connection, series, job) for job in jobs]
    return any(begun)


def plan(
    connection: sqlite3.Connection, series: WaitingSeries, jobs: Sequence[NewJob], skips: Sequence[Skip]
) -> bool:
    """Write the decision of every pipeline about a complete series, unless an image came in meanwhile.

    A model that looked at the series while it arrived, and does not take it now, ends with the reason.
    """
    if not _is(connection, series, "complete"):
        return False
    uid = series.series_instance_uid
    for job in jobs:
        _add_job(connection, series, job)
    refused = 0
    for skip in skips:
        begun = connection.execute(
            "UPDATE jobs SET reason = ?, detail = ? WHERE input = ? AND state IN ('queued', 'running')",
            (skip.reason, skip.detail, _input(skip.model, series)),
        ).rowcount
        refused += begun
        if not begun:
            connection.execute(
                "INSERT INTO skips VALUES (?, ?, ?, ?, ?)",
                (uid, series.revision, skip.model, skip.reason, skip.detail),
            )
    connection.execute(
        "UPDATE jobs SET since_s = ? WHERE state IN ('queued', 'running') AND id IN"
        " (SELECT job_id FROM job_series WHERE series_instance_uid = ? AND revision = ?)",
        (boot_seconds(), uid, series.revision),
    )
    move(connection, SERIES, uid, "plan" if jobs or refused else "skip")
    return True


def _is(connection: sqlite3.Connection, series: WaitingSeries, state: str) -> bool:
    row = connection.execute(
        "SELECT state, revision FROM series WHERE series_instance_uid = ?", (series.series_instance_uid,)
    ).fetchone()
    return (row["state"], row["revision"]) == (state, series.revision)


def _input(model: str, series: WaitingSeries) -> str:
    return f"{model}|{series.series_instance_uid}:{series.revision}"


def _add_job(connection: sqlite3.Connection, series: WaitingSeries, job: NewJob) -> bool:
    row = connection.execute(
        "INSERT INTO jobs (input, model, model_sha256, urgency, source, state, since_s, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (input) DO NOTHING RETURNING id",
        (
            _input(job.model, series),
            job.model,
            job.model_sha256,
            job.urgency,
            job.source,
            JOB.initial,
            boot_seconds(),
            wall_time(),
        ),
    ).fetchone()
    if row is None:
        return False
    connection.execute(
        "INSERT INTO job_series VALUES (?, ?, ?)", (row["id"], series.series_instance_uid, series.revision)
    )
    return True


@dataclass(frozen=True)
class Arrived:
    """How much of the series of a job is there.

    `current` is False once more images came after the job's revision was complete; `open` says that the
    job's revision is not complete yet.
    """

    current: bool
    open: bool
    images: int


def arrived(connection: sqlite3.Connection, job: Job) -> Arrived:
    """How much of the series of a job is there now."""
    (uid, revision) = job.series[0]
    row = connection.execute(
        "SELECT state, revision, images FROM series WHERE series_instance_uid = ?", (uid,)
    ).fetchone()
    return Arrived(row["revision"] == revision, row["state"] in ("open", "complete"), row["images"])


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
