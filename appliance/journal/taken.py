"""Which images of a series a model has dealt with, where it looks at them one by one."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping


def waiting(
    connection: sqlite3.Connection, series_instance_uid: str, pipeline_digest: str
) -> list[sqlite3.Row]:
    """`id`, `spool_key` and `sop_class_uid` of images that the pipeline has not dealt with, as they came."""
    return connection.execute(
        "SELECT id, spool_key, sop_class_uid FROM instances i WHERE series_instance_uid = ? AND NOT EXISTS"
        " (SELECT 1 FROM taken t WHERE t.instance_id = i.id AND t.pipeline_digest = ?) ORDER BY id",
        (series_instance_uid, pipeline_digest),
    ).fetchall()


def take(connection: sqlite3.Connection, pipeline_digest: str, images: Mapping[int, str | None]) -> None:
    """Note images by their ids, each with the reason why there is no derived image of it, or None."""
    connection.executemany(
        "INSERT OR REPLACE INTO taken (instance_id, pipeline_digest, reason) VALUES (?, ?, ?)",
        [(image, pipeline_digest, reason) for image, reason in images.items()],
    )


def counts(
    connection: sqlite3.Connection, series_instance_uid: str, pipeline_digest: str
) -> dict[str | None, int]:
    """How many images were dealt with, by the reason why there is no derived image; None: there is one."""
    rows = connection.execute(
        "SELECT t.reason, count(*) AS images FROM instances i JOIN taken t ON t.instance_id = i.id"
        " WHERE i.series_instance_uid = ? AND t.pipeline_digest = ? GROUP BY t.reason",
        (series_instance_uid, pipeline_digest),
    )
    return {row["reason"]: row["images"] for row in rows}
