"""A journal that already knows a million images, written by SQL because receiving them would take an hour."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from appliance.dicom.header import Facts
from appliance.journal.clock import boot_seconds, wall_time
from appliance.journal.database import Journal

_PER_SERIES = 400
_NUMBERS = "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {last})"
_UID = "'2.25.' || (1000000000000000000 + {number})"
_CLASS, _SYNTAX = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"


def fill(path: Path, instances: int) -> None:
    """Make the journal `path` with `instances` images that were received and delivered in the past.

    Each has the rows that the appliance would have written: instance, delivery to one destination, the
    history of that delivery, and every 400 a planned series.
    """
    journal = Journal(path)
    journal.close()
    facts = Facts("", _CLASS, "", "", "CT", ("ORIGINAL", "PRIMARY", "AXIAL"), "HEAD", rows=512, columns=512)
    values = {"facts": facts.to_json(), "class": _CLASS, "syntax": _SYNTAX}
    values |= {"at": wall_time(), "now": str(boot_seconds()), "size": "525000"}
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        for statement in _statements(instances):
            connection.execute(statement, values)
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _statements(instances: int) -> list[str]:
    numbers = _NUMBERS.format(last=instances - 1)
    series_numbers = _NUMBERS.format(last=(instances - 1) // _PER_SERIES)
    instance = _UID.format(number="n")
    series = _UID.format(number=f"10000000000 + n / {_PER_SERIES}")
    whole_series = _UID.format(number="10000000000 + n")
    study = _UID.format(number=f"20000000000 + n / {_PER_SERIES}")
    key = "printf('past%016d-%04d', n / 64, n % 64)"
    # A checksum is as good as random: its index is filled in no order.
    digest = "lower(hex(randomblob(16)))"
    return [
        f"{numbers} INSERT INTO instances (sop_instance_uid, sop_class_uid, transfer_syntax_uid,"
        " study_instance_uid, series_instance_uid, checksum, size, spool_key, calling_ae_title,"
        " called_ae_title, address, facts, received_at)"
        f" SELECT {instance}, :class, :syntax, {study}, {series}, {digest}, :size, {key}, 'CT1', 'EDGE',"
        " '127.0.0.1', :facts, :at FROM numbers",
        f"{series_numbers} INSERT INTO series (series_instance_uid, study_instance_uid, modality, state,"
        f" first_s, last_s) SELECT {whole_series}, {_UID.format(number='20000000000 + n')}, 'CT', 'planned',"
        " :now, :now FROM numbers",
        f"{numbers} INSERT INTO deliveries (destination, spool, spool_key, sop_instance_uid, sop_class_uid,"
        " transfer_syntax_uid, study_instance_uid, series_instance_uid, size, priority, state, attempts,"
        " status, created_s, created_at, stored_at)"
        f" SELECT 'pacs', 'originals', {key}, {instance}, :class, :syntax, {study}, {series}, :size, 2,"
        " 'stored', 1, 0, :now, :at, :at FROM numbers",
        *(
            f"{numbers} INSERT INTO history (aggregate, aggregate_id, event, source, target, at)"
            f" SELECT 'delivery', n + 1, '{event}', '{source}', '{target}', :at FROM numbers"
            for event, source, target in (("claim", "pending", "sending"), ("ack", "sending", "stored"))
        ),
    ]
