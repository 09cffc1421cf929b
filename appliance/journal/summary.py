"""Questions that people and monitoring ask of the journal. Reads only."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from appliance.journal.clock import boot_seconds


@dataclass(frozen=True)
class Count:
    """How many rows share the given labels."""

    labels: tuple[str, ...]
    count: int


def series_by_state(connection: sqlite3.Connection) -> list[Count]:
    """Labels: state."""
    return _counts(connection, "SELECT state, count(*) FROM series GROUP BY 1 ORDER BY 1")


def jobs_by_state(connection: sqlite3.Connection) -> list[Count]:
    """Labels: model, state."""
    return _counts(connection, "SELECT model, state, count(*) FROM jobs GROUP BY 1, 2 ORDER BY 1, 2")


def outcomes(connection: sqlite3.Connection) -> list[Count]:
    """Labels: model, outcome, reason (empty where there is none)."""
    return _counts(
        connection,
        "SELECT model, outcome, coalesce(reason, ''), count(*) FROM jobs WHERE outcome IS NOT NULL"
        " GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
    )


def skips_by_reason(connection: sqlite3.Connection) -> list[Count]:
    """Labels: model, reason. Counts the latest decision on each series."""
    return _counts(
        connection,
        "SELECT k.model, k.reason, count(*) FROM skips k JOIN series s USING (series_instance_uid, revision)"
        " GROUP BY 1, 2 ORDER BY 1, 2",
    )


def deliveries_by_state(connection: sqlite3.Connection) -> list[Count]:
    """Labels: destination, spool (originals or results), state."""
    return _counts(
        connection,
        "SELECT destination, spool, state, count FROM delivery_counts WHERE count > 0 ORDER BY 1, 2, 3",
    )


def oldest_waiting_s(connection: sqlite3.Connection) -> dict[str, float]:
    """By destination: seconds since the oldest file that is still waiting was put into the outbox."""
    rows = connection.execute(
        "SELECT DISTINCT destination, (SELECT min(created_s) FROM deliveries d"
        " WHERE d.destination = c.destination AND d.state IN ('pending', 'sending')) AS created_s"
        " FROM delivery_counts c"
    )
    return {
        row["destination"]: max(0.0, boot_seconds() - row["created_s"])
        for row in rows
        if row["created_s"] is not None
    }


@dataclass(frozen=True)
class CircuitSeen:
    """Whether a destination is sent to. `since_at` is a wall-clock time."""

    destination: str
    state: str
    since_at: str
    reason: str | None


def circuits(connection: sqlite3.Connection) -> list[CircuitSeen]:
    """The circuit of every destination, as the forwarder wrote it down."""
    rows = connection.execute("SELECT * FROM circuits ORDER BY destination")
    return [CircuitSeen(row["destination"], row["state"], row["since_at"], row["reason"]) for row in rows]


def commitments_by_state(connection: sqlite3.Connection) -> list[Count]:
    """Labels: role (scp: asked of us; scu: asked by us), state."""
    return _counts(
        connection,
        "SELECT 'scp', state, count(*) FROM commitments GROUP BY 1, 2 UNION ALL"
        " SELECT 'scu', state, count(*) FROM commitment_transactions GROUP BY 1, 2",
    )


def oldest_commitment_s(connection: sqlite3.Connection) -> dict[tuple[str, ...], float]:
    """By role and state: seconds since the oldest commitment that is to leave the state came into it."""
    rows = connection.execute(
        "SELECT 'scp' AS role, state, min(since_s) AS since_s FROM commitments"
        " WHERE due_s IS NOT NULL GROUP BY 1, 2 UNION ALL"
        " SELECT 'scu', state, min(since_s) FROM commitment_transactions"
        " WHERE state IN ('made', 'asked') GROUP BY 1, 2"
    )
    return {(row["role"], row["state"]): max(0.0, boot_seconds() - row["since_s"]) for row in rows}


def uncommitted(connection: sqlite3.Connection) -> list[Count]:
    """Labels: destination, and `waiting` to be asked about, `asked` or `given_up`."""
    return _counts(
        connection,
        "SELECT u.destination, CASE WHEN u.transaction_id IS NOT NULL THEN 'asked'"
        " WHEN u.due_s IS NOT NULL THEN 'waiting' ELSE 'given_up' END, count(*)"
        " FROM uncommitted u CROSS JOIN deliveries d ON d.id = u.delivery_id WHERE d.state = 'stored'"
        " GROUP BY 1, 2",
    )


def spool_files(connection: sqlite3.Connection) -> dict[tuple[str, str], tuple[int, int]]:
    """By spool and who needs them: how many files are in the spool, and their bytes."""
    rows = connection.execute(
        "SELECT spool, kept_for, count, bytes FROM file_counts WHERE state = 'kept' AND count > 0"
    )
    return {(row["spool"], row["kept_for"]): (row["count"], row["bytes"]) for row in rows}


def oldest_file_s(connection: sqlite3.Connection) -> float:
    """Seconds that the oldest file in the spool has been there; 0 without any."""
    row = connection.execute("SELECT min(kept_s) AS kept_s FROM files WHERE state = 'kept'").fetchone()
    return 0.0 if row["kept_s"] is None else max(0.0, boot_seconds() - row["kept_s"])


def _counts(connection: sqlite3.Connection, query: str) -> list[Count]:
    return [
        Count(tuple(str(value) for value in tuple(row)[:-1]), int(row[-1]))
        for row in connection.execute(query).fetchall()
    ]
