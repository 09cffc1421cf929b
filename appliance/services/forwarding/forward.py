"""Sends what is in the outbox: threads for each destination, so that a slow PACS holds up nobody else."""

from __future__ import annotations

import logging
import random
import time
from functools import partial

from appliance.config.schema import Config
from appliance.destinations import DESTINATIONS
from appliance.domain.errors import ApplianceError
from appliance.domain.policy import CircuitState, backoff_s
from appliance.journal import deliveries, summary, transactions
from appliance.observe import metrics
from appliance.observe.process import Process
from appliance.services.commitment_desk import CommitmentDesk
from appliance.services.forwarding.circuit import CircuitBreaker
from appliance.services.forwarding.commitment_report import Reporter
from appliance.services.forwarding.commitment_request import Asker
from appliance.services.forwarding.ledger import Ledger
from appliance.services.forwarding.sending import Worker
from appliance.services.looker import LOOK_S, Looker, RungThread
from appliance.services.storage import Storage

_DRAIN_S = 30.0
_LOOKER_DRAIN_S = 2.0

_log = logging.getLogger(__name__)


class Line:
    """All that sends to one destination: its circuit and its workers."""

    def __init__(self, name: str, config: Config, storage: Storage, ledger: Ledger) -> None:
        self.name = name
        self._ledger = ledger
        metrics.start_destination_at_zero(name)
        settings = config.destinations[name]
        breaker = CircuitBreaker(config.delivery, self._circuit_changed)
        self.workers = [
            Worker(name, DESTINATIONS[settings.kind](config, name), config, storage, ledger, breaker)
            for _ in range(settings.associations or config.delivery.associations)
        ]

    def _circuit_changed(self, state: CircuitState, reason: str | None) -> None:
        level = logging.WARNING if state == "open" else logging.INFO
        _log.log(level, "circuit", extra={"destination": self.name, "state": state, "reason": reason})
        self._ledger.put(partial(deliveries.note_circuit, destination=self.name, state=state, reason=reason))
        if state == "closed":
            # What failed while the destination was away need not wait for its own next attempt.
            self._ledger.put(partial(deliveries.wake, destination=self.name))
        for worker in self.workers:
            worker.ring()


def serve(config: Config, process: Process) -> None:
    """Forward until the process is told to stop.

    Raises:
        TryAgain: the journal or the spool cannot be opened.
        ApplianceError: a worker ended by itself, so that the process has to be started anew.
    """
    storage = Storage(config)
    take_back(config, storage)
    ledger = Ledger(storage.journal)
    ledger.start()
    workers = [
        worker for name in config.destinations for worker in Line(name, config, storage, ledger).workers
    ]
    lookers = commitment_lookers(config, storage)
    threads: list[RungThread] = [*workers, *lookers]
    for thread in threads:
        thread.start()
    process.ready()
    while not process.stopping.is_set():
        process.wait(LOOK_S)
        process.alive()
        if not ledger.is_alive:
            raise ApplianceError("a fault ended the ledger; see above")
        for thread in threads:
            if not thread.is_alive:
                raise ApplianceError(f"a fault ended {thread.name}; see above")
            thread.ring()
    for thread in threads:
        thread.stop()
    deadline = time.monotonic() + _DRAIN_S
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    ledger.close(_DRAIN_S)
    # A request or report that is cut off is made once more.
    for looker in lookers:
        looker.join(_LOOKER_DRAIN_S)


def commitment_lookers(config: Config, storage: Storage) -> list[Looker]:
    """The threads that ask destinations to commit, and the one that tells scanners."""
    journal = storage.journal
    names = [name for name, duty in config.duties.items() if duty.commits]
    with journal.write() as connection:
        transactions.resume(connection, names)
    desk = CommitmentDesk(config)
    askers = [
        Looker(f"commitment-{name}", Asker(name, config, journal, desk).look, journal) for name in names
    ]
    return [*askers, Looker("commitment-reports", Reporter(config, journal).look, journal)]


def take_back(config: Config, storage: Storage) -> None:
    """Begin anew: nothing is being sent, and every destination may be tried."""
    delay_s = partial(
        backoff_s,
        minimum_s=config.delivery.retry_minimum_s,
        maximum_s=config.delivery.retry_maximum_s,
        random=random.random,
    )
    with storage.journal.write() as connection:
        taken_back = deliveries.release(connection, delay_s)
        deliveries.reset_circuits(connection, config.destinations)
        waiting = summary.deliveries_by_state(connection)
    if taken_back:
        _log.warning("taken_back", extra={"deliveries": taken_back})
    for (destination, kind, state), count in ((one.labels, one.count) for one in waiting):
        if state == "pending" and destination not in config.destinations:
            extra = {"destination": destination, "kind": kind, "deliveries": count}
            _log.warning("destination_not_configured", extra=extra)
