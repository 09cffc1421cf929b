"""Received instances: recording them once, with their series and the deliveries of the originals."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from enum import Enum

from appliance.domain.states import SERIES
from appliance.domain.types import Instance, Priority
from appliance.journal.clock import boot_seconds, wall_time
from appliance.journal.database import move
from appliance.journal.deliveries import enqueue
from appliance.journal.files import keep


class Recorded(Enum):
    """What an instance turned out to be. `keeps_file` is False where its spool file is superfluous."""

    NEW = "new"
    CHANGED_CONTENT = "changed_content"
    DUPLICATE = "duplicate"
    RECORDED = "recorded"
    OWN_RESULT = "own_result"

    @property
    def keeps_file(self) -> bool:
        return self in (Recorded.NEW, Recorded.CHANGED_CONTENT, Recorded.RECORDED)


def record(connection: sqlite3.Connection, instance: Instance, destinations: Sequence[str]) -> Recorded:
    """Record one spooled instance and put it into the outbox of `destinations`.

    Recording one spool file again changes nothing. An identical duplicate is recorded once. Another
    content under a known UID is kept beside the first and forwarded, and models are held for its
    series. Our own results that come back are neither forwarded nor processed.
    """
    uid = instance.sop_instance_uid
    if instance.ours or _is_result(connection, instance):
        return Recorded.OWN_RESULT
    known = connection.execute(
        "SELECT checksum, spool_key FROM instances WHERE sop_instance_uid = ?", (uid,)
    ).fetchall()
    if any(row["spool_key"] == instance.spool_key for row in known):
        return Recorded.RECORDED
    if any(row["checksum"] == instance.checksum for row in known):
        return Recorded.DUPLICATE
    _insert(connection, instance)
    keep(connection, "originals", instance.spool_key, instance.size)
    _touch_series(connection, instance, changed_content=bool(known))
    enqueue(connection, "originals", instance, Priority.ORIGINAL, destinations)
    return Recorded.CHANGED_CONTENT if known else Recorded.NEW


def _is_result(connection: sqlite3.Connection, instance: Instance) -> bool:
    """Whether we made the object, or one of its series: a PACS that compresses may change its own UID."""
    found = connection.execute(
        "SELECT 1 FROM artifacts WHERE sop_instance_uid = ? UNION ALL"
        " SELECT 1 FROM result_series WHERE series_instance_uid = ?",
        (instance.sop_instance_uid, instance.series_instance_uid),
    ).fetchone()
    return found is not None


def _insert(connection: sqlite3.Connection, instance: Instance) -> None:
    connection.execute(
        "INSERT INTO instances (sop_instance_uid, sop_class_uid, transfer_syntax_uid, study_instance_uid,"
        " series_instance_uid, checksum, size, spool_key, calling_ae_title, called_ae_title, address, facts,"
        " received_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            instance.sop_instance_uid,
            instance.sop_class_uid,
            instance.transfer_syntax_uid,
            instance.study_instance_uid,
            instance.series_instance_uid,
            instance.checksum,
            instance.size,
            instance.spool_key,
            instance.origin.calling_ae_title,
            instance.origin.called_ae_title,
            instance.origin.address,
            instance.facts,
            wall_time(),
        ),
    )


def _touch_series(connection: sqlite3.Connection, instance: Instance, *, changed_content: bool) -> None:
    now = boot_seconds()
    uid = instance.series_instance_uid
    row = connection.execute("SELECT state FROM series WHERE series_instance_uid = ?", (uid,)).fetchone()
    if row is None:
        connection.execute(
            "INSERT INTO series (series_instance_uid, study_instance_uid, modality, state, first_s, last_s,"
            " images) VALUES (?, ?, ?, ?, ?, ?, 1)",
            (uid, instance.study_instance_uid, instance.modality, SERIES.initial, now, now),
        )
        return
    if row["state"] != SERIES.initial:
        move(connection, SERIES, uid, "late_instance")
        connection.execute(
            "UPDATE series SET revision = revision + 1, first_s = ? WHERE series_instance_uid = ?", (now, uid)
        )
    connection.execute(
        "UPDATE series SET last_s = ?, images = images + 1, changed_content = max(changed_content, ?)"
        " WHERE series_instance_uid = ?",
        (now, changed_content, uid),
    )


def is_recorded(connection: sqlite3.Connection, spool_key: str) -> bool:
    """Whether a file of the spool belongs to a recorded instance."""
    row = connection.execute("SELECT 1 FROM instances WHERE spool_key = ?", (spool_key,)).fetchone()
    return row is not None


def are_all_kept(connection: sqlite3.Connection, series_instance_uid: str) -> bool:
    """Whether the files of all instances of a series are still there."""
    gone = connection.execute(
        "SELECT 1 FROM instances i JOIN files f ON f.spool_key = i.spool_key"
        " WHERE i.series_instance_uid = ? AND f.state != 'kept' LIMIT 1",
        (series_instance_uid,),
    ).fetchone()
    return gone is None


def of_series(connection: sqlite3.Connection, series_instance_uid: str) -> list[sqlite3.Row]:
    """`id`, `spool_key` and `facts` of a series' instances, as received."""
    return connection.execute(
        "SELECT id, spool_key, facts FROM instances WHERE series_instance_uid = ? ORDER BY id",
        (series_instance_uid,),
    ).fetchall()


def latest_facts(connection: sqlite3.Connection, series_instance_uid: str) -> str:
    """The facts of the image of a series that was received last."""
    row = connection.execute(
        "SELECT facts FROM instances WHERE series_instance_uid = ? ORDER BY id DESC LIMIT 1",
        (series_instance_uid,),
    ).fetchone()
    return str(row["facts"])


def latest_source(connection: sqlite3.Connection, series_instance_uid: str) -> tuple[str, str, str]:
    """Modality of a series, and called AE title and facts of its image that was received last."""
    row = connection.execute(
        "SELECT s.modality, i.called_ae_title, i.facts FROM instances i JOIN series s USING"
        " (series_instance_uid) WHERE i.series_instance_uid = ? ORDER BY i.id DESC LIMIT 1",
        (series_instance_uid,),
    ).fetchone()
    return row["modality"], row["called_ae_title"], row["facts"]


def calling_ae_title(connection: sqlite3.Connection, series_instance_uid: str) -> str:
    """Who sent the first image of a series."""
    row = connection.execute(
        "SELECT calling_ae_title FROM instances WHERE series_instance_uid = ? ORDER BY id LIMIT 1",
        (series_instance_uid,),
    ).fetchone()
    return str(row["calling_ae_title"])
