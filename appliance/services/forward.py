"""Sends what is in the outbox: threads for each destination, so that a slow PACS holds up nobody else."""

from __future__ import annotations

import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence

from appliance.config.schema import Config
from appliance.destinations import DESTINATIONS
from appliance.destinations.base import Destination, Parcel
from appliance.domain.errors import ApplianceError, TryAgain
from appliance.domain.policy import backoff_s
from appliance.domain.types import Delivery, Postponed, Refused, SendResult, Stored
from appliance.journal import deliveries
from appliance.observe import metrics
from appliance.observe.log import hashed
from appliance.observe.process import Process
from appliance.services.storage import Storage

_BATCH = 50
_LOOK_S = 2.0  # how often a worker looks by itself when no bell rings
_DRAIN_S = 30.0

_log = logging.getLogger(__name__)

_RESULT_WORDS: dict[type[SendResult], str] = {Stored: "stored", Postponed: "postponed", Refused: "refused"}


class Worker:
    """Claims deliveries of one destination and sends them, one batch after the other."""

    def __init__(self, name: str, destination: Destination, config: Config, storage: Storage) -> None:
        self.name = name
        self._destination = destination
        self._settings = config.delivery
        self._storage = storage
        self._bell = threading.Event()
        self._stopping = threading.Event()
        self._failures = 0
        self._thread = threading.Thread(target=self._work, name=f"forward-{name}", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def ring(self) -> None:
        """There may be something new in the outbox."""
        self._bell.set()

    def stop(self) -> None:
        """Finish the object that is being sent, and no further one."""
        self._stopping.set()
        self._bell.set()

    @property
    def is_alive(self) -> bool:
        """False once the worker has stopped, or a fault in it has ended it."""
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> None:
        """Wait until the worker has stopped."""
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while not self._stopping.is_set():
            claimed = self._claim()
            if claimed:
                self._send(claimed)
            else:
                self._bell.wait(_LOOK_S)
                self._bell.clear()
        self._storage.journal.close()

    def _claim(self) -> list[Delivery]:
        try:
            with self._storage.journal.write() as connection:
                return deliveries.claim(connection, self.name, limit=_BATCH)
        except TryAgain:
            _log.exception("journal_unavailable", extra={"destination": self.name})
            return []

    def _send(self, claimed: Sequence[Delivery]) -> None:
        untried = {delivery.id: delivery for delivery in claimed}
        started = time.monotonic()

        def settle(parcel: Parcel, result: SendResult) -> bool:
            nonlocal started
            metrics.DELIVERY_SECONDS.labels(destination=self.name).observe(time.monotonic() - started)
            self._settle(parcel.delivery, result)
            del untried[parcel.delivery.id]
            started = time.monotonic()
            return not self._stopping.is_set()

        parcels = [
            Parcel(delivery, self._storage.spool_of(delivery).path(delivery.spool_key))
            for delivery in claimed
        ]
        try:
            self._destination.send(parcels, settle)
            self._failures = 0
        except TryAgain as error:
            self._failures += 1
            _log.warning("destination_unavailable", extra={"destination": self.name, "error": str(error)})
        finally:
            self._write(lambda connection: deliveries.unclaim(connection, list(untried.values())))
        if self._failures:
            self._stopping.wait(self._backoff(self._failures))

    def _settle(self, delivery: Delivery, result: SendResult) -> None:
        delay_s = self._backoff(delivery.attempts)
        self._write(lambda connection: deliveries.settle(connection, delivery, result, delay_s=delay_s))
        kind = "original" if delivery.spool == "originals" else "result"
        word = _RESULT_WORDS[type(result)]
        metrics.DELIVERIES.labels(destination=self.name, kind=kind, result=word).inc()
        if not isinstance(result, Stored):
            _log.warning(
                f"delivery_{word}",
                extra={
                    "destination": self.name,
                    "instance": hashed(delivery.sop_instance_uid),
                    "reason": result.reason,
                    "status": result.status,
                },
            )

    def _write(self, change: Callable[[sqlite3.Connection], None]) -> None:
        """Write until it is written: what was claimed must not stay claimed. A stop ends the attempts,
        since the next start takes back what is still claimed.
        """
        while True:
            try:
                with self._storage.journal.write() as connection:
                    change(connection)
                return
            except TryAgain:
                _log.exception("journal_unavailable", extra={"destination": self.name})
                if self._stopping.wait(_LOOK_S):
                    return

    def _backoff(self, attempts: int) -> float:
        return backoff_s(
            attempts,
            minimum_s=self._settings.retry_minimum_s,
            maximum_s=self._settings.retry_maximum_s,
            random=random.random,
        )


def serve(config: Config, process: Process) -> None:
    """Forward until the process is told to stop.

    Raises:
        TryAgain: the journal or the spool cannot be opened.
        ApplianceError: a worker ended by itself, so that the process has to be started anew.
    """
    storage = Storage(config)
    with storage.journal.write() as connection:
        taken_back = deliveries.release(connection)
    if taken_back:
        _log.warning("taken_back", extra={"deliveries": taken_back})
    workers = [
        Worker(name, DESTINATIONS[settings.kind](config, name), config, storage)
        for name, settings in config.destinations.items()
        for _ in range(config.delivery.associations)
    ]
    for worker in workers:
        worker.start()
    process.ready()
    while not process.stopping.is_set():
        process.wait(_LOOK_S)
        process.alive()
        for worker in workers:
            if not worker.is_alive:
                raise ApplianceError(f"a fault ended the worker of destination {worker.name}; see above")
            worker.ring()
    for worker in workers:
        worker.stop()
    for worker in workers:
        worker.join(_DRAIN_S)
