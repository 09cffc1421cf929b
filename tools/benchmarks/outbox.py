"""What the journal allows the forwarder: claims beside a long backlog, and deliveries a second."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import yaml

from appliance.config.load import load
from appliance.destinations.base import Parcel
from appliance.domain.types import SendResult, Stored
from appliance.journal import deliveries
from appliance.journal.clock import boot_seconds, wall_time
from appliance.journal.database import Journal
from appliance.services.forwarding.circuit import CircuitBreaker
from appliance.services.forwarding.ledger import Ledger
from appliance.services.forwarding.sending import Worker
from appliance.services.storage import Storage
from tools.benchmarks.report import Report, Result

_PER_STUDY = 400
_SENDING = 4
_CLAIMS = 200
_SECONDS = 5.0


class _Taker:
    """A destination that takes everything at once, so that only the journal takes time."""

    def send(self, parcels: Sequence[Parcel], settle: Callable[[Parcel, SendResult], bool]) -> None:
        """See `Destination.send`."""
        for parcel in parcels:
            if not settle(parcel, Stored(0)):
                return

    def probe(self) -> None:
        """See `Destination.probe`."""

    def rest(self) -> None:
        """See `Destination.rest`."""


def benchmark(folder: Path, *, pending: int, command: str) -> Report:
    """Measure with `pending` originals in the outbox, in studies of 400 and in one single study."""
    results: list[Result] = []
    for case, per_study in ((f"studies of {_PER_STUDY}", _PER_STUDY), ("one study", pending)):
        place = folder / case.replace(" ", "-")
        place.mkdir()
        results.append(_measure(place, case, pending, per_study))
    return Report(command, tuple(results), {}, ("The destination takes every object at once.",))


def _measure(folder: Path, case: str, pending: int, per_study: int) -> Result:
    config = folder / "site.yaml"
    settings = {
        "station": {"ae_title": "EDGE"},
        "storage": {"path": "var"},
        "destinations": {"pacs": {"ae_title": "PACS", "host": "pacs", "port": 104}},
    }
    config.write_text(yaml.safe_dump(settings))
    storage = Storage(load(config))
    _fill(storage.journal, pending, per_study)
    claims = sorted(_claim_seconds(storage.journal))
    with storage.journal.write() as connection:
        deliveries.release(connection)
    return {
        "case": f"{pending} pending, {case}",
        "claim_p50_ms": round(1000 * claims[len(claims) // 2], 3),
        "claim_p99_ms": round(1000 * claims[len(claims) * 99 // 100], 3),
        "deliveries_per_s": round(_rate(config, storage)),
    }


def _fill(journal: Journal, pending: int, per_study: int) -> None:
    with closing(sqlite3.connect(journal.path)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(
            "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < :last)"
            " INSERT INTO deliveries (destination, spool, spool_key, sop_instance_uid, sop_class_uid,"
            " transfer_syntax_uid, study_instance_uid, series_instance_uid, size, priority, state, created_s,"
            " created_at) SELECT 'pacs', 'originals', printf('%032d', n), '2.25.' || (1000000000000000 + n),"
            " '1.2.840.10008.5.1.4.1.1.2', '1.2.840.10008.1.2.1', '2.25.' || (2000000000000000 + n / :study),"
            " '2.25.3', 525000, 2, 'pending', :now, :at FROM numbers",
            {"last": pending - 1, "study": per_study, "now": boot_seconds(), "at": wall_time()},
        )
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _claim_seconds(journal: Journal) -> list[float]:
    """The seconds of claims of one delivery each, while others are being sent."""
    seconds = []
    for _ in range(_SENDING):
        with journal.write() as connection:
            deliveries.claim(connection, "pacs", limit=1)
    for _ in range(_CLAIMS):
        began = time.perf_counter()
        with journal.write() as connection:
            claimed = deliveries.claim(connection, "pacs", limit=1)
        seconds.append(time.perf_counter() - began)
        with journal.write() as connection:
            deliveries.unclaim(connection, claimed)
    return seconds


def _rate(config_file: Path, storage: Storage) -> float:
    """Deliveries a second through claim and settlement by the workers of one destination."""
    config = load(config_file)
    ledger = Ledger(storage.journal)
    breaker = CircuitBreaker(config.delivery, lambda _state, _reason: None)
    workers = [
        Worker("pacs", _Taker(), config, storage, ledger, breaker)
        for _ in range(config.delivery.associations)
    ]
    ledger.start()
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    time.sleep(_SECONDS)
    for worker in workers:
        worker.stop()
    for worker in workers:
        worker.join(30)
    ledger.close(30)
    seconds = time.perf_counter() - began
    with storage.journal.read() as connection:
        row = connection.execute("SELECT sum(count) FROM delivery_counts WHERE state = 'stored'").fetchone()
    storage.journal.close()
    return float(row[0] or 0) / seconds
