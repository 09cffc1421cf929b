"""Jobs: claiming, finishing, and giving up after too many attempts."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from appliance.domain.recipients import recipients
from appliance.domain.states import JOB
from appliance.domain.types import Artifact, EarlyFlag, Job
from appliance.journal import messages, taken
from appliance.journal.clock import boot_seconds, wall_time
from appliance.journal.database import move
from appliance.journal.deliveries import enqueue_result
from appliance.journal.files import keep
from appliance.journal.messages import Message


@dataclass(frozen=True)
class Result:
    """What a job ended with. `outcome` is one of the words of the `jobs.outcome` column."""

    outcome: str
    reason: str | None
    detail: str | None
    model_sha256: str


@dataclass(frozen=True)
class Yield:
    """What a step of a job made: result objects, messages, and images dealt with one by one.

    `destinations` holds the kinds of result objects that each destination takes, by name. `images` are ids of
    instances, each with the reason why there is no derived image of it, or None; `pipeline_digest` is that of
    their derived images. `flag` is a finding that `told` tells of before the series is complete.
    """

    seconds: float
    artifacts: Sequence[Artifact] = ()
    destinations: Mapping[str, Collection[str]] = field(default_factory=dict)
    told: Sequence[Message] = ()
    images: Mapping[int, str | None] = field(default_factory=dict)
    pipeline_digest: str = ""
    flag: EarlyFlag | None = None


_READY = (
    "FROM jobs j WHERE state = 'queued' AND due_s <= ? AND NOT EXISTS"
    " (SELECT 1 FROM job_series o JOIN series s USING (series_instance_uid) WHERE o.job_id = j.id"
    " AND s.revision = o.revision AND (s.state = 'complete' OR s.state = 'open'"
    " AND (s.images < j.images_due OR s.changed_content)))"
)


def claim(connection: sqlite3.Connection, served: Mapping[str, float]) -> Job | None:
    """Claim a job for a step: the most urgent, of the scanner that waits longest, and its oldest.

    `served` says when each scanner had its last turn. A job whose series still arrives is claimed once
    there are as many images as it waits for. The attempt counts from here on.
    """
    rows = connection.execute(
        f"SELECT min(id) AS id, source, urgency {_READY} GROUP BY urgency, source ORDER BY urgency",
        (boot_seconds(),),
    ).fetchall()
    if not rows:
        return None
    equals = [row for row in rows if row["urgency"] == rows[0]["urgency"]]
    chosen = min(equals, key=lambda row: (served.get(row["source"], 0.0), row["id"]))["id"]
    move(connection, JOB, chosen, "claim")
    connection.execute("UPDATE jobs SET attempts = attempts + 1 WHERE id = ?", (chosen,))
    return _job(connection, chosen)


def is_ready(connection: sqlite3.Connection) -> bool:
    """Whether a claim would find a job. Needs no write transaction."""
    return connection.execute(f"SELECT 1 {_READY} LIMIT 1", (boot_seconds(),)).fetchone() is not None


def refusal(connection: sqlite3.Connection, job: Job) -> tuple[str, str] | None:
    """Reason and detail why the model does not take the series after all, now that it is complete."""
    row = connection.execute("SELECT reason, detail FROM jobs WHERE id = ?", (job.id,)).fetchone()
    return None if row["reason"] is None else (row["reason"], row["detail"])


def release(connection: sqlite3.Connection, *, maximum_attempts: int) -> list[Job]:
    """Take back what a process that died was running: once more, or failed if that was its last attempt.

    To be called by the only process that runs jobs, before it claims any. Returns the failed jobs.
    """
    failed = []
    for row in connection.execute("SELECT id, attempts FROM jobs WHERE state = 'running'").fetchall():
        if row["attempts"] < maximum_attempts:
            move(connection, JOB, row["id"], "lease_lost")
            continue
        reason = f"the inference process died {row['attempts']} times on this job"
        give_up(connection, row["id"], reason="crashed", detail=reason)
        failed.append(_job(connection, row["id"]))
    return failed


def give_up(connection: sqlite3.Connection, job_id: int, *, reason: str, detail: str) -> None:
    """The job failed for good: its series is not analysed, and the reason is kept."""
    move(connection, JOB, job_id, "give_up", detail=reason)
    connection.execute(
        "UPDATE jobs SET outcome = 'not_analysed', reason = ?, detail = ? WHERE id = ?",
        (reason, detail, job_id),
    )


def retry(connection: sqlite3.Connection, job_id: int, *, delay_s: float, detail: str) -> None:
    """The attempt failed in a way that may heal: queue the job again after `delay_s`."""
    move(connection, JOB, job_id, "retry", detail=detail)
    connection.execute("UPDATE jobs SET due_s = ? WHERE id = ?", (boot_seconds() + delay_s, job_id))


def put_back(connection: sqlite3.Connection, job: Job) -> None:
    """The process stops before the job is done; the attempt does not count."""
    move(connection, JOB, job.id, "retry", detail="stopping")
    connection.execute("UPDATE jobs SET attempts = attempts - 1 WHERE id = ?", (job.id,))


def rest(connection: sqlite3.Connection, job: Job, made: Yield, *, images_due: int) -> list[str]:
    """End a step of a job and put what it made into the outbox; the next step waits for its turn.

    While the series arrives, that is not before it has `images_due` images. Whatever a step has done is
    progress: the attempts before it do not count any more. Returns what `finish` does.
    """
    dropped = _put(connection, job, made)
    move(connection, JOB, job.id, "rest")
    connection.execute("UPDATE jobs SET attempts = 0, images_due = ? WHERE id = ?", (images_due, job.id))
    return dropped


def finish(connection: sqlite3.Connection, job: Job, result: Result, made: Yield) -> list[str]:
    """End a job and put what its last step made into the outbox, all in the caller's transaction.

    Returns:
        The spool keys of what was dropped, which the caller removes once the transaction stands.
    """
    dropped = _put(connection, job, made)
    move(connection, JOB, job.id, "succeed", detail=result.outcome)
    connection.execute(
        "UPDATE jobs SET outcome = ?, reason = ?, detail = ?, model_sha256 = ? WHERE id = ?",
        (result.outcome, result.reason, result.detail, result.model_sha256, job.id),
    )
    return dropped


def _put(connection: sqlite3.Connection, job: Job, made: Yield) -> list[str]:
    """An artifact whose SOP instance UID is already known (a series that was run again because of a late
    image) is dropped: the first finished bytes are the result for good. The same holds for messages.
    """
    dropped = []
    for artifact in made.artifacts:
        if take_artifact(connection, job.id, artifact):
            enqueue_result(connection, artifact, recipients(artifact, made.artifacts, made.destinations))
        else:
            dropped.append(artifact.spool_key)
    for message in made.told:
        if take_artifact(connection, job.id, message.artifact):
            messages.put(connection, job, message)
        else:
            dropped.append(message.artifact.spool_key)
    taken.take(connection, made.pipeline_digest, made.images)
    connection.execute("UPDATE jobs SET seconds = seconds + ? WHERE id = ?", (made.seconds, job.id))
    if made.flag is not None:
        connection.execute(
            "UPDATE jobs SET early_score = ?, early_key_image = ? WHERE id = ?",
            (made.flag.score, made.flag.key_sop_instance_uid, job.id),
        )
    return dropped


def take_artifact(connection: sqlite3.Connection, job_id: int, artifact: Artifact) -> bool:
    """Note an artifact as one of a job's; False if there is one of this name already."""
    if connection.execute(
        "SELECT 1 FROM artifacts WHERE sop_instance_uid = ?", (artifact.sop_instance_uid,)
    ).fetchone():
        return False
    _insert_artifact(connection, job_id, artifact)
    keep(connection, "results", artifact.spool_key, artifact.size)
    return True


def begun_at(connection: sqlite3.Connection, job: Job) -> str:
    """When the model was first asked about the series of a job: the wall-clock time of the first revision."""
    (uid, _revision) = job.series[0]
    row = connection.execute(
        "SELECT min(j.created_at) AS at FROM jobs j JOIN job_series s ON s.job_id = j.id"
        " WHERE s.series_instance_uid = ? AND j.model = ? AND j.model_sha256 = ?",
        (uid, job.model, job.model_sha256),
    ).fetchone()
    return str(row["at"])


def earlier_report(connection: sqlite3.Connection, job: Job) -> tuple[str, str, str, str] | None:
    """SOP class, SOP instance, study and series UID of the model's latest report on the series before."""
    (uid, revision) = job.series[0]
    row = connection.execute(
        "SELECT a.sop_class_uid, a.sop_instance_uid, a.study_instance_uid, a.series_instance_uid"
        " FROM artifacts a JOIN jobs j ON j.id = a.job_id JOIN job_series s ON s.job_id = j.id"
        " WHERE s.series_instance_uid = ? AND s.revision <= ? AND j.model = ? AND a.kind = 'sr'"
        " AND a.stands_for IS NULL"
        " ORDER BY s.revision DESC, a.id DESC LIMIT 1",
        (uid, revision, job.model),
    ).fetchone()
    return None if row is None else tuple(row)


def artifact_keys(connection: sqlite3.Connection) -> set[str]:
    """The spool keys of all artifacts: files beside these belong to attempts that never finished."""
    return {row["spool_key"] for row in connection.execute("SELECT spool_key FROM artifacts")}


def _job(connection: sqlite3.Connection, job_id: int) -> Job:
    row = connection.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
    series = connection.execute(
        "SELECT series_instance_uid, revision FROM job_series WHERE job_id = ?", (job_id,)
    ).fetchall()
    return Job(
        row["id"],
        row["model"],
        row["model_sha256"],
        tuple((entry["series_instance_uid"], entry["revision"]) for entry in series),
        row["attempts"],
        row["source"],
        row["since_s"],
        None if row["early_score"] is None else EarlyFlag(row["early_score"], row["early_key_image"]),
    )


def _insert_artifact(connection: sqlite3.Connection, job_id: int, artifact: Artifact) -> None:
    connection.execute(
        "INSERT INTO artifacts (job_id, kind, sop_instance_uid, sop_class_uid, transfer_syntax_uid,"
        " study_instance_uid, series_instance_uid, sha256, size, spool_key, stands_for, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            job_id,
            artifact.kind,
            artifact.sop_instance_uid,
            artifact.sop_class_uid,
            artifact.transfer_syntax_uid,
            artifact.study_instance_uid,
            artifact.series_instance_uid,
            artifact.sha256,
            artifact.size,
            artifact.spool_key,
            artifact.stands_for,
            wall_time(),
        ),
    )
