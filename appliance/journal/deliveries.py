"""The outbox: one row for each file and destination, claimed in order of priority.

The forwarder's side of it; what a person may do is in `interventions.py`.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
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

# What keeps the head of a queue from being claimed, by priority. A key image may leave at any time. An urgent
# result waits for its study's key images, whoever sends them, but not for ever for one that does not get
# through. Of the rest, one association has a study to itself, so that its images leave in order.
_KEY_IMAGE_ATTEMPTS = 3
_SENDING = (
    "SELECT 1 FROM deliveries d WHERE d.destination = q.destination"
    " AND d.study_instance_uid = q.study_instance_uid AND d.state = 'sending'"
)
_OPEN_KEY_IMAGE = (
    "SELECT 1 FROM deliveries d WHERE d.destination = q.destination"
    " AND d.study_instance_uid = q.study_instance_uid"
    f" AND d.priority = 0 AND d.state IN ('pending', 'sending') AND d.attempts <= {_KEY_IMAGE_ATTEMPTS}"
)
_FREE = {
    Priority.KEY_IMAGE: "1",
    Priority.URGENT_RESULT: f"NOT EXISTS ({_OPEN_KEY_IMAGE}) AND NOT EXISTS ({_SENDING} AND d.priority = 1)",
    Priority.ORIGINAL: f"NOT EXISTS ({_SENDING} AND d.priority != 1)",
    Priority.ROUTINE_RESULT: f"NOT EXISTS ({_SENDING} AND d.priority != 1)",
}
_DOUBTFUL = (
    "SELECT 1 FROM deliveries d WHERE d.destination = q.destination"
    " AND d.study_instance_uid = q.study_instance_uid AND d.state = 'pending' AND d.suspect = 1"
)


def _head_query(priority: Priority, free: str) -> str:
    return (
        "SELECT q.study_instance_uid FROM queues q INDEXED BY queues_by_head"
        f" WHERE q.destination = ? AND q.priority = {priority:d} AND {free} ORDER BY q.head LIMIT 1"
    )


_HEADS = {priority: _head_query(priority, free) for priority, free in _FREE.items()}
_HEADS_WITHOUT_DOUBT = {
    priority: _head_query(priority, f"{free} AND NOT EXISTS ({_DOUBTFUL})")
    for priority, free in _FREE.items()
}


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
        " transfer_syntax_uid, study_instance_uid, series_instance_uid, size, priority, state, created_s,"
        " created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
                spooled.size,
                priority,
                DELIVERY.initial,
                boot_seconds(),
                wall_time(),
            )
            for destination in destinations
        ],
    )


def enqueue_result(connection: sqlite3.Connection, artifact: Artifact, destinations: Sequence[str]) -> None:
    """Put a result object into the outbox of each destination.

    An urgent one flags its study, and the originals that it refers to become key images, so that they
    leave before it and it before all else.
    """
    if artifact.urgent:
        connection.execute(
            "INSERT INTO flagged_studies VALUES (?, ?) ON CONFLICT DO NOTHING",
            (artifact.study_instance_uid, wall_time()),
        )
        connection.executemany(
            "UPDATE deliveries SET priority = ? WHERE destination = ? AND spool_key IN"
            " (SELECT spool_key FROM instances WHERE sop_instance_uid = ?)"
            " AND state IN ('pending', 'sending')",
            [
                (Priority.KEY_IMAGE, destination, uid)
                for destination in destinations
                for uid in artifact.key_sop_instance_uids
            ],
        )
    priority = Priority.URGENT_RESULT if artifact.urgent else Priority.ROUTINE_RESULT
    enqueue(connection, "results", artifact, priority, destinations)


def is_claimable(connection: sqlite3.Connection, destination: str) -> bool:
    """Whether a claim would find something. Needs no write transaction."""
    return (
        _head(connection, destination) is not None
        or _suspect(connection, destination) is not None
        or connection.execute(
            "SELECT 1 FROM deliveries WHERE destination = ? AND state = 'pending'"
            " AND due_s > 0 AND due_s <= ?",
            (destination, boot_seconds()),
        ).fetchone()
        is not None
    )


def is_urgent(connection: sqlite3.Connection, destination: str) -> bool:
    """Whether a claim would find a key image or an urgent result."""
    head = _head(connection, destination)
    return head is not None and head[0] <= Priority.URGENT_RESULT


def claim(
    connection: sqlite3.Connection,
    destination: str,
    *,
    limit: int,
    maximum_bytes: int = sys.maxsize,
    wary: bool = False,
) -> list[Delivery]:
    """Claim the next deliveries of one study and priority, the most urgent and oldest first.

    At most `limit` of them and `maximum_bytes` together, but one of any size. Suspects are left out: see
    `claim_suspect`. Who is `wary` takes, if it can be, a study without suspects, which tells whether the
    destination or one study is the trouble.
    """
    _end_postponements(connection, destination)
    head = _head(connection, destination, _HEADS_WITHOUT_DOUBT) if wary else None
    head = head or _head(connection, destination)
    if head is None:
        return []
    priority, study = head
    rows = connection.execute(
        "SELECT * FROM deliveries INDEXED BY deliveries_ready WHERE destination = ? AND priority = ?"
        " AND study_instance_uid = ? AND state = 'pending' AND due_s = 0 AND suspect = 0 ORDER BY id LIMIT ?",
        (destination, priority, study, limit),
    ).fetchall()
    sizes = accumulate(row["size"] for row in rows)
    fitting = [row for row, size in zip(rows, sizes, strict=True) if size <= maximum_bytes]
    return _claimed(connection, fitting or rows[:1])


def claim_suspect(connection: sqlite3.Connection, destination: str) -> list[Delivery]:
    """Claim one delivery at which the connection ended before, unless another such one is being sent.

    Such an object is sent alone, so that one at which a destination always hangs up holds up no other.
    """
    _end_postponements(connection, destination)
    row = _suspect(connection, destination)
    return [] if row is None else _claimed(connection, [row])


def _end_postponements(connection: sqlite3.Connection, destination: str) -> None:
    connection.execute(
        "UPDATE deliveries SET due_s = 0 WHERE destination = ? AND state = 'pending'"
        " AND due_s > 0 AND due_s <= ?",
        (destination, boot_seconds()),
    )


def _head(
    connection: sqlite3.Connection, destination: str, queries: Mapping[Priority, str] = _HEADS
) -> tuple[Priority, str] | None:
    for priority, query in queries.items():
        row = connection.execute(query, (destination,)).fetchone()
        if row is not None:
            return priority, row["study_instance_uid"]
    return None


def _suspect(connection: sqlite3.Connection, destination: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM deliveries INDEXED BY deliveries_suspect WHERE destination = ? AND state = 'pending'"
        " AND due_s = 0 AND suspect = 1 AND NOT EXISTS (SELECT 1 FROM deliveries"
        " INDEXED BY deliveries_sending WHERE destination = ? AND state = 'sending' AND suspect = 1)"
        " ORDER BY priority, id LIMIT 1",
        (destination, destination),
    ).fetchone()
    return row


def _claimed(connection: sqlite3.Connection, rows: Sequence[sqlite3.Row]) -> list[Delivery]:
    """Move the rows, all of one study, to `sending`."""
    for row in rows:
        move(connection, DELIVERY, row["id"], "claim")
    connection.executemany(
        "UPDATE deliveries SET attempts = attempts + 1 WHERE id = ?", [(row["id"],) for row in rows]
    )
    study = rows[0]["study_instance_uid"]
    flagged = connection.execute(
        "SELECT 1 FROM flagged_studies WHERE study_instance_uid = ?", (study,)
    ).fetchone()
    return [
        Delivery(
            id=row["id"],
            destination=row["destination"],
            spool=row["spool"],
            spool_key=row["spool_key"],
            sop_instance_uid=row["sop_instance_uid"],
            sop_class_uid=row["sop_class_uid"],
            transfer_syntax_uid=row["transfer_syntax_uid"],
            size=row["size"],
            priority=Priority(row["priority"]),
            attempts=row["attempts"] + 1,
            urgent=flagged is not None,
        )
        for row in rows
    ]


def settle(connection: sqlite3.Connection, delivery: Delivery, result: SendResult, *, delay_s: float) -> None:
    """Write what became of a claimed delivery; one that is postponed is due again after `delay_s`.

    One that was postponed without a status is a suspect: the connection ended at it, or nobody knows.
    """
    match result:
        case Stored(status):
            move(connection, DELIVERY, delivery.id, "ack", detail=f"0x{status:04X}")
            connection.execute(
                "UPDATE deliveries SET status = ?, reason = NULL, stored_at = ? WHERE id = ?",
                (status, wall_time(), delivery.id),
            )
        case Postponed(reason, status):
            # In this order: the delivery must not be ready for a moment.
            connection.execute(
                "UPDATE deliveries SET status = ?, reason = ?, due_s = ?, suspect = ? WHERE id = ?",
                (status, reason, boot_seconds() + delay_s, status is None, delivery.id),
            )
            move(connection, DELIVERY, delivery.id, "retry", detail=reason)
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


def release(connection: sqlite3.Connection, delay_s: Callable[[int], float] = lambda _attempts: 0.0) -> int:
    """Take back what a process that died was sending: its fate is unknown, so it is sent again.

    What was being sent at a second death is a suspect, due again after `delay_s` of its attempts: it may be
    what kills the process.

    To be called by the only process that sends, before it claims any. Returns how many there were.
    """
    rows = connection.execute("SELECT id, attempts FROM deliveries WHERE state = 'sending'").fetchall()
    for row in rows:
        if row["attempts"] > 1:
            connection.execute(
                "UPDATE deliveries SET suspect = 1, due_s = ? WHERE id = ?",
                (boot_seconds() + delay_s(row["attempts"]), row["id"]),
            )
        move(connection, DELIVERY, row["id"], "lease_lost")
    return len(rows)


def wake(connection: sqlite3.Connection, destination: str) -> None:
    """The destination works again: what was postponed is due at once."""
    connection.execute(
        "UPDATE deliveries SET due_s = 0 WHERE destination = ? AND state = 'pending' AND due_s > 0",
        (destination,),
    )


def next_due_s(connection: sqlite3.Connection, destination: str) -> float | None:
    """Seconds until the next postponed delivery is due (0 if one is), or None without any."""
    row = connection.execute(
        "SELECT min(due_s) AS due_s FROM deliveries WHERE destination = ? AND state = 'pending'"
        " AND due_s > 0",
        (destination,),
    ).fetchone()
    return None if row["due_s"] is None else max(0.0, row["due_s"] - boot_seconds())


def reset_circuits(connection: sqlite3.Connection, destinations: Iterable[str]) -> None:
    """Every destination may be tried; those that are no longer configured are forgotten."""
    connection.execute("DELETE FROM circuits")
    connection.executemany(
        "INSERT INTO circuits VALUES (?, 'closed', NULL, ?)", [(name, wall_time()) for name in destinations]
    )


def note_circuit(connection: sqlite3.Connection, destination: str, state: str, reason: str | None) -> None:
    """Write down whether a destination answers, and since when it does or does not."""
    connection.execute(
        "UPDATE circuits SET since_at = iif('closed' IN (state, :state), :now, since_at), state = :state,"
        " reason = iif(:state = 'half_open', reason, :reason) WHERE destination = :destination",
        {"destination": destination, "state": state, "reason": reason, "now": wall_time()},
    )
