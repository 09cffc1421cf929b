"""What a person may see and do in the outbox. Each change is a history row with who did it and why."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from enum import Enum

from appliance.domain.errors import ApplianceError
from appliance.domain.states import DELIVERY
from appliance.domain.types import Priority
from appliance.journal.clock import boot_seconds
from appliance.journal.database import UnknownAggregate, move
from appliance.journal.files import is_kept


class NotPossible(ApplianceError):
    """A delivery does not allow what was asked for; nothing was changed."""


@dataclass(frozen=True)
class Selection:
    """Which deliveries: all that fit everything that is given; what is empty does not matter."""

    ids: tuple[int, ...] = ()
    destination: str | None = None
    states: tuple[str, ...] = ()
    studies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One delivery as people see it. `due_s` is in how many seconds it is tried again, 0 for now."""

    id: int
    destination: str
    kind: str
    priority: Priority
    state: str
    attempts: int
    due_s: float
    status: int | None
    reason: str | None
    sop_instance_uid: str
    study_instance_uid: str
    created_at: str
    stored_at: str | None


@dataclass(frozen=True)
class Event:
    """One transition of a delivery. `detail` names the operator and the reason where a person made it."""

    at: str
    event: str
    source: str
    target: str
    detail: str | None


class Intervention(Enum):
    """What a person may do: make a postponed delivery due, send a given-up one again, or give one up."""

    RETRY = "retry"
    RELEASE = "release"
    DROP = "drop"


def studies(connection: sqlite3.Connection) -> list[str]:
    """Study Instance UIDs of all that was ever received."""
    return [row[0] for row in connection.execute("SELECT DISTINCT study_instance_uid FROM series")]


def select(connection: sqlite3.Connection, selection: Selection, *, limit: int) -> list[Entry]:
    """The deliveries of a selection in the order in which they were put into the outbox."""
    now = boot_seconds()
    return [_entry(row, now) for row in _rows(connection, selection, "*", limit)]


def select_ids(connection: sqlite3.Connection, selection: Selection) -> list[int]:
    """The ids of all deliveries of a selection."""
    return [row["id"] for row in _rows(connection, selection, "id", -1)]


def _rows(connection: sqlite3.Connection, selection: Selection, columns: str, limit: int) -> sqlite3.Cursor:
    conditions: list[str] = []
    values: list[str | int] = []
    for column, wanted in (
        ("id", selection.ids),
        ("destination", () if selection.destination is None else (selection.destination,)),
        ("state", selection.states),
        ("study_instance_uid", selection.studies),
    ):
        if wanted:
            conditions.append(f"{column} IN ({', '.join('?' * len(wanted))})")
            values += list(wanted)
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    return connection.execute(
        f"SELECT {columns} FROM deliveries {where} ORDER BY id LIMIT ?", [*values, limit]
    )


def history(connection: sqlite3.Connection, delivery_id: int) -> list[Event]:
    """What happened to one delivery, the oldest first."""
    rows = connection.execute(
        "SELECT * FROM history WHERE aggregate = ? AND aggregate_id = ? ORDER BY id",
        (DELIVERY.name, str(delivery_id)),
    )
    return [Event(row["at"], row["event"], row["source"], row["target"], row["detail"]) for row in rows]


def intervene(
    connection: sqlite3.Connection, intervention: Intervention, delivery_id: int, detail: str
) -> None:
    """Do one thing to one delivery. `detail` is kept in its history, except that of a retry, which is none.

    Raises:
        IllegalEvent, NotPossible: its state does not allow it.
        UnknownAggregate: there is no such delivery.
    """
    match intervention:
        case Intervention.RETRY:
            changed = connection.execute(
                "UPDATE deliveries SET due_s = 0 WHERE id = ? AND state = 'pending'", (delivery_id,)
            )
            if not changed.rowcount:
                raise NotPossible(f"delivery {delivery_id} does not wait")
        case Intervention.RELEASE:
            _release(connection, delivery_id, detail)
        case Intervention.DROP:
            move(connection, DELIVERY, delivery_id, "drop", detail=detail)


def _release(connection: sqlite3.Connection, delivery_id: int, detail: str) -> None:
    row = connection.execute("SELECT spool_key FROM deliveries WHERE id = ?", (delivery_id,)).fetchone()
    if row is None:
        raise UnknownAggregate(f"delivery {delivery_id} is not in the journal")
    if not is_kept(connection, row["spool_key"]):
        raise NotPossible(f"delivery {delivery_id} cannot be sent again: its file was removed")
    connection.execute(
        "UPDATE deliveries SET due_s = 0, suspect = 0, attempts = 0, created_s = ? WHERE id = ?",
        (boot_seconds(), delivery_id),
    )
    move(connection, DELIVERY, delivery_id, "requeue", detail=detail)


def _entry(row: sqlite3.Row, now: float) -> Entry:
    return Entry(
        id=row["id"],
        destination=row["destination"],
        kind=row["spool"].removesuffix("s"),
        priority=Priority(row["priority"]),
        state=row["state"],
        attempts=row["attempts"],
        due_s=max(0.0, row["due_s"] - now),
        status=row["status"],
        reason=row["reason"],
        sop_instance_uid=row["sop_instance_uid"],
        study_instance_uid=row["study_instance_uid"],
        created_at=row["created_at"],
        stored_at=row["stored_at"],
    )
