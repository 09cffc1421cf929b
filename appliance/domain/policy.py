"""Decisions as pure functions of (facts, now). Times are seconds of a clock that only runs forward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def backoff_s(attempts: int, *, minimum_s: float, maximum_s: float, random: Callable[[], float]) -> float:
    """Seconds to wait after `attempts` failures: doubling, bounded, and jittered by up to a quarter.

    The jitter keeps deliveries that failed together from coming back together.
    """
    exponent = min(max(attempts, 1) - 1, 30)
    return float(min(maximum_s, minimum_s * 2**exponent) * (1.0 - 0.25 * random()))


@dataclass(frozen=True)
class Arrival:
    """How far a series has come. `expected` is the count its headers announce, if they do."""

    images: int
    expected: int | None
    first_s: float
    last_s: float


def completeness(arrival: Arrival, now_s: float, *, quiet_s: float, maximum_wait_s: float) -> str | None:
    """Why a series counts as complete, or None while it does not.

    Evidence in the order of its worth: the count in the headers, silence, patience.
    """
    if arrival.expected is not None and arrival.images >= arrival.expected:
        return "announced_count"
    if now_s - arrival.last_s >= quiet_s:
        return "quiet"
    if now_s - arrival.first_s >= maximum_wait_s:
        return "maximum_wait"
    return None
