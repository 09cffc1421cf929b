"""What a destination gets in place of a result that it refuses for good."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Collection

from appliance.domain.states import DELIVERY
from appliance.domain.types import Artifact, Delivery, Refused, SendResult
from appliance.journal import deliveries
from appliance.journal.database import move

_log = logging.getLogger(__name__)


def settle(
    connection: sqlite3.Connection,
    delivery: Delivery,
    result: SendResult,
    *,
    delay_s: float,
    takes: Collection[str],
) -> None:
    """Write what became of a claimed delivery; if it was refused, have what stands for it sent.

    `takes` are the kinds of result objects that the destination takes.
    """
    deliveries.settle(connection, delivery, result, delay_s=delay_s)
    if isinstance(result, Refused) and delivery.spool == "results":
        _send_instead(connection, delivery, takes)


def _send_instead(connection: sqlite3.Connection, delivery: Delivery, takes: Collection[str]) -> None:
    """The refused delivery is dropped: no person needs to look at what is shown in another way."""
    row = connection.execute(
        "SELECT * FROM artifacts WHERE stands_for = ?", (delivery.sop_instance_uid,)
    ).fetchone()
    if row is None or row["kind"] not in takes:
        return
    known = connection.execute(
        "SELECT 1 FROM deliveries WHERE destination = ? AND spool_key = ?",
        (delivery.destination, row["spool_key"]),
    ).fetchone()
    if known is None:
        artifact = Artifact(
            row["kind"],
            row["sop_instance_uid"],
            row["sop_class_uid"],
            row["transfer_syntax_uid"],
            row["study_instance_uid"],
            row["series_instance_uid"],
            row["sha256"],
            row["size"],
            row["spool_key"],
            delivery.urgent,
        )
        deliveries.enqueue(connection, "results", artifact, delivery.priority, [delivery.destination])
    move(connection, DELIVERY, delivery.id, "drop", detail=f"{row['kind']} instead")
    _log.warning("sent_instead", extra={"destination": delivery.destination, "kind": row["kind"]})
