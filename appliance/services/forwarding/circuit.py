"""Who may send to a destination now: all its workers, one of them, or nobody while it is away."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from enum import Enum

from appliance.config.schema import DeliverySettings
from appliance.domain.policy import Circuit, CircuitState, circuit_answered, circuit_failed


class Permit(Enum):
    """What a worker may do."""

    SEND = "send"
    TRY = "try"
    """Send, as the only worker that does."""
    PROBE = "probe"
    WAIT = "wait"


class CircuitBreaker:
    """The circuit of one destination, shared by its workers.

    `changed` is called with the new state and the reason for it whenever the state changes.
    """

    def __init__(
        self, settings: DeliverySettings, changed: Callable[[CircuitState, str | None], None]
    ) -> None:
        self._settings = settings
        self._changed = changed
        self._circuit = Circuit()
        self._alone = False  # whether a worker has a permit to probe or to try
        self._lock = threading.Lock()

    def ask(self) -> Permit:
        """What the worker may do now. After `TRY` and `PROBE` it calls `done`."""
        with self._lock:
            if self._circuit.state == "closed":
                return Permit.SEND
            if self._alone or (self._circuit.state == "open" and time.monotonic() < self._circuit.probe_s):
                return Permit.WAIT
            self._alone = True
            return Permit.TRY if self._circuit.state == "half_open" else Permit.PROBE

    def done(self) -> None:
        """The only worker has done what it was permitted to."""
        with self._lock:
            self._alone = False

    @property
    def seconds_to_probe(self) -> float:
        """Seconds until the destination may be asked again."""
        with self._lock:
            return max(0.0, self._circuit.probe_s - time.monotonic())

    def worked(self) -> None:
        """The destination gave an answer about an object, or nothing is left to find out."""
        self._become(lambda _circuit: Circuit(), None)

    def answered(self) -> None:
        """The destination answered a probe."""
        self._become(circuit_answered, None)

    def hung_up(self, reason: str, *, first: bool) -> None:
        """The destination ended the connection at an object, or did not answer.

        An object that failed before speaks only of itself when it fails again, unless it is the trial.
        """
        with self._lock:
            counts = first or self._circuit.state == "half_open"
        if counts:
            self.failed(reason)

    def failed(self, reason: str) -> None:
        """The destination as a whole failed."""
        self._become(
            lambda circuit: circuit_failed(
                circuit,
                time.monotonic(),
                minimum_s=self._settings.retry_minimum_s,
                maximum_s=self._settings.retry_maximum_s,
                random=random.random,
            ),
            reason,
        )

    def _become(self, change: Callable[[Circuit], Circuit], reason: str | None) -> None:
        with self._lock:
            before, self._circuit = self._circuit, change(self._circuit)
            if before.state != self._circuit.state:
                self._changed(self._circuit.state, reason)
