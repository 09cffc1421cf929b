"""Storage commitment that we ask of destinations: transactions, and what their reports do to deliveries."""

from __future__ import annotations

import sqlite3
import uuid
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from appliance.domain.commitment import PROCESSING_FAILURE, SEND_AGAIN, CommitmentReport, Reference
from appliance.domain.states import DELIVERY, TRANSACTION
from appliance.journal.clock import boot_seconds, wall_time
from appliance.journal.database import move
from appliance.journal.files import is_kept


@dataclass(frozen=True)
class Transaction:
    """A request to a destination, as it is sent."""

    id: int
    transaction_uid: str
    references: tuple[Reference, ...]


@dataclass(frozen=True)
class Persistence:
    """How long to go on after a no: seconds to wait after so many, and how many are enough."""

    delay_s: Callable[[int], float]
    maximum_attempts: int


@dataclass
class Answered:
    """What a report did: how many deliveries it committed, and which reasons it gave for how many others."""

    committed: int = 0
    failures: Counter[int] = field(default_factory=Counter)


def resume(connection: sqlite3.Connection, destinations: Collection[str]) -> None:
    """Take up what a process that ended left behind. `destinations` are those that are to commit from now on.

    Nobody knows whether a transaction that was made was ever asked, so its instances are asked about under
    a new name. So is what was given up, and what was stored when the destination was not to commit.
    """
    open_transactions = connection.execute(
        "SELECT id, destination, state FROM commitment_transactions WHERE state IN ('made', 'asked')"
    ).fetchall()
    for row in open_transactions:
        if row["state"] == "made" or row["destination"] not in destinations:
            expire(connection, row["id"], delay_s=0.0)
    connection.execute("DELETE FROM committing")
    connection.executemany("INSERT INTO committing VALUES (?)", [(name,) for name in destinations])
    connection.execute(
        "DELETE FROM uncommitted WHERE destination NOT IN (SELECT destination FROM committing)"
    )
    connection.execute(
        "INSERT INTO uncommitted (delivery_id, destination)"
        " SELECT d.id, d.destination FROM files f CROSS JOIN committing c"
        " JOIN deliveries d ON d.destination = c.destination AND d.spool_key = f.spool_key"
        " WHERE f.state = 'kept' AND d.state = 'stored'"
        " ON CONFLICT DO UPDATE SET attempts = 0, due_s = 0 WHERE due_s IS NULL AND transaction_id IS NULL"
    )


def due(connection: sqlite3.Connection, destination: str, *, limit: int) -> int:
    """How many objects a destination is to be asked about now; counts no further than `limit`."""
    return len(_due(connection, destination, limit))


def make(connection: sqlite3.Connection, destination: str, *, limit: int) -> Transaction | None:
    """Make a transaction of what is due at a destination, if anything is."""
    rows = _due(connection, destination, limit)
    if not rows:
        return None
    transaction_uid = f"2.25.{uuid.uuid4().int}"
    cursor = connection.execute(
        "INSERT INTO commitment_transactions (destination, transaction_uid, state, since_s, made_at)"
        " VALUES (?, ?, ?, ?, ?)",
        (destination, transaction_uid, TRANSACTION.initial, boot_seconds(), wall_time()),
    )
    transaction_id = cursor.lastrowid
    assert transaction_id is not None
    keys = [(transaction_id, row["delivery_id"]) for row in rows]
    connection.executemany("INSERT INTO commitment_transaction_items VALUES (?, ?)", keys)
    connection.executemany(
        "UPDATE uncommitted SET transaction_id = ?, due_s = NULL WHERE delivery_id = ?", keys
    )
    # One UID may have come with two contents: two deliveries, but one instance to ask about.
    references = dict.fromkeys(Reference(row["sop_class_uid"], row["sop_instance_uid"]) for row in rows)
    return Transaction(transaction_id, transaction_uid, tuple(references))


def _due(connection: sqlite3.Connection, destination: str, limit: int) -> list[sqlite3.Row]:
    return connection.execute(
        "SELECT u.delivery_id, d.sop_class_uid, d.sop_instance_uid FROM uncommitted u"
        " CROSS JOIN deliveries d ON d.id = u.delivery_id"
        " WHERE u.destination = ? AND u.due_s <= ? AND d.state = 'stored' ORDER BY u.due_s LIMIT ?",
        (destination, boot_seconds(), limit),
    ).fetchall()


def asked(connection: sqlite3.Connection, transaction: Transaction) -> None:
    """The destination has taken the request. Its report may have been faster."""
    row = connection.execute(
        "SELECT state FROM commitment_transactions WHERE id = ?", (transaction.id,)
    ).fetchone()
    if row["state"] == "made":
        _move(connection, transaction.id, "ask")


def expire(connection: sqlite3.Connection, transaction_id: int, *, delay_s: float) -> None:
    """Nobody counts on a report any more, if it has not come: ask under a new name after `delay_s`."""
    row = connection.execute(
        "SELECT state FROM commitment_transactions WHERE id = ?", (transaction_id,)
    ).fetchone()
    if row["state"] == "answered":
        return
    _move(connection, transaction_id, "expire")
    connection.execute(
        "UPDATE uncommitted SET transaction_id = NULL, due_s = ? WHERE transaction_id = ?",
        (boot_seconds() + delay_s, transaction_id),
    )


def overdue(connection: sqlite3.Connection, destination: str, *, patience_s: float) -> list[int]:
    """The transactions that a destination has not reported on for that long."""
    rows = connection.execute(
        "SELECT id FROM commitment_transactions"
        " WHERE destination = ? AND state IN ('made', 'asked') AND state = 'asked' AND since_s <= ?",
        (destination, boot_seconds() - patience_s),
    )
    return [row["id"] for row in rows]


def destination_of(connection: sqlite3.Connection, transaction_uid: str) -> str | None:
    """The destination that a transaction was made for; None if there is no such transaction."""
    row = connection.execute(
        "SELECT destination FROM commitment_transactions WHERE transaction_uid = ?", (transaction_uid,)
    ).fetchone()
    return None if row is None else str(row["destination"])


def answer(connection: sqlite3.Connection, report: CommitmentReport, persistence: Persistence) -> Answered:
    """Take the report of a known transaction, however late; once only.

    What it says is committed is. What it says the destination does not have is sent again. Any other no,
    silence about an instance included, is asked about again later.
    """
    answered = Answered()
    row = connection.execute(
        "SELECT id, state FROM commitment_transactions WHERE transaction_uid = ?", (report.transaction_uid,)
    ).fetchone()
    if row["state"] == "answered":
        return answered
    _move(connection, row["id"], "answer")
    items = connection.execute(
        "SELECT d.id, d.state, d.sop_instance_uid, d.spool_key, u.transaction_id, u.attempts"
        " FROM commitment_transaction_items i JOIN deliveries d ON d.id = i.delivery_id"
        " LEFT JOIN uncommitted u ON u.delivery_id = d.id WHERE i.transaction_id = ?",
        (row["id"],),
    ).fetchall()
    for item in items:
        uid = item["sop_instance_uid"]
        if uid in report.committed and uid not in report.failures:
            # What was lost and is being sent again is asked about again, once it is there.
            if item["state"] == "stored":
                _commit(connection, item["id"])
                answered.committed += 1
            continue
        reason = report.failures.get(uid, PROCESSING_FAILURE)
        answered.failures[reason] += 1
        # A no counts only if no later transaction asks about the same: the object may have come since.
        if item["transaction_id"] == row["id"]:
            _refuse(connection, item, reason, persistence)
    return answered


def _commit(connection: sqlite3.Connection, delivery_id: int) -> None:
    move(connection, DELIVERY, delivery_id, "commit")
    connection.execute("DELETE FROM uncommitted WHERE delivery_id = ?", (delivery_id,))


def _refuse(connection: sqlite3.Connection, item: sqlite3.Row, reason: int, persistence: Persistence) -> None:
    """A no to one delivery: send it again, ask again, or leave it to a person."""
    attempts = item["attempts"] + 1
    due_s: float | None = boot_seconds() + persistence.delay_s(attempts)
    if attempts >= persistence.maximum_attempts:
        due_s = None
    elif reason in SEND_AGAIN and is_kept(connection, item["spool_key"]):
        # It is asked about again once it is stored again.
        connection.execute("UPDATE deliveries SET due_s = ? WHERE id = ?", (due_s, item["id"]))
        move(connection, DELIVERY, item["id"], "lost", detail=f"0x{reason:04X}")
    connection.execute(
        "UPDATE uncommitted SET transaction_id = NULL, attempts = ?, reason = ?, due_s = ?"
        " WHERE delivery_id = ?",
        (attempts, reason, due_s, item["id"]),
    )


def _move(connection: sqlite3.Connection, transaction_id: int, event: str) -> None:
    move(connection, TRANSACTION, transaction_id, event)
    connection.execute(
        "UPDATE commitment_transactions SET since_s = ? WHERE id = ?", (boot_seconds(), transaction_id)
    )
