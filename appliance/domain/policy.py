"""Decisions as pure functions of (facts, now). Times are seconds of a clock that only runs forward."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal


def backoff_s(attempts: int, *, minimum_s: float, maximum_s: float, random: Callable[[], float]) -> float:
    """Seconds to wait after `attempts` failures: doubling, bounded, and jittered by up to a quarter.

    The jitter keeps deliveries that failed together from coming back together.
    """
    exponent = min(max(attempts, 1) - 1, 30)
    return float(min(maximum_s, minimum_s * 2**exponent) * (1.0 - 0.25 * random()))


PROBE_MAXIMUM_S = 30.0
"""A destination that was away for long is found again within this time."""
CIRCUIT_FAILURES = 3

CircuitState = Literal["closed", "open", "half_open"]


@dataclass(frozen=True)
class Circuit:
    """Whether a destination is sent to, so that nothing is tried in vain at one that is away.

    `closed`: by every worker. `open`: by none; one asks now and then, not before `probe_s`, whether it is
    there. `half_open`: it answers, and one worker sends. `failures` counts those of the destination as a
    whole, in a row.
    """

    state: CircuitState = "closed"
    failures: int = 0
    probe_s: float = 0.0


def circuit_answered(circuit: Circuit) -> Circuit:
    """The destination answered a probe."""
    return replace(circuit, state="half_open") if circuit.state == "open" else circuit


def circuit_failed(
    circuit: Circuit, now_s: float, *, minimum_s: float, maximum_s: float, random: Callable[[], float]
) -> Circuit:
    """The destination as a whole failed: it cannot be reached, hangs up or does not answer.

    Probes come after `minimum_s` at first and then more rarely, but at least every `PROBE_MAXIMUM_S`.
    """
    failures = circuit.failures + 1
    if circuit.state == "closed" and failures < CIRCUIT_FAILURES:
        return replace(circuit, failures=failures)
    wait_s = backoff_s(
        failures - CIRCUIT_FAILURES + 1,
        minimum_s=min(minimum_s, PROBE_MAXIMUM_S),
        maximum_s=min(maximum_s, PROBE_MAXIMUM_S),
        random=random,
    )
    return Circuit("open", failures, now_s + wait_s)


SETTLE_S = 2.0
"""Silence that confirms an announced count, or a request that names what came."""


@dataclass(frozen=True)
class Arrival:
    """How far a series has come. `expected` is the count its headers announce, if they do.

    `requested` says that the scanner asked, in one request, for the commitment of all that came, and of
    nothing that did not.
    """

    images: int
    expected: int | None
    first_s: float
    last_s: float
    requested: bool = False


def completeness(arrival: Arrival, now_s: float, *, quiet_s: float, maximum_wait_s: float) -> str | None:
    """Why a series counts as complete, or None while it does not.

    Evidence in the order of its worth: the count in the headers, the scanner's request for commitment,
    silence, patience. A series may hold several acquisitions, each with a count of its own, so even a
    reached count waits a moment. Some scanners ask for each image as it leaves, so that a request for a
    single one says nothing, nor does one for less than was announced.
    """
    silence_s = now_s - arrival.last_s
    if silence_s >= min(SETTLE_S, quiet_s):
        if arrival.expected is not None and arrival.images >= arrival.expected:
            return "announced_count"
        if arrival.requested and arrival.expected is None and arrival.images > 1:
            return "commitment_request"
    if silence_s >= quiet_s:
        return "quiet"
    if now_s - arrival.first_s >= maximum_wait_s:
        return "maximum_wait"
    return None


@dataclass(frozen=True)
class Space:
    """Bytes that may still be written, at one moment."""

    at_s: float
    usable: float


def seconds_to_full(samples: Sequence[Space]) -> float:
    """When the disk will be full if it fills as it did over `samples`, the oldest first.

    Infinite while it does not fill; 0 once nothing more may be written.
    """
    if samples and samples[-1].usable <= 0:
        return 0.0
    if len(samples) < 2:
        return math.inf
    first, last = samples[0], samples[-1]
    written = first.usable - last.usable
    elapsed_s = last.at_s - first.at_s
    return last.usable * elapsed_s / written if written > 0 and elapsed_s > 0 else math.inf
