"""The life cycles of all that has a state. Everything that affects them lives in this file.

A table maps an event to the states in which it may happen and the state it leads to. An event that
its table does not allow raises `IllegalEvent` and changes nothing. `journal.move()` is the only caller
that writes a state, and it writes the history row in the same transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from appliance.domain.errors import ApplianceError


class IllegalEvent(ApplianceError):
    """An event that its table does not allow in the present state; nothing was changed."""


@dataclass(frozen=True)
class Transition:
    """One row of a table: in any of `sources`, the event leads to `target`."""

    sources: frozenset[str]
    target: str


@dataclass(frozen=True)
class Lifecycle:
    """The states of one aggregate and the events that move it."""

    name: str
    initial: str
    events: Mapping[str, Transition]

    @property
    def states(self) -> tuple[str, ...]:
        """All states, the initial one first, in the order in which the table names them."""
        seen = dict.fromkeys([self.initial])
        for transition in self.events.values():
            seen.update(dict.fromkeys(sorted(transition.sources)))
            seen[transition.target] = None
        return tuple(seen)


def _lifecycle(name: str, initial: str, *rows: tuple[str, str, str]) -> Lifecycle:
    events = {event: Transition(frozenset(sources.split()), target) for sources, event, target in rows}
    return Lifecycle(name, initial, MappingProxyType(events))


SERIES = _lifecycle(
    "series",
    "open",
    ("open", "complete", "complete"),
    ("complete", "plan", "planned"),
    ("complete", "skip", "skipped"),
    # An image that arrives late opens the series again; the writer raises its revision.
    ("open complete planned skipped", "late_instance", "open"),
)

JOB = _lifecycle(
    "job",
    "queued",
    ("queued", "claim", "running"),
    ("running", "succeed", "done"),
    # A step is done; further images of the series are waiting or yet to come.
    ("running", "rest", "queued"),
    ("running", "retry", "queued"),
    ("running", "lease_lost", "queued"),
    ("running", "give_up", "failed"),
    ("failed", "requeue", "queued"),
    # A person takes its answer back; what was computed stays as it was.
    ("done", "retract", "done"),
)

DELIVERY = _lifecycle(
    "delivery",
    "pending",
    ("pending", "claim", "sending"),
    ("sending", "ack", "stored"),
    ("sending", "retry", "pending"),
    ("sending", "lease_lost", "pending"),
    ("sending", "reject", "rejected"),
    ("stored", "commit", "committed"),
    # The destination says that it does not have what it took: it is sent again.
    ("stored committed", "lost", "pending"),
    ("pending rejected", "drop", "dropped"),
    ("rejected dropped", "requeue", "pending"),
)

# Storage commitment that a scanner asks of us.
COMMITMENT = _lifecycle(
    "commitment",
    "requested",
    ("requested", "aggregate", "ready"),
    ("ready", "report", "reported"),
    ("ready", "retry", "ready"),
    ("ready", "expire", "failed"),
    # The scanner asks for what it was told already, or could not be told.
    ("reported failed", "repeat", "requested"),
)

# Storage commitment that we ask of a destination.
TRANSACTION = _lifecycle(
    "transaction",
    "made",
    ("made", "ask", "asked"),
    # A report counts whenever it comes, even before we know that the request arrived.
    ("made asked expired", "answer", "answered"),
    ("made asked", "expire", "expired"),
)

# A file of the spool that the journal refers to.
FILE = _lifecycle(
    "file",
    "kept",
    ("kept", "purge", "purged"),
    ("purged", "remove", "removed"),
)

# A model: out of service it gets no series, until a test of it succeeds.
MODEL = _lifecycle(
    "model",
    "in_service",
    ("in_service", "take_out", "out_of_service"),
    ("out_of_service", "fail", "out_of_service"),
    ("out_of_service", "put_back", "in_service"),
)

LIFECYCLES: Mapping[str, Lifecycle] = MappingProxyType(
    {lifecycle.name: lifecycle for lifecycle in (SERIES, JOB, DELIVERY, COMMITMENT, TRANSACTION, FILE, MODEL)}
)


def apply(lifecycle: Lifecycle, state: str, event: str) -> str:
    """The state that `event` leads to.

    Raises:
        IllegalEvent: the table does not know the event or does not allow it in `state`.
    """
    transition = lifecycle.events.get(event)
    if transition is None or state not in transition.sources:
        raise IllegalEvent(f"{lifecycle.name}: event {event!r} is not allowed in state {state!r}")
    return transition.target
