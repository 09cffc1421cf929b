"""What the journal and the spool say about one series, read from outside while the appliance works."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from appliance.spool.store import Spool
from tools.campaigns.scanner import Series

RECEIVING = "receiving"
QUIET = "waiting for quiet"
QUEUED = "planned, job waiting"
INFERENCE = "inference"
WRITING = "writing results"
FORWARDING = "forwarding results"
DELIVERED = "all delivered"
STAGES = (RECEIVING, QUIET, QUEUED, INFERENCE, WRITING, FORWARDING)
"""The stages in the life of a series, in their order, until everything is delivered."""

_TRANSIENT = {
    "series": "SELECT state FROM series WHERE study_instance_uid = ? AND state IN ('open', 'complete')",
    "job": "SELECT state FROM jobs WHERE state IN ('queued', 'running') AND id IN (SELECT job_id FROM"
    " job_series JOIN series USING (series_instance_uid) WHERE study_instance_uid = ?)",
    "delivery": "SELECT state FROM deliveries WHERE study_instance_uid = ?"
    " AND state IN ('pending', 'sending')",
}


@dataclass(frozen=True)
class Made:
    """One result object of the journal: the job's model and series revision, and the spooled file."""

    model: str
    revision: int
    kind: str
    path: Path


@dataclass(frozen=True)
class Decided:
    """One job: what it ended as, for which revision of its series."""

    model: str
    revision: int
    state: str
    outcome: str | None
    reason: str | None
    attempts: int


class JournalView:
    """Reads of the journal and the spools below `storage`."""

    def __init__(self, storage: Path) -> None:
        self._database = storage / "journal.sqlite"
        self._originals = Spool(storage / "spool" / "originals")
        self._results = Spool(storage / "spool" / "results")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._database, timeout=30.0)) as connection:
            connection.row_factory = sqlite3.Row
            yield connection

    def stage(self, series: Series, *, all_acknowledged: bool) -> str:
        """In which stage the series is, or the present attempt of the job that is furthest behind."""
        if not all_acknowledged:
            return RECEIVING
        with self._reading() as connection:
            row = connection.execute(
                "SELECT state, (SELECT count(*) FROM instances i WHERE i.study_instance_uid ="
                " s.study_instance_uid) AS images FROM series s WHERE study_instance_uid = ?",
                (series.study_instance_uid,),
            ).fetchone()
            if row is None or row["images"] < len(series.images) or row["state"] == "open":
                return QUIET
            jobs = self._transient(connection, series, "job")
            known = {key for (key,) in connection.execute("SELECT spool_key FROM artifacts")}
            if "running" in jobs:
                return WRITING if self._files(self._results) - known else INFERENCE
            if jobs or row["state"] == "complete":
                return QUEUED
            return FORWARDING if self._transient(connection, series, "delivery") else DELIVERED

    def sending(self, series: Series) -> int:
        """How many files of the series are being sent, or were when the sender died."""
        with self._reading() as connection:
            return self._transient(connection, series, "delivery").count("sending")

    def pending(self, series: Series) -> str:
        """What has not reached its end yet, in words; empty once all has."""
        with self._reading() as connection:
            (images,) = connection.execute(
                "SELECT count(*) FROM instances WHERE study_instance_uid = ?", (series.study_instance_uid,)
            ).fetchone()
            words = [f"{images} of {len(series.images)} images"] if images < len(series.images) else []
            for what in _TRANSIENT:
                states = self._transient(connection, series, what)
                words += [f"{states.count(state)} {what} {state}" for state in sorted(set(states))]
        return ", ".join(words)

    def revision(self, series: Series) -> int:
        """The revision of the series: 1 until a late image comes, 0 if the journal does not know it."""
        with self._reading() as connection:
            row = connection.execute(
                "SELECT revision FROM series WHERE series_instance_uid = ?", (series.series_instance_uid,)
            ).fetchone()
        return 0 if row is None else int(row["revision"])

    def decisions(self, series: Series) -> list[Decided]:
        """Every job of the series."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT * FROM jobs JOIN job_series ON job_id = id WHERE series_instance_uid = ?",
                (series.series_instance_uid,),
            ).fetchall()
        fields = ("model", "revision", "state", "outcome", "reason", "attempts")
        return [Decided(*(row[name] for name in fields)) for row in rows]

    def made(self, series: Series) -> dict[str, Made]:
        """Every result object of the series that had to leave, by SOP Instance UID.

        One that is only kept to take the place of another, should that be refused, had not.
        """
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT a.*, j.model, s.revision FROM artifacts a JOIN jobs j ON j.id = a.job_id"
                " JOIN job_series s ON s.job_id = j.id WHERE s.series_instance_uid = ?"
                " AND (a.stands_for IS NULL"
                " OR EXISTS (SELECT 1 FROM deliveries d WHERE d.spool_key = a.spool_key))",
                (series.series_instance_uid,),
            ).fetchall()
        return {
            row["sop_instance_uid"]: Made(
                row["model"], row["revision"], row["kind"], self._results.path(row["spool_key"])
            )
            for row in rows
        }

    def rejected(self, series: Series) -> int:
        """How many deliveries of the series wait for a person."""
        with self._reading() as connection:
            (count,) = connection.execute(
                "SELECT count(*) FROM deliveries WHERE study_instance_uid = ? AND state = 'rejected'",
                (series.study_instance_uid,),
            ).fetchone()
        return int(count)

    def untidy(self) -> str:
        """How spool and journal differ, in words; empty when each file has its row and each row its file."""
        with self._reading() as connection:
            rows = connection.execute("SELECT spool_key FROM instances").fetchall()
            results = connection.execute("SELECT spool_key FROM artifacts").fetchall()
        words = []
        for spool, known in ((self._originals, rows), (self._results, results)):
            files = self._files(spool)
            keys = {row["spool_key"] for row in known}
            for count, what in (
                (len(files - keys), "files without a row"),
                (len(keys - files), "rows without a file"),
            ):
                words += [f"{count} {what} in {spool.root.name}"] if count else []
        return ", ".join(words)

    @staticmethod
    def _transient(connection: sqlite3.Connection, series: Series, what: str) -> list[str]:
        rows = connection.execute(_TRANSIENT[what], (series.study_instance_uid,)).fetchall()
        return [row["state"] for row in rows]

    @staticmethod
    def _files(spool: Spool) -> set[str]:
        """The keys of all files with something in them; an empty one is a name that was made ahead."""
        paths: list[Path] = []
        for folder in list(spool.root.iterdir()):
            with suppress(FileNotFoundError):  # renamed or removed a moment ago
                paths += list(folder.glob("*.dcm"))
        return {path.stem for path in paths if _size(path)}


def _size(path: Path) -> int:
    """The length of a file; 0 if it was removed a moment ago."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
