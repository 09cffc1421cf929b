"""Builders of what the journal holds: received images, results and claimed jobs."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from uuid import uuid4

from appliance.domain.types import Artifact, Instance, Job, Origin
from appliance.journal import instances, jobs, series
from appliance.journal.database import Journal
from appliance.journal.messages import Message
from appliance.journal.series import NewJob

PACS = ("pacs",)
REPORTS = {"pacs": ("sr",)}
"""What destinations take of the results of a job."""

IMAGE = Instance(
    sop_instance_uid="1.2.3.1",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
    transfer_syntax_uid="1.2.840.10008.1.2.1",
    study_instance_uid="1.2.3",
    series_instance_uid="1.2.3.0",
    modality="CT",
    checksum="content",
    size=10,
    spool_key="",
    origin=Origin("SCANNER", "EDGE", "127.0.0.1"),
    facts="{}",
    ours=False,
)


def image(uid: str, **changes: object) -> Instance:
    """A received image with a spool file of its own."""
    return replace(IMAGE, sop_instance_uid=uid, spool_key=uuid4().hex, **changes)  # type: ignore[arg-type]


def artifact(uid: str, *, urgent: bool = False, study: str = "1.2.3") -> Artifact:
    """A result object with a spool file of its own."""
    return Artifact(
        "sr", uid, "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.1.2.1", study, "2.25.1", "content", 10,
        uuid4().hex, urgent,
    )  # fmt: skip


_OPENED: list[Journal] = []


def open_journal(folder: Path) -> Journal:
    """A journal in `folder`, new or as it was left. The end of the test closes it."""
    _OPENED.append(Journal(folder / "journal.sqlite"))
    return _OPENED[-1]


def close_journals() -> None:
    """Close what `open_journal` opened: Python 3.13 warns of database connections that are just dropped."""
    while _OPENED:
        _OPENED.pop().close()


def planned_job(
    journal: Journal, *, uid: str = "1.2.3.0", model: str = "ct-denoise", urgency: int = 1, number: int = 0
) -> None:
    """Receive one image of a series, complete the series and plan one job on it."""
    with journal.write() as connection:
        instances.record(connection, image(f"{uid}.{number}", series_instance_uid=uid), PACS)
        decide(connection, uid, new_job(model, urgency))


def new_job(model: str = "model", urgency: int = 1, source: str = "SCANNER") -> NewJob:
    """A job to be planned."""
    return NewJob(model, "sha", urgency, source)


def finish_job(
    connection: sqlite3.Connection,
    job: Job,
    artifacts: Sequence[Artifact] = (),
    takes: Mapping[str, Collection[str]] = MappingProxyType({}),
    *,
    outcome: str = "negative",
    told: Sequence[Message] = (),
) -> list[str]:
    """End a job with this outcome and these results; the spool keys of what is superfluous."""
    result = jobs.Result(outcome, None, None, "sha")
    return jobs.finish(connection, job, result, jobs.Yield(1.0, artifacts, takes, told))


def decide(connection: sqlite3.Connection, uid: str, *planned: NewJob) -> None:
    """Complete the open series `uid` and plan these jobs on it."""
    (one,) = [one for one in series.waiting(connection) if one.series_instance_uid == uid]
    assert series.complete(connection, one, "quiet")
    assert series.plan(connection, one, planned, [])


def claimed_job(journal: Journal) -> Job:
    """The job that is due next, claimed."""
    with journal.write() as connection:
        job = jobs.claim(connection, {})
    assert job is not None
    return job


def state_of(journal: Journal, table: str, key: str | int) -> str:
    """The state of one series, job or delivery."""
    column = "series_instance_uid" if table == "series" else "id"
    with journal.read() as connection:
        return str(connection.execute(f"SELECT state FROM {table} WHERE {column} = ?", (key,)).fetchone()[0])


def count(journal: Journal, table: str) -> int:
    """How many rows a table has."""
    with journal.read() as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
