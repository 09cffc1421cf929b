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
    # Two questions, because an index holds the rows of one state only.
    rows = connection.execute(
        "SELECT destination, min(created_s) AS created_s FROM ("
        " SELECT destination, created_s FROM deliveries WHERE state = 'pending'"
        " UNION ALL SELECT destination, created_s FROM deliveries WHERE state = 'sending') GROUP BY 1"
    )
    return {row["destination"]: max(0.0, boot_seconds() - row["created_s"]) for row in rows}


def _counts(connection: sqlite3.Connection, query: str) -> list[Count]:
    return [
        Count(tuple(str(value) for value in tuple(row)[:-1]), int(row[-1]))
        for row in connection.execute(query).fetchall()
    ]
