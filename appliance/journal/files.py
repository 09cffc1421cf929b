"""Files of the spools: who needs each of them, and letting go of those that nobody needs."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from appliance.domain.commitment import Duty, Standing
from appliance.domain.retention import RETENTION, Claims
from appliance.domain.states import FILE
from appliance.journal.clock import boot_seconds
from appliance.journal.database import move

_UNKNOWN = Duty(required=False, commits=False)
"""A destination that the configuration does not name any more."""


@dataclass(frozen=True)
class SpoolFile:
    """A file that the journal refers to. `settled_s` is since when nothing but its time keeps it."""

    id: int
    spool: str
    spool_key: str
    size: int
    settled_s: float | None


def keep(connection: sqlite3.Connection, spool: str, spool_key: str, size: int) -> None:
    """A file is in the spool, and stays there until `purge`."""
    now = boot_seconds()
    connection.execute(
        "INSERT INTO files (spool, spool_key, size, state, kept_s, look_s) VALUES (?, ?, ?, ?, ?, ?)",
        (spool, spool_key, size, FILE.initial, now, now),
    )


def is_kept(connection: sqlite3.Connection, spool_key: str) -> bool:
    """Whether a file is still there to be sent."""
    row = connection.execute(
        "SELECT 1 FROM files WHERE spool_key = ? AND state = 'kept'", (spool_key,)
    ).fetchone()
    return row is not None


def due(connection: sqlite3.Connection, *, limit: int) -> list[SpoolFile]:
    """The kept files that it is time to look at, those that have waited longest first."""
    rows = connection.execute(
        "SELECT * FROM files WHERE state = 'kept' AND look_s <= ? ORDER BY look_s LIMIT ?",
        (boot_seconds(), limit),
    )
    return [_file(row) for row in rows]


def claims(connection: sqlite3.Connection, file: SpoolFile, duties: Mapping[str, Duty]) -> Claims:
    """Who may still need a file. `duties` says what is expected of each destination, by name."""
    deliveries = [
        standing
        for key in (file.spool_key, *_in_place_of(connection, file.spool_key))
        for standing in standings(connection, key, duties)
    ]
    received = connection.execute(
        "SELECT sop_instance_uid, series_instance_uid FROM instances WHERE spool_key = ?", (file.spool_key,)
    ).fetchone()
    if received is None:  # a result
        return Claims(deliveries, series_undecided=False, job=False, commitment_requested=False)
    series = (received["series_instance_uid"],)
    return Claims(
        deliveries,
        series_undecided=_exists(
            connection,
            "SELECT 1 FROM series WHERE series_instance_uid = ? AND state IN ('open', 'complete')",
            series,
        ),
        job=_exists(
            connection,
            "SELECT 1 FROM job_series s JOIN jobs j ON j.id = s.job_id"
            " WHERE s.series_instance_uid = ? AND j.state IN ('queued', 'running') LIMIT 1",
            series,
        ),
        commitment_requested=_exists(
            connection,
            "SELECT 1 FROM commitment_items i JOIN commitments c ON c.id = i.commitment_id"
            " WHERE i.sop_instance_uid = ? AND c.state = 'requested' LIMIT 1",
            (received["sop_instance_uid"],),
        ),
    )


def _in_place_of(connection: sqlite3.Connection, spool_key: str) -> list[str]:
    """The files of the results that this one may take the place of: they may be refused while they wait."""
    rows = connection.execute(
        "WITH RECURSIVE before (spool_key, stands_for) AS ("
        " SELECT spool_key, stands_for FROM artifacts WHERE spool_key = ?"
        " UNION SELECT o.spool_key, o.stands_for FROM before b JOIN artifacts o"
        " ON o.sop_instance_uid = b.stands_for)"
        " SELECT spool_key FROM before WHERE spool_key != ?",
        (spool_key, spool_key),
    )
    return [row["spool_key"] for row in rows]


def standings(connection: sqlite3.Connection, spool_key: str, duties: Mapping[str, Duty]) -> list[Standing]:
    """How far the deliveries of a file are."""
    # Destination by destination, since the index on deliveries begins with it.
    rows = connection.execute(
        "SELECT d.destination, d.state FROM (SELECT DISTINCT destination FROM delivery_counts) c"
        " CROSS JOIN deliveries d ON d.destination = c.destination AND d.spool_key = ?",
        (spool_key,),
    )
    return [Standing(row["state"], duties.get(row["destination"], _UNKNOWN)) for row in rows]


def hold(connection: sqlite3.Connection, file: SpoolFile, kept_for: str, *, look_in_s: float) -> None:
    """Somebody needs the file, as `kept_for` says: its retention time has not begun."""
    connection.execute(
        "UPDATE files SET kept_for = ?, settled_s = NULL, look_s = ? WHERE id = ?",
        (kept_for, boot_seconds() + look_in_s, file.id),
    )


def settle(connection: sqlite3.Connection, file: SpoolFile, *, since_s: float, look_in_s: float) -> None:
    """Nobody has needed the file since then: only its retention time keeps it."""
    connection.execute(
        "UPDATE files SET kept_for = ?, settled_s = ?, look_s = ? WHERE id = ?",
        (RETENTION, since_s, boot_seconds() + look_in_s, file.id),
    )


def purge(connection: sqlite3.Connection, file: SpoolFile) -> None:
    """Give a file up. Once this is certain to survive a power cut, it may be removed."""
    move(connection, FILE, file.id, "purge")


def purged(connection: sqlite3.Connection, *, limit: int) -> list[SpoolFile]:
    """Files that were given up and are not known to be removed."""
    rows = connection.execute("SELECT * FROM files WHERE state = 'purged' ORDER BY id LIMIT ?", (limit,))
    return [_file(row) for row in rows]


def removed(connection: sqlite3.Connection, file: SpoolFile) -> None:
    """The file is gone from the disk."""
    move(connection, FILE, file.id, "remove")


def _file(row: sqlite3.Row) -> SpoolFile:
    return SpoolFile(row["id"], row["spool"], row["spool_key"], row["size"], row["settled_s"])


def _exists(connection: sqlite3.Connection, query: str, parameters: tuple[str, ...]) -> bool:
    return connection.execute(query, parameters).fetchone() is not None
