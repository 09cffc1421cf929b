"""The outbox: one row for each file and destination, claimed in order of priority."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Literal

from appliance.domain.states import DELIVERY
from appliance.domain.types import (
    Artifact,
    Delivery,
    Instance,
    Postponed,
    Priority,
    Refused,
    SendResult,
    Stored,
)
from appliance.journal.clock import boot_seconds, wall_time
from appliance.journal.database import move


def enqueue(
    connection: sqlite3.Connection,
    spool: Literal["originals", "results"],
    spooled: Instance | Artifact,
    priority: Priority,
    destinations: Sequence[str],
) -> None:
    """Put one spooled file into the outbox of each destination."""
    connection.executemany(
        "INSERT INTO deliveries (destination, spool, spool_key, sop_instance_uid, sop_class_uid,"
        " transfer_syntax_uid, study_instance_uid, series_instance_uid, priority, state, created_s,"
        " created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                destination,
                spool,
                spooled.spool_key,
                spooled.sop_instance_uid,
                spooled.sop_class_uid,
                spooled.transfer_syntax_uid,
                spooled.study_instance_uid,
                spooled.series_instance_uid,
                priority,
                DELIVERY.initial,
                boot_seconds(),
                wall_time(),
            )
            for destination in destinations
        ],
    )


def claim(connection: sqlite3.Connection, destination: str, *, limit: int) -> list[Delivery]:
    """Claim the next deliveries of one study, the most urgent and oldest first.

    A study that another association is sending is left alone, so that its images leave in order.
    """
    head = connection.execute(
        "SELECT study_instance_uid, priority FROM deliveries"
        " WHERE destination = ? AND state = 'pending' AND due_s <= ? AND study_instance_uid NOT IN"
        " (SELECT study_instance_uid FROM deliveries WHERE destination = ? AND state = 'sending')"
        " ORDER BY priority, id LIMIT 1",
        (destination, boot_seconds(), destination),
    ).fetchone()
    if head is None:
        return []
    rows = connection.execute(
        "SELECT * FROM deliveries WHERE destination = ? AND state = 'pending' AND due_s <= ?"
        " AND study_instance_uid = ? AND priority = ? ORDER BY id LIMIT ?",
        (destination, boot_seconds(), head["study_instance_uid"], head["priority"], limit),
    ).fetchall()
    for row in rows:
        move(connection, DELIVERY, row["id"], "claim")
    connection.executemany(
        "UPDATE deliveries SET attempts = attempts + 1 WHERE id = ?", [(row["id"],) for row in rows]
    )
    return [
        Delivery(
            row["id"],
            row["destination"],
            row["spool"],
            row["spool_key"],
            row["sop_instance_uid"],
            row["sop_class_uid"],
            row["transfer_syntax_uid"],
            Priority(row["priority"]),
            row["attempts"] + 1,
        )
        for row in rows
    ]


def settle(connection: sqlite3.Connection, delivery: Delivery, result: SendResult, *, delay_s: float) -> None:
    """Write what became of a claimed delivery; one that is postponed is due again after `delay_s`."""
    match result:
        case Stored(status):
            move(connection, DELIVERY, delivery.id, "ack", detail=f"0x{status:04X}")
            connection.execute(
                "UPDATE deliveries SET status = ?, reason = NULL, stored_at = ? WHERE id = ?",
                (status, wall_time(), delivery.id),
            )
        case Postponed(reason, status):
            move(connection, DELIVERY, delivery.id, "retry", detail=reason)
            connection.execute(
                "UPDATE deliveries SET status = ?, reason = ?, due_s = ? WHERE id = ?",
                (status, reason, boot_seconds() + delay_s, delivery.id),
            )
        case Refused(reason, status):
            move(connection, DELIVERY, delivery.id, "reject", detail=reason)
            connection.execute(
                "UPDATE deliveries SET status = ?, reason = ? WHERE id = ?", (status, reason, delivery.id)
            )


def unclaim(connection: sqlite3.Connection, deliveries: Sequence[Delivery]) -> None:
    """Put claimed deliveries back that were never tried; the attempt does not count."""
    for delivery in deliveries:
        move(connection, DELIVERY, delivery.id, "retry", detail="not tried")
        connection.execute("UPDATE deliveries SET attempts = attempts - 1 WHERE id = ?", (delivery.id,))


def release(connection: sqlite3.Connection) -> int:
    """Take back what a process that died was sending: its fate is unknown, so it is sent again.

    To be called by the only process that sends, before it claims any. Returns how many there were.
    """
    rows = connection.execute("SELECT id FROM deliveries WHERE state = 'sending'").fetchall()
    for row in rows:
        move(connection, DELIVERY, row["id"], "lease_lost")
    return len(rows)


def next_due_s(connection: sqlite3.Connection, destination: str) -> float | None:
    """Seconds until the next pending delivery is due (0 if one is), or None without any."""
    row = connection.execute(
        "SELECT min(due_s) AS due_s FROM deliveries WHERE destination = ? AND state = 'pending'",
        (destination,),
    ).fetchone()
    return None if row["due_s"] is None else max(0.0, row["due_s"] - boot_seconds())
