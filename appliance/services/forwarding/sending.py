"""A worker: a thread that claims what is in the outbox for one destination and sends it."""

from __future__ import annotations

import logging
import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial

from appliance.config.schema import Config
from appliance.destinations.base import Destination, Parcel
from appliance.domain.errors import TryAgain
from appliance.domain.policy import PROBE_MAXIMUM_S, backoff_s
from appliance.domain.types import Delivery, SendResult
from appliance.journal import deliveries
from appliance.observe import metrics
from appliance.services.forwarding.batch import Batch
from appliance.services.forwarding.circuit import CircuitBreaker, Permit
from appliance.services.forwarding.ledger import Ledger
from appliance.services.looker import LOOK_S, RungThread
from appliance.services.storage import Storage

LINGER_S = 2.0
"""How long a connection is kept for the next batch."""
# A batch is short, so that what is urgent waits for no more than that much of what is not.
_BATCH_S = 0.5
_BATCH_BYTES = 32 * 2**20
_BATCH_FIRST, _BATCH_MOST = 8, 64
_BUSY_OBJECTS = 3  # so many new objects postponed, and none stored, is the destination's trouble

_log = logging.getLogger(__name__)


class Worker(RungThread):
    """Sends to one destination, one batch after the other, as far as its circuit permits."""

    def __init__(
        self,
        name: str,
        destination: Destination,
        config: Config,
        storage: Storage,
        ledger: Ledger,
        breaker: CircuitBreaker,
    ) -> None:
        super().__init__(f"forward-{name}", storage.journal)
        self._destination_name = name
        self._destination = destination
        self._settings = config.delivery
        self._takes = config.destinations[name].takes
        self._storage = storage
        self._ledger = ledger
        self._breaker = breaker
        self._limit = _BATCH_FIRST
        self._failures = 0  # in a row, of this worker to reach the destination
        self._busy_batches = 0  # in a row, of which the destination took nothing
        self._suspect_next = False
        self._wary = False  # the connection ended at an object of a study that may be the only one
        self._rest_at: float | None = None  # while a connection may be open

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._bell.clear()
            match self._breaker.ask():
                case Permit.SEND:
                    if not self._send_next():
                        self._wait(self._seconds_to_work())
                case Permit.TRY:
                    self._try()
                    self._breaker.done()
                case Permit.PROBE:
                    self._probe()
                    self._breaker.done()
                case Permit.WAIT:
                    # One that is half open has no time to wait for: the bell tells its next state.
                    self._wait(min(LOOK_S, self._breaker.seconds_to_probe or LOOK_S))
        self._rest()

    def _wait(self, seconds: float) -> None:
        """Until the bell rings; a connection that nothing was sent over for a while is let go of."""
        if self._rest_at is not None:
            left_s = self._rest_at - time.monotonic()
            if left_s <= 0:
                self._rest()
            else:
                seconds = min(seconds, left_s)
        self._bell.wait(seconds)

    def _seconds_to_work(self) -> float:
        """Until the next postponed delivery is due, or until it is time to look again."""
        try:
            with self._storage.journal.read() as connection:
                due_s = deliveries.next_due_s(connection, self._destination_name)
        except TryAgain:
            return LOOK_S
        return LOOK_S if due_s is None else min(due_s, LOOK_S)

    def _rest(self) -> None:
        if self._rest_at is not None:
            self._rest_at = None
            self._destination.rest()

    def _probe(self) -> None:
        self._rest()
        try:
            self._destination.probe()
        except TryAgain as error:
            metrics.UNREACHABLE.labels(destination=self._destination_name).inc()
            self._breaker.failed(str(error))
        else:
            self._breaker.answered()

    def _try(self) -> None:
        """Find out by one batch whether the destination works again, of what waits for later if need be."""
        self._wary = True
        self._suspect_next = False
        if self._send_next():
            return
        self._ledger.put(lambda connection: deliveries.wake(connection, self._destination_name))
        self._ledger.flush()
        if not self._send_next():
            self._breaker.worked()  # it answers, and there is nothing that could tell more

    def _send_next(self) -> bool:
        """Claim and send one batch; False if there is none."""
        claimed = self._claim()
        if claimed:
            self._send(claimed)
        return bool(claimed)

    def _claim(self) -> list[Delivery]:
        journal = self._storage.journal
        limit = _BATCH_FIRST if self._busy_batches else self._limit
        try:
            with journal.read() as connection:
                if not deliveries.is_claimable(connection, self._destination_name):
                    return []
                suspect_first = self._suspect_next and not deliveries.is_urgent(
                    connection, self._destination_name
                )
            claims: list[Callable[[sqlite3.Connection, str], list[Delivery]]] = [
                partial(deliveries.claim, limit=limit, maximum_bytes=_BATCH_BYTES, wary=self._wary),
                deliveries.claim_suspect,
            ]
            if suspect_first:
                claims.reverse()
            with journal.write() as connection:
                claimed = claims[0](connection, self._destination_name) or claims[1](
                    connection, self._destination_name
                )
        except TryAgain:
            _log.exception("journal_unavailable", extra={"destination": self._destination_name})
            self._stopping.wait(LOOK_S)
            return []
        # In turns, so that neither what the destination hangs up at nor the rest holds the other up.
        self._suspect_next = not suspect_first
        return claimed

    def _send(self, claimed: Sequence[Delivery]) -> None:
        batch = Batch(claimed, self._settings, self._ledger, self._breaker, self._takes)

        def settle(parcel: Parcel, result: SendResult) -> bool:
            batch.settle(parcel.delivery, result)
            return not self._stopping.is_set()

        parcels = [
            Parcel(delivery, self._storage.spool_of(delivery).path(delivery.spool_key))
            for delivery in claimed
        ]
        unreachable = False
        try:
            self._destination.send(parcels, settle)
        except TryAgain as error:
            _log.warning(
                "destination_unavailable", extra={"destination": self._destination_name, "error": str(error)}
            )
            metrics.UNREACHABLE.labels(destination=self._destination_name).inc()
            unreachable = not batch.was_tried
            if unreachable:
                self._breaker.failed(str(error))
        except Exception as error:
            # The boundary of an object: a fault of ours at one must not keep the others from being sent.
            _log.exception("sending_failed", extra={"destination": self._destination_name})
            if batch.is_done:
                raise
            batch.fail_next(f"sending failed: {type(error).__name__}")
            self._destination.rest()
        finally:
            self._rest_at = time.monotonic() + LINGER_S
            batch.put_back()
        self._wary = batch.was_tried and not batch.was_answered
        self._failures = self._failures + 1 if unreachable else 0
        if unreachable:
            self._stopping.wait(self._backoff(self._failures))
        else:
            self._adapt(batch, len(claimed))

    def _adapt(self, batch: Batch, claimed: int) -> None:
        """Claim more or less next time, and give a destination that takes nothing some time."""
        if batch.seconds > _BATCH_S:
            self._limit = max(1, self._limit // 2)
        elif claimed == self._limit and batch.seconds < _BATCH_S / 2:
            self._limit = min(_BATCH_MOST, self._limit * 2)
        if batch.stored and self._busy_batches:
            self._busy_batches = 0
            self._ledger.put(lambda connection: deliveries.wake(connection, self._destination_name))
        elif not batch.stored and batch.newly_busy >= _BUSY_OBJECTS:
            self._busy_batches += 1
            self._stopping.wait(self._backoff(self._busy_batches))

    def _backoff(self, times: int) -> float:
        return backoff_s(
            times,
            minimum_s=self._settings.retry_minimum_s,
            maximum_s=min(self._settings.retry_maximum_s, PROBE_MAXIMUM_S),
            random=random.random,
        )
