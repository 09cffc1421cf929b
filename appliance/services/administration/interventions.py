"""`appliance deliveries`: what waits, what was refused, and what a person decides about it."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from rich.table import Table

from appliance.config.schema import Config
from appliance.domain.errors import ApplianceError, TryAgain
from appliance.domain.states import IllegalEvent
from appliance.journal import interventions
from appliance.journal.database import Journal, UnknownAggregate
from appliance.journal.interventions import Entry, Intervention, NotPossible, Selection
from appliance.observe.log import hashed
from appliance.observe.process import ring
from appliance.services.administration.report import Row, table

_TOGETHER = 200  # changes in one transaction: the receiver and the forwarder write too
_NO_LOGIN = 2**32 - 1
_COLUMNS = [
    "id",
    "destination",
    "kind",
    "priority",
    "state",
    "attempts",
    "due_s",
    "status",
    "reason",
    "study",
]


class DeliveryReport(TypedDict):
    """One delivery and all that happened to it."""

    delivery: Row
    history: list[Row]


@dataclass(frozen=True)
class Done:
    """How many deliveries were changed, and a sentence for each that could not be."""

    changed: int
    problems: tuple[str, ...]


def list_deliveries(
    config: Config, selection: Selection, *, study: str | None, identifiers: bool, limit: int
) -> list[Row]:
    """The deliveries that fit, without UIDs unless `identifiers`; `study` is a hash as in the log.

    Raises:
        TryAgain: the journal cannot be read, or does not exist yet.
    """
    with _journal(config) as journal, journal.read() as connection:
        if study is not None:
            selection = replace(selection, studies=_studies(interventions.studies(connection), study))
        entries = interventions.select(connection, selection, limit=limit)
    return [_row(entry, identifiers=identifiers) for entry in entries]


def show_delivery(config: Config, delivery_id: int, *, identifiers: bool) -> DeliveryReport:
    """One delivery with its history.

    Raises:
        UnknownAggregate: there is no such delivery.
        TryAgain: the journal cannot be read, or does not exist yet.
    """
    with _journal(config) as journal, journal.read() as connection:
        entries = interventions.select(connection, Selection(ids=(delivery_id,)), limit=1)
        events = interventions.history(connection, delivery_id)
    if not entries:
        raise UnknownAggregate(f"delivery {delivery_id} is not in the journal")
    return DeliveryReport(
        delivery=_row(entries[0], identifiers=identifiers),
        history=[{name: value or "" for name, value in vars(event).items()} for event in events],
    )


def intervene(config: Config, intervention: Intervention, selection: Selection, reason: str) -> Done:
    """Do one thing to every delivery of the selection, and wake the forwarder.

    Raises:
        TryAgain: the journal cannot be written; what was changed until then stays so.
    """
    detail = f"{operator()}: {reason}"
    changed, problems = 0, []
    with _journal(config) as journal:
        ids: Sequence[int] = selection.ids
        if not ids:
            with journal.read() as connection:
                ids = interventions.select_ids(connection, selection)
        for first in range(0, len(ids), _TOGETHER):
            with journal.write() as connection:
                for delivery_id in ids[first : first + _TOGETHER]:
                    try:
                        interventions.intervene(connection, intervention, delivery_id, detail)
                        changed += 1
                    except (IllegalEvent, NotPossible, UnknownAggregate) as error:
                        problems.append(f"delivery {delivery_id}: {error}")
    ring(config.run_directory, "forward")
    return Done(changed, tuple(problems))


def deliveries_table(rows: Sequence[Row]) -> Table:
    """The deliveries as a table."""
    columns = _COLUMNS + [name for name in ("sop_instance_uid", "study_instance_uid") if name in rows[0]]
    return table("Deliveries", columns, list(rows))


def history_table(report: DeliveryReport) -> Table:
    """What happened to a delivery as a table."""
    return table("History", ["at", "event", "source", "target", "detail"], report["history"])


@contextmanager
def _journal(config: Config) -> Iterator[Journal]:
    if not config.journal_path.exists():
        raise TryAgain("there is no journal yet: the appliance was never started")
    with closing(Journal(config.journal_path)) as journal:
        yield journal


def _studies(known: Sequence[str], study: str) -> tuple[str, ...]:
    found = tuple(uid for uid in known if hashed(uid) == study)
    if not found:
        raise ApplianceError(f"no study has the hash {study}")
    return found


def operator() -> str:
    """The login name of who types: the kernel's audit keeps it through sudo and su."""
    try:
        user = int(Path("/proc/self/loginuid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        user = _NO_LOGIN
    user = os.getuid() if user == _NO_LOGIN else user
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"


def _row(entry: Entry, *, identifiers: bool) -> Row:
    row: Row = {
        "id": entry.id,
        "destination": entry.destination,
        "kind": entry.kind,
        "priority": entry.priority.name.lower(),
        "state": entry.state,
        "attempts": entry.attempts,
        "due_s": round(entry.due_s, 1),
        "status": "" if entry.status is None else f"{entry.status:04X}",
        "reason": entry.reason or "",
        "instance": hashed(entry.sop_instance_uid),
        "study": hashed(entry.study_instance_uid),
        "created_at": entry.created_at,
        "stored_at": entry.stored_at or "",
    }
    if identifiers:
        row |= {"sop_instance_uid": entry.sop_instance_uid, "study_instance_uid": entry.study_instance_uid}
    return row
