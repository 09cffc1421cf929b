"""The life cycles: what every event does in every state, and that the journal keeps to it."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.domain.states import (
    COMMITMENT,
    DELIVERY,
    FILE,
    JOB,
    LIFECYCLES,
    MODEL,
    SERIES,
    TRANSACTION,
    IllegalEvent,
    Lifecycle,
    apply,
)
from appliance.journal import instances
from appliance.journal.database import Journal, UnknownAggregate, move
from tests.journal_samples import image, open_journal
from tests.support.examples import examples

# Written out a second time on purpose: whoever changes a life cycle says so twice.
LEGAL = {
    "series": {
        ("open", "complete"): "complete",
        ("complete", "plan"): "planned",
        ("complete", "skip"): "skipped",
        ("open", "late_instance"): "open",
        ("complete", "late_instance"): "open",
        ("planned", "late_instance"): "open",
        ("skipped", "late_instance"): "open",
    },
    "job": {
        ("queued", "claim"): "running",
        ("running", "succeed"): "done",
        ("running", "rest"): "queued",
        ("running", "retry"): "queued",
        ("running", "lease_lost"): "queued",
        ("running", "give_up"): "failed",
        ("failed", "requeue"): "queued",
        ("done", "retract"): "done",
    },
    "delivery": {
        ("pending", "claim"): "sending",
        ("sending", "ack"): "stored",
        ("sending", "retry"): "pending",
        ("sending", "lease_lost"): "pending",
        ("sending", "reject"): "rejected",
        ("stored", "commit"): "committed",
        ("stored", "lost"): "pending",
        ("committed", "lost"): "pending",
        ("pending", "drop"): "dropped",
        ("rejected", "drop"): "dropped",
        ("rejected", "requeue"): "pending",
        ("dropped", "requeue"): "pending",
    },
    "commitment": {
        ("requested", "aggregate"): "ready",
        ("ready", "report"): "reported",
        ("ready", "retry"): "ready",
        ("ready", "expire"): "failed",
        ("reported", "repeat"): "requested",
        ("failed", "repeat"): "requested",
    },
    "transaction": {
        ("made", "ask"): "asked",
        ("made", "answer"): "answered",
        ("asked", "answer"): "answered",
        ("expired", "answer"): "answered",
        ("made", "expire"): "expired",
        ("asked", "expire"): "expired",
    },
    "file": {
        ("kept", "purge"): "purged",
        ("purged", "remove"): "removed",
    },
    "model": {
        ("in_service", "take_out"): "out_of_service",
        ("out_of_service", "fail"): "out_of_service",
        ("out_of_service", "put_back"): "in_service",
    },
}
EVERY_EVENT = sorted({event for lifecycle in LIFECYCLES.values() for event in lifecycle.events})
EVERYTHING = [
    pytest.param(lifecycle, state, event, id=f"{lifecycle.name}-{state}-{event}")
    for lifecycle in LIFECYCLES.values()
    for state in lifecycle.states
    for event in EVERY_EVENT
]


@pytest.mark.parametrize(("lifecycle", "state", "event"), EVERYTHING)
def test_every_event_in_every_state(lifecycle: Lifecycle, state: str, event: str) -> None:
    target = LEGAL[lifecycle.name].get((state, event))
    if target is None:
        with pytest.raises(IllegalEvent, match=event):
            apply(lifecycle, state, event)
    else:
        assert apply(lifecycle, state, event) == target


@pytest.mark.parametrize("lifecycle", LIFECYCLES.values(), ids=list(LIFECYCLES))
def test_every_state_can_be_reached_and_a_job_that_is_done_stays_so(lifecycle: Lifecycle) -> None:
    reached = {lifecycle.initial}
    for _ in lifecycle.states:
        reached |= {LEGAL[lifecycle.name][step] for step in LEGAL[lifecycle.name] if step[0] in reached}
    assert reached == set(lifecycle.states)
    if lifecycle is JOB:
        assert {step.target for step in lifecycle.events.values() if "done" in step.sources} == {"done"}


@pytest.mark.parametrize(
    ("lifecycle", "table"),
    [
        (SERIES, "series"),
        (JOB, "jobs"),
        (DELIVERY, "deliveries"),
        (COMMITMENT, "commitments"),
        (TRANSACTION, "commitment_transactions"),
        (FILE, "files"),
        (MODEL, "model_health"),
    ],
    ids=list(LIFECYCLES),
)
def test_the_database_allows_exactly_the_states_of_the_life_cycle(lifecycle: Lifecycle, table: str) -> None:
    schema = files("appliance.journal").joinpath("schema.sql").read_text("utf-8")
    found = re.search(rf"CREATE TABLE IF NOT EXISTS {table} \(.*?state IN \((.*?)\)\)", schema, re.DOTALL)
    assert found is not None
    assert set(re.findall(r"'(\w+)'", found[1])) == set(lifecycle.states)


def _history(journal: Journal) -> list[tuple[str, str, str]]:
    with journal.read() as connection:
        rows = connection.execute("SELECT event, source, target FROM history ORDER BY id").fetchall()
    return [(row["event"], row["source"], row["target"]) for row in rows]


def test_an_illegal_event_changes_nothing(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    with journal.write() as connection:
        instances.record(connection, image("1.2.3.1"), ["pacs"])
    with pytest.raises(IllegalEvent), journal.write() as connection:
        move(connection, DELIVERY, 1, "claim")
        move(connection, DELIVERY, 1, "requeue")
    with journal.read() as connection:
        assert connection.execute("SELECT state FROM deliveries").fetchone()[0] == "pending"
    assert _history(journal) == []


def test_an_unknown_aggregate_cannot_be_moved(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    with pytest.raises(UnknownAggregate, match="delivery 7"), journal.write() as connection:
        move(connection, DELIVERY, 7, "claim")


@settings(max_examples=examples(15), deadline=None)
@given(st.lists(st.sampled_from(sorted(DELIVERY.events)), max_size=30))
def test_a_random_walk_leaves_a_history_that_leads_to_the_state(
    tmp_path_factory: pytest.TempPathFactory, events: list[str]
) -> None:
    journal = open_journal(tmp_path_factory.mktemp("walk"))
    with journal.write() as connection:
        instances.record(connection, image("1.2.3.1"), ["pacs"])
    state, taken = "pending", []
    for event in events:
        target = LEGAL["delivery"].get((state, event))
        try:
            with journal.write() as connection:
                assert move(connection, DELIVERY, 1, event) == target
            taken.append((event, state, target))
            state = str(target)
        except IllegalEvent:
            assert target is None
    with journal.read() as connection:
        assert connection.execute("SELECT state FROM deliveries").fetchone()[0] == state
    assert _history(journal) == taken
    journal.close()


@pytest.mark.parametrize("lifecycle", LIFECYCLES.values(), ids=list(LIFECYCLES))
@given(data=st.data())
def test_no_walk_leaves_the_states(lifecycle: Lifecycle, data: st.DataObject) -> None:
    state = lifecycle.initial
    for event in data.draw(st.lists(st.sampled_from(sorted(lifecycle.events)), max_size=40)):
        try:
            state = apply(lifecycle, state, event)
        except IllegalEvent:
            assert (state, event) not in LEGAL[lifecycle.name]
        assert state in lifecycle.states
