"""Storage commitment that scanners ask of us: requests, what became of each instance, and reports."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from appliance.domain.commitment import (
    CLASS_INSTANCE_CONFLICT,
    NO_SUCH_OBJECT_INSTANCE,
    PROCESSING_FAILURE,
    CommitmentReport,
    CommitmentRequest,
    Duty,
    Reference,
    verdict,
)
from appliance.domain.states import COMMITMENT
from appliance.domain.types import Origin
from appliance.journal.clock import boot_seconds, wall_time
from appliance.journal.database import move
from appliance.journal.files import standings


@dataclass(frozen=True)
class Commitment:
    """A request of a scanner. `age_s` is how long it has been in its state; `attempts` is of reporting."""

    id: int
    origin: Origin
    transaction_uid: str
    age_s: float
    attempts: int


@dataclass(frozen=True)
class Patience:
    """Seconds: `unknown_s` before an instance counts as never received, `undecided_s` before all is told."""

    unknown_s: float
    undecided_s: float


def request(connection: sqlite3.Connection, request: CommitmentRequest, origin: Origin) -> bool:
    """Write down what a scanner asks. Asking once more for the same is fine, and answered once more.

    Returns False, and changes nothing, if the scanner gave that name to a request for other instances.
    """
    items = {reference.sop_instance_uid: reference.sop_class_uid for reference in request.references}
    known = connection.execute(
        "SELECT id, state FROM commitments WHERE calling_ae_title = ? AND transaction_uid = ?",
        (origin.calling_ae_title, request.transaction_uid),
    ).fetchone()
    if known is None:
        _insert(connection, request.transaction_uid, origin, items)
        return True
    rows = connection.execute("SELECT * FROM commitment_items WHERE commitment_id = ?", (known["id"],))
    if {row["sop_instance_uid"]: row["sop_class_uid"] for row in rows} != items:
        return False
    if known["state"] in ("reported", "failed"):
        move(connection, COMMITMENT, known["id"], "repeat")
        _begin_state(connection, known["id"])
    return True


def _insert(
    connection: sqlite3.Connection, transaction_uid: str, origin: Origin, items: Mapping[str, str]
) -> None:
    now = boot_seconds()
    cursor = connection.execute(
        "INSERT INTO commitments (calling_ae_title, transaction_uid, called_ae_title, address, state,"
        " since_s, due_s, requested_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            origin.calling_ae_title,
            transaction_uid,
            origin.called_ae_title,
            origin.address,
            COMMITMENT.initial,
            now,
            now,
            wall_time(),
        ),
    )
    connection.executemany(
        "INSERT INTO commitment_items (commitment_id, sop_instance_uid, sop_class_uid) VALUES (?, ?, ?)",
        [(cursor.lastrowid, uid, sop_class_uid) for uid, sop_class_uid in items.items()],
    )


def names_series(connection: sqlite3.Connection, series_instance_uid: str) -> bool:
    """Whether one request names all instances that came of a series, and nothing that has not come."""
    # Any request that does names the latest instance, and mostly there is none.
    row = connection.execute(
        "SELECT 1 FROM commitment_items c WHERE c.sop_instance_uid ="
        " (SELECT sop_instance_uid FROM instances WHERE series_instance_uid = ? ORDER BY id DESC LIMIT 1)"
        " AND NOT EXISTS (SELECT 1 FROM instances i WHERE i.series_instance_uid = ?"
        " AND NOT EXISTS (SELECT 1 FROM commitment_items o WHERE o.commitment_id = c.commitment_id"
        " AND o.sop_instance_uid = i.sop_instance_uid))"
        " AND NOT EXISTS (SELECT 1 FROM commitment_items o WHERE o.commitment_id = c.commitment_id"
        " AND NOT EXISTS (SELECT 1 FROM instances i WHERE i.sop_instance_uid = o.sop_instance_uid))",
        (series_instance_uid, series_instance_uid),
    ).fetchone()
    return row is not None


def due(connection: sqlite3.Connection, state: str) -> list[Commitment]:
    """The commitments in `state` that it is time to look at, the longest overdue first."""
    now = boot_seconds()
    rows = connection.execute(
        "SELECT * FROM commitments WHERE state = ? AND due_s IS NOT NULL AND due_s <= ? ORDER BY due_s",
        (state, now),
    )
    return [
        Commitment(
            row["id"],
            Origin(row["calling_ae_title"], row["called_ae_title"], row["address"]),
            row["transaction_uid"],
            now - row["since_s"],
            row["attempts"],
        )
        for row in rows
    ]


def verdicts(
    connection: sqlite3.Connection, commitment: Commitment, duties: Mapping[str, Duty], patience: Patience
) -> dict[str, int] | None:
    """What the scanner is to be told of each instance, 0 or a Failure Reason; None while it has to wait.

    `duties` says what is expected of each destination, by name.
    """
    if commitment.age_s < patience.undecided_s and _waits(connection, commitment, duties, patience):
        return None
    answers: dict[str, int] = {}
    rows = connection.execute("SELECT * FROM commitment_items WHERE commitment_id = ?", (commitment.id,))
    for row in rows:
        uid = row["sop_instance_uid"]
        answer = _verdict(connection, uid, row["sop_class_uid"], duties)
        if answer is None and commitment.age_s < patience.undecided_s:
            return None
        answers[uid] = PROCESSING_FAILURE if answer is None else answer
    return answers


def _waits(
    connection: sqlite3.Connection, commitment: Commitment, duties: Mapping[str, Duty], patience: Patience
) -> bool:
    """Whether something is still on its way, asked of thousands of instances in one go."""
    required = [name for name, duty in duties.items() if duty.required]
    committing = [name for name in required if duties[name].commits]
    on_its_way = connection.execute(
        "SELECT 1 FROM commitment_items c"
        " CROSS JOIN instances i ON i.sop_instance_uid = c.sop_instance_uid"
        " CROSS JOIN deliveries d ON d.spool_key = i.spool_key"
        f" AND d.destination IN ({_places(required)})"
        " WHERE c.commitment_id = ? AND (d.state IN ('pending', 'sending')"
        f" OR (d.state = 'stored' AND d.destination IN ({_places(committing)}))) LIMIT 1",
        (*required, commitment.id, *committing),
    ).fetchone()
    if on_its_way is not None:
        return True
    # An instance may be acknowledged and not in the journal yet.
    return commitment.age_s < patience.unknown_s and _names_unknown(connection, commitment.id)


def _names_unknown(connection: sqlite3.Connection, commitment_id: int) -> bool:
    row = connection.execute(
        "SELECT 1 FROM commitment_items c WHERE c.commitment_id = ? AND NOT EXISTS"
        " (SELECT 1 FROM instances i WHERE i.sop_instance_uid = c.sop_instance_uid) LIMIT 1",
        (commitment_id,),
    ).fetchone()
    return row is not None


def _places(names: Collection[str]) -> str:
    return ", ".join("?" * len(names))


def _verdict(
    connection: sqlite3.Connection, uid: str, sop_class_uid: str, duties: Mapping[str, Duty]
) -> int | None:
    rows = connection.execute(
        "SELECT sop_class_uid, spool_key FROM instances WHERE sop_instance_uid = ?", (uid,)
    ).fetchall()
    if not rows:
        return NO_SUCH_OBJECT_INSTANCE
    if any(row["sop_class_uid"] != sop_class_uid for row in rows):
        return CLASS_INSTANCE_CONFLICT
    return verdict([standings(connection, row["spool_key"], duties) for row in rows])


def look_again(connection: sqlite3.Connection, commitment: Commitment, *, after_s: float) -> None:
    """Nothing can be said yet; the scanner waits."""
    connection.execute(
        "UPDATE commitments SET due_s = ? WHERE id = ?", (boot_seconds() + after_s, commitment.id)
    )


def aggregate(connection: sqlite3.Connection, commitment: Commitment, answers: Mapping[str, int]) -> None:
    """Everything is decided: the scanner is to be told these `verdicts`."""
    move(connection, COMMITMENT, commitment.id, "aggregate")
    connection.executemany(
        "UPDATE commitment_items SET failure = ? WHERE commitment_id = ? AND sop_instance_uid = ?",
        [(failure or None, commitment.id, uid) for uid, failure in answers.items()],
    )
    _begin_state(connection, commitment.id)


def report(
    connection: sqlite3.Connection, commitment: Commitment
) -> tuple[CommitmentReport, list[Reference]]:
    """What a scanner is told, and all the instances that it asked about."""
    rows = connection.execute(
        "SELECT * FROM commitment_items WHERE commitment_id = ?", (commitment.id,)
    ).fetchall()
    failures = {row["sop_instance_uid"]: row["failure"] for row in rows if row["failure"] is not None}
    references = [Reference(row["sop_class_uid"], row["sop_instance_uid"]) for row in rows]
    committed = frozenset(reference.sop_instance_uid for reference in references) - failures.keys()
    return CommitmentReport(commitment.transaction_uid, committed, failures), references


def reported(connection: sqlite3.Connection, commitment: Commitment) -> None:
    """The scanner has taken the report."""
    move(connection, COMMITMENT, commitment.id, "report")
    connection.execute(
        "UPDATE commitments SET due_s = NULL, reason = NULL, reported_at = ? WHERE id = ?",
        (wall_time(), commitment.id),
    )


def postpone(connection: sqlite3.Connection, commitment: Commitment, reason: str, *, delay_s: float) -> None:
    """The scanner could not be told; nor will it now be told of its other requests."""
    move(connection, COMMITMENT, commitment.id, "retry", detail=reason)
    connection.execute(
        "UPDATE commitments SET attempts = attempts + 1, reason = ? WHERE id = ?", (reason, commitment.id)
    )
    connection.execute(
        "UPDATE commitments SET due_s = max(due_s, ?) WHERE calling_ae_title = ? AND state = 'ready'",
        (boot_seconds() + delay_s, commitment.origin.calling_ae_title),
    )


def expire(connection: sqlite3.Connection, commitment: Commitment, reason: str) -> None:
    """The scanner could not be told for so long that nobody tries any more."""
    move(connection, COMMITMENT, commitment.id, "expire", detail=reason)
    connection.execute(
        "UPDATE commitments SET due_s = NULL, reason = ? WHERE id = ?", (reason, commitment.id)
    )


def _begin_state(connection: sqlite3.Connection, commitment_id: int) -> None:
    now = boot_seconds()
    connection.execute(
        "UPDATE commitments SET since_s = ?, due_s = ?, attempts = 0 WHERE id = ?", (now, now, commitment_id)
    )
