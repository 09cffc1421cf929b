"""Waiting between attempts, and when a series is complete."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.policy import (
    CIRCUIT_FAILURES,
    PROBE_MAXIMUM_S,
    SETTLE_S,
    Arrival,
    Circuit,
    Space,
    backoff_s,
    circuit_answered,
    circuit_failed,
    completeness,
    seconds_to_full,
)

SECONDS = st.floats(0.1, 1e5)
CHANCE = st.floats(0.0, 1.0, exclude_max=True)


@given(st.integers(0, 10_000), SECONDS, SECONDS, CHANCE)
def test_a_wait_is_bounded_whatever_the_number_of_attempts(
    attempts: int, one: float, other: float, chance: float
) -> None:
    minimum_s, maximum_s = sorted((one, other))
    wait_s = backoff_s(attempts, minimum_s=minimum_s, maximum_s=maximum_s, random=lambda: chance)
    assert 0.75 * minimum_s <= wait_s <= maximum_s


@given(st.integers(1, 100), SECONDS, SECONDS)
def test_waits_never_become_shorter(attempts: int, one: float, other: float) -> None:
    minimum_s, maximum_s = sorted((one, other))

    def wait(number: int) -> float:
        return backoff_s(number, minimum_s=minimum_s, maximum_s=maximum_s, random=lambda: 0.0)

    assert wait(attempts) <= wait(attempts + 1) <= 2 * wait(attempts)


def test_waits_double_up_to_the_maximum() -> None:
    waits = [backoff_s(n, minimum_s=5, maximum_s=60, random=lambda: 0.0) for n in range(1, 7)]
    assert waits == [5, 10, 20, 40, 60, 60]


def test_jitter_takes_away_up_to_a_quarter() -> None:
    assert backoff_s(1, minimum_s=8, maximum_s=60, random=lambda: 0.0) == 8
    assert backoff_s(1, minimum_s=8, maximum_s=60, random=lambda: 1.0) == 6


OPEN = Arrival(images=10, expected=None, first_s=100.0, last_s=110.0)


def evidence(arrival: Arrival, now_s: float) -> str | None:
    return completeness(arrival, now_s, quiet_s=10.0, maximum_wait_s=600.0)


@pytest.mark.parametrize(
    ("arrival", "now_s", "expected"),
    [
        (OPEN, 119.9, None),
        (OPEN, 120.0, "quiet"),
        (replace(OPEN, expected=10), 110.0, None),
        (replace(OPEN, expected=10), 110.0 + SETTLE_S, "announced_count"),
        (replace(OPEN, expected=11), 110.0 + SETTLE_S, None),
        (replace(OPEN, expected=9), 110.0 + SETTLE_S, "announced_count"),
        (replace(OPEN, requested=True), 111.9, None),
        (replace(OPEN, requested=True), 110.0 + SETTLE_S, "commitment_request"),
        (replace(OPEN, requested=True, images=1), 110.0 + SETTLE_S, None),
        (replace(OPEN, requested=True, expected=11), 110.0 + SETTLE_S, None),
        (replace(OPEN, last_s=699.0), 699.9, None),
        (replace(OPEN, last_s=699.0), 700.0, "maximum_wait"),
        (replace(OPEN, expected=10, last_s=699.0), 702.0, "announced_count"),
    ],
)
def test_when_a_series_is_complete(arrival: Arrival, now_s: float, expected: str | None) -> None:
    assert evidence(arrival, now_s) == expected


def test_a_short_quiet_time_is_not_prolonged_by_an_announced_count() -> None:
    arrival = replace(OPEN, expected=10)
    assert completeness(arrival, 110.5, quiet_s=0.5, maximum_wait_s=600.0) == "announced_count"


ARRIVALS = st.builds(
    lambda images, expected, first_s, more_s, requested: Arrival(
        images, expected, first_s, first_s + more_s, requested
    ),
    st.integers(1, 500),
    st.none() | st.integers(1, 500),
    st.floats(0, 1e6),
    st.floats(0, 1e4),
    st.booleans(),
)


@given(ARRIVALS, st.floats(0, 1e4), st.floats(0.5, 3600), st.floats(1, 86400))
def test_there_is_an_answer_in_the_end_and_always_evidence_for_it(
    arrival: Arrival, later_s: float, quiet_s: float, maximum_wait_s: float
) -> None:
    now_s = arrival.last_s + later_s
    silence_s, waited_s = now_s - arrival.last_s, now_s - arrival.first_s
    answer = completeness(arrival, now_s, quiet_s=quiet_s, maximum_wait_s=maximum_wait_s)
    reached = arrival.expected is not None and arrival.images >= arrival.expected
    reasons = {
        "announced_count": reached and silence_s >= min(SETTLE_S, quiet_s),
        "commitment_request": arrival.requested and silence_s >= min(SETTLE_S, quiet_s),
        "quiet": silence_s >= quiet_s,
        "maximum_wait": waited_s >= maximum_wait_s,
        None: silence_s < quiet_s and waited_s < maximum_wait_s,
    }
    assert reasons[answer]


@given(ARRIVALS, st.floats(0, 1e4), st.floats(0, 1e4), st.floats(0.5, 3600), st.floats(1, 86400))
def test_what_is_complete_stays_complete_until_an_image_comes(
    arrival: Arrival, later_s: float, still_later_s: float, quiet_s: float, maximum_wait_s: float
) -> None:
    now_s = arrival.last_s + later_s
    if completeness(arrival, now_s, quiet_s=quiet_s, maximum_wait_s=maximum_wait_s) is not None:
        later = completeness(arrival, now_s + still_later_s, quiet_s=quiet_s, maximum_wait_s=maximum_wait_s)
        assert later is not None


def test_the_disk_is_full_when_the_pace_of_the_last_hour_says_so() -> None:
    assert seconds_to_full([Space(0, 1000), Space(5, 960), Space(10, 900)]) == 90
    assert seconds_to_full([Space(0, 1000), Space(10, 1000)]) == math.inf
    assert seconds_to_full([Space(0, 900), Space(10, 1000)]) == math.inf
    assert seconds_to_full([Space(0, 1000)]) == math.inf
    assert seconds_to_full([Space(0, 10), Space(10, -5)]) == 0


@given(st.lists(st.tuples(SECONDS, st.floats(1, 1e15)), min_size=2))
def test_a_forecast_is_never_negative(points: list[tuple[float, float]]) -> None:
    samples = [Space(at_s, usable) for at_s, usable in sorted(points)]
    assert seconds_to_full(samples) >= 0


def failed(circuit: Circuit, now_s: float, *, minimum_s: float = 5.0, maximum_s: float = 600.0) -> Circuit:
    return circuit_failed(circuit, now_s, minimum_s=minimum_s, maximum_s=maximum_s, random=lambda: 0.0)


def test_a_circuit_opens_after_failures_in_a_row_and_tries_after_an_answer() -> None:
    circuit = Circuit()
    for _ in range(CIRCUIT_FAILURES - 1):
        circuit = failed(circuit, 100.0)
        assert circuit.state == "closed"
    circuit = failed(circuit, 100.0)
    assert (circuit.state, circuit.probe_s) == ("open", 105.0)
    circuit = failed(circuit, 105.0)
    assert (circuit.state, circuit.probe_s) == ("open", 115.0)
    circuit = circuit_answered(circuit)
    assert circuit.state == "half_open"
    circuit = failed(circuit, 115.0)
    assert (circuit.state, circuit.probe_s) == ("open", 135.0)


def test_an_answer_to_a_probe_changes_only_an_open_circuit() -> None:
    for circuit in (Circuit(), Circuit(failures=1), Circuit("half_open", 3)):
        assert circuit_answered(circuit) == circuit


@given(st.integers(0, 10_000), SECONDS, SECONDS, CHANCE)
def test_a_destination_that_was_away_for_long_is_found_again_soon(
    failures: int, one: float, other: float, chance: float
) -> None:
    minimum_s, maximum_s = sorted((one, other))
    circuit = circuit_failed(
        Circuit("open", failures),
        100.0,
        minimum_s=minimum_s,
        maximum_s=maximum_s,
        random=lambda: chance,
    )
    assert 0 < circuit.probe_s - 100.0 <= min(maximum_s, PROBE_MAXIMUM_S) + 1e-9
