"""What becomes of a claimed batch while it is sent, object by object."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from functools import partial

from appliance.config.schema import DeliverySettings
from appliance.domain.types import Delivery, Postponed, Refused, SendResult, Stored
from appliance.journal import deliveries, substitutes
from appliance.observe import metrics
from appliance.observe.log import hashed
from appliance.services.forwarding.circuit import CircuitBreaker
from appliance.services.forwarding.ledger import Ledger

_log = logging.getLogger(__name__)

_RESULT_WORDS: dict[type[SendResult], str] = {Stored: "stored", Postponed: "postponed", Refused: "refused"}


class Batch:
    """The deliveries that one worker has claimed together."""

    def __init__(
        self,
        claimed: Sequence[Delivery],
        settings: DeliverySettings,
        ledger: Ledger,
        breaker: CircuitBreaker,
        takes: Collection[str],
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._breaker = breaker
        self._takes = takes
        self._untried = {delivery.id: delivery for delivery in claimed}
        self._claimed = len(claimed)
        self._began = self._moment = time.monotonic()
        self.was_answered = False
        """Whether the destination said something about the latest object."""
        self.stored = 0
        self.newly_busy = 0
        """Objects that the destination was asked to take for the first time, and answered: not now."""

    @property
    def was_tried(self) -> bool:
        """Whether any object was sent, or tried to."""
        return len(self._untried) < self._claimed

    @property
    def seconds(self) -> float:
        """How long it has been on its way."""
        return time.monotonic() - self._began

    def settle(self, delivery: Delivery, result: SendResult) -> None:
        """Note what became of one object."""
        del self._untried[delivery.id]
        delay_s = self._settings.retry_after_s(delivery.attempts)
        change = partial(
            substitutes.settle, delivery=delivery, result=result, delay_s=delay_s, takes=self._takes
        )
        self._ledger.put(change)
        first = delivery.attempts == 1
        self.was_answered = not isinstance(result, Postponed) or result.status is not None
        if isinstance(result, Postponed) and result.status is None:
            self._breaker.hung_up(result.reason, first=first)
        else:
            self._breaker.worked()
        self.stored += isinstance(result, Stored)
        self.newly_busy += isinstance(result, Postponed) and result.status is not None and first
        self._tell(delivery, result)

    def fail_next(self, reason: str) -> None:
        """A fault of our own at the next object: it is set aside like one at which a connection ends."""
        self.settle(next(iter(self._untried.values())), Postponed(reason))

    @property
    def is_done(self) -> bool:
        """Whether every object was tried."""
        return not self._untried

    def put_back(self) -> None:
        """Return when all is written: what became of the objects, and that the others wait again."""
        if self._untried:
            self._ledger.put(partial(deliveries.unclaim, deliveries=list(self._untried.values())))
        self._ledger.flush()

    def _tell(self, delivery: Delivery, result: SendResult) -> None:
        destination = delivery.destination
        now = time.monotonic()
        metrics.DELIVERY_SECONDS.labels(destination=destination).observe(now - self._moment)
        self._moment = now
        kind = "original" if delivery.spool == "originals" else "result"
        word = _RESULT_WORDS[type(result)]
        metrics.DELIVERIES.labels(destination=destination, kind=kind, result=word).inc()
        if isinstance(result, Stored):
            metrics.SENT_BYTES.labels(destination=destination, kind=kind).inc(delivery.size)
            return
        status = metrics.delivery_status(result.status)
        metrics.DELIVERY_FAILURES.labels(destination=destination, status=status).inc()
        _log.warning(
            f"delivery_{word}",
            extra={
                "destination": destination,
                "instance": hashed(delivery.sop_instance_uid),
                "reason": result.reason,
                "status": None if result.status is None else f"0x{result.status:04X}",
            },
        )
