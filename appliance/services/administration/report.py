"""What `appliance status` and `appliance models` show: first as plain data, then as tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from typing import TypedDict

from rich.console import JustifyMethod
from rich.table import Table

from appliance.config.schema import Config
from appliance.domain.states import DELIVERY, JOB, SERIES, Lifecycle
from appliance.journal import health, summary
from appliance.journal.database import Journal
from appliance.journal.health import Health
from appliance.services.packages import load_packages

Row = dict[str, str | int | float | list[str]]
_NUMBERS = {"count", "failures", "seconds", "id", "attempts", "due_s", "oldest_s", "bytes"}


class StatusReport(TypedDict):
    """Counts out of the journal: by state first, then in rows that hold their labels and a `count`."""

    series: dict[str, int]
    jobs: dict[str, int]
    deliveries: dict[str, int]
    skips: list[Row]
    outcomes: list[Row]
    outbox: list[Row]
    oldest_waiting_s: dict[str, float]
    destinations: list[Row]
    commitment: list[Row]
    models: list[Row]
    uncommitted: list[Row]
    spool: list[Row]


def status_report(config: Config) -> StatusReport:
    """Series, skips, jobs, outcomes and deliveries, counted. All zero before the first start.

    Raises:
        TryAgain: the journal cannot be read.
    """
    if not config.journal_path.exists():
        return StatusReport(
            series=_by_state(SERIES, []),
            jobs=_by_state(JOB, []),
            deliveries=_by_state(DELIVERY, []),
            skips=[],
            outcomes=[],
            outbox=[],
            oldest_waiting_s={},
            destinations=[],
            commitment=[],
            models=[],
            uncommitted=[],
            spool=[],
        )
    with closing(Journal(config.journal_path)) as journal, journal.read() as connection:
        deliveries = summary.deliveries_by_state(connection)
        waiting = summary.oldest_waiting_s(connection)
        return StatusReport(
            series=_by_state(SERIES, summary.series_by_state(connection)),
            jobs=_by_state(JOB, summary.jobs_by_state(connection)),
            deliveries=_by_state(DELIVERY, deliveries),
            skips=_rows(["model", "reason"], summary.skips_by_reason(connection)),
            outcomes=_rows(["model", "outcome", "reason"], summary.outcomes(connection)),
            outbox=_rows(["destination", "kind", "state"], deliveries),
            oldest_waiting_s={name: round(age_s, 1) for name, age_s in waiting.items()},
            destinations=[
                {
                    "destination": one.destination,
                    "circuit": one.state,
                    "since": one.since_at,
                    "reason": one.reason or "",
                }
                for one in summary.circuits(connection)
            ],
            commitment=_commitment(connection),
            models=[
                {
                    "model": one.model,
                    "service": _service(None, one),
                    "failures": one.failures,
                }
                for one in health.all_models(connection)
            ],
            uncommitted=_rows(["destination", "state"], summary.uncommitted(connection)),
            spool=[
                {"spool": spool, "kept_for": kept_for, "count": count, "bytes": size}
                for (spool, kept_for), (count, size) in summary.spool_files(connection).items()
            ],
        )


def _commitment(connection: sqlite3.Connection) -> list[Row]:
    """By role (scp: asked of us by scanners; scu: asked by us of destinations) and state."""
    oldest = summary.oldest_commitment_s(connection)
    return [
        {
            "role": count.labels[0],
            "state": count.labels[1],
            "count": count.count,
            "oldest_s": round(oldest.get(count.labels, 0.0), 1),
        }
        for count in summary.commitments_by_state(connection)
    ]


def status_tables(report: StatusReport) -> list[Table]:
    """The report as tables, without those that would be empty."""
    states = Table(title="States", title_justify="left", show_header=False)
    for name, counts in (
        ("series", report["series"]),
        ("jobs", report["jobs"]),
        ("deliveries", report["deliveries"]),
    ):
        states.add_row(name, ", ".join(f"{count} {state}" for state, count in counts.items()))
    waiting: list[Row] = [
        {"destination": name, "seconds": age_s} for name, age_s in report["oldest_waiting_s"].items()
    ]
    details = [
        ("Skipped by models", ["model", "reason", "count"], report["skips"]),
        ("Outcomes", ["model", "outcome", "reason", "count"], report["outcomes"]),
        ("Outbox", ["destination", "kind", "state", "count"], report["outbox"]),
        ("Oldest waiting", ["destination", "seconds"], waiting),
        ("Destinations", ["destination", "circuit", "since", "reason"], report["destinations"]),
        ("Storage commitment", ["role", "state", "count", "oldest_s"], report["commitment"]),
        ("Models", ["model", "service", "failures"], report["models"]),
        ("Not committed yet", ["destination", "state", "count"], report["uncommitted"]),
        ("Spool", ["spool", "kept_for", "count", "bytes"], report["spool"]),
    ]
    return [states, *(table(title, columns, rows) for title, columns, rows in details if rows)]


def _by_state(lifecycle: Lifecycle, counts: Iterable[summary.Count]) -> dict[str, int]:
    totals = dict.fromkeys(lifecycle.states, 0)
    for count in counts:
        totals[count.labels[-1]] += count.count
    return totals


def models_report(config: Config) -> list[Row]:
    """The package of every pipeline: id, version, task, checksum, runtime, and where its results go.

    `reasons` says of each runtime that would come first why it is not used, `service` whether the model is
    given series, and if not, since when and why.

    Raises:
        Misconfigured: a package is missing or its manifest is wrong.
        TryAgain: the journal cannot be read.
    """
    from appliance.runtime.onnx import preferred_name
    from appliance.services.inference.engines import chosen, survey
    from appliance.services.inference.remote import server_for

    machine = survey()
    known = _health(config)
    rows: list[Row] = []
    for package in load_packages(config):
        choice = chosen(config, package, machine)
        key = None if choice.engine is None else choice.engine.key
        here = preferred_name() if key is None else f"{key.flavour} {key.version}"
        server = server_for(config, package)
        rows.append(
            {
                "id": package.manifest.id,
                "version": package.manifest.version,
                "task": package.manifest.task.kind,
                "sha256": package.manifest.weights.sha256,
                "runtime": here if server is None else f"triton at {server.host}:{server.port}, or {here}",
                "reasons": list(choice.reasons),
                "service": _service(package.damage, known.get(package.manifest.id)),
                "destinations": package.pipeline.destinations,
            }
        )
    return rows


def models_table(report: list[Row]) -> Table:
    """The report with short checksums."""
    short = [{**row, "sha256": str(row["sha256"])[:12]} for row in report]
    columns = ["id", "version", "task", "sha256", "runtime", "reasons", "service", "destinations"]
    return table("Models", columns, short)


def _health(config: Config) -> dict[str, Health]:
    if not config.journal_path.exists():
        return {}
    with closing(Journal(config.journal_path)) as journal, journal.read() as connection:
        return {one.model: one for one in health.all_models(connection)}


def _service(damage: str | None, known: Health | None) -> str:
    if known is None or known.in_service:
        return "in service" if damage is None else f"cannot be run: {damage}"
    retest = "" if known.retest is None else f"; the last test of it: {known.retest}"
    return f"out of service since {known.since_at}: {known.why}{retest}"


def _rows(labels: list[str], counts: Iterable[summary.Count]) -> list[Row]:
    return [{**dict(zip(labels, count.labels, strict=True)), "count": count.count} for count in counts]


def table(title: str, columns: list[str], rows: list[Row]) -> Table:
    """Rows of a report as a table with these of their columns."""
    made = Table(title=title, title_justify="left")
    for column in columns:
        justify: JustifyMethod = "right" if column in _NUMBERS else "left"
        made.add_column(column, justify=justify, overflow="fold")
    for row in rows:
        made.add_row(*(_cell(row[column]) for column in columns))
    return made


def _cell(value: str | int | float | list[str]) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
