"""What `appliance status` and `appliance models` show: first as plain data, then as tables."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from typing import TypedDict

from rich.table import Table

from appliance.config.schema import Config
from appliance.journal import summary
from appliance.journal.database import Journal
from appliance.services.packages import load_packages

Row = dict[str, str | int | float | list[int]]


class StatusReport(TypedDict):
    """Counts out of the journal; every row holds its labels and a `count`."""

    series: list[Row]
    skips: list[Row]
    jobs: list[Row]
    outcomes: list[Row]
    deliveries: list[Row]
    oldest_waiting_s: dict[str, float]


def status_report(config: Config) -> StatusReport:
    """Series, skips, jobs, outcomes and deliveries, counted. Empty before the first start.

    Raises:
        TryAgain: the journal cannot be read.
    """
    if not config.journal_path.exists():
        return StatusReport(series=[], skips=[], jobs=[], outcomes=[], deliveries=[], oldest_waiting_s={})
    with closing(Journal(config.journal_path)) as journal, journal.read() as connection:
        return StatusReport(
            series=_rows(["state"], summary.series_by_state(connection)),
            skips=_rows(["model", "reason"], summary.skips_by_reason(connection)),
            jobs=_rows(["model", "state"], summary.jobs_by_state(connection)),
            outcomes=_rows(["model", "outcome", "reason"], summary.outcomes(connection)),
            deliveries=_rows(["destination", "kind", "state"], summary.deliveries_by_state(connection)),
            oldest_waiting_s={
                name: round(age_s, 1) for name, age_s in summary.oldest_waiting_s(connection).items()
            },
        )


def status_tables(report: StatusReport) -> list[Table]:
    """The report as one table for each kind of thing."""
    waiting: list[Row] = [
        {"destination": name, "seconds": age_s} for name, age_s in report["oldest_waiting_s"].items()
    ]
    return [
        _table("Series", ["state", "count"], report["series"]),
        _table("Skipped by models", ["model", "reason", "count"], report["skips"]),
        _table("Jobs", ["model", "state", "count"], report["jobs"]),
        _table("Outcomes", ["model", "outcome", "reason", "count"], report["outcomes"]),
        _table("Deliveries", ["destination", "kind", "state", "count"], report["deliveries"]),
        _table("Oldest waiting", ["destination", "seconds"], waiting),
    ]


def models_report(config: Config) -> list[Row]:
    """Every package in `engines.path`: id, version, task, checksum, runtime, and which pipelines use it.

    Raises:
        Misconfigured: a package is missing or damaged.
    """
    from appliance.runtime.onnx import NAME

    return [
        {
            "id": package.manifest.id,
            "version": package.manifest.version,
            "task": package.manifest.task.kind,
            "sha256": package.manifest.weights.sha256,
            "runtime": NAME,
            "pipelines": list(package.pipelines),
        }
        for package in load_packages(config, unused=True)
    ]


def models_table(report: list[Row]) -> Table:
    """The report with short checksums."""
    short = [{**row, "sha256": str(row["sha256"])[:12]} for row in report]
    return _table("Models", ["id", "version", "task", "sha256", "runtime", "pipelines"], short)


def _rows(labels: list[str], counts: Iterable[summary.Count]) -> list[Row]:
    return [{**dict(zip(labels, count.labels, strict=True)), "count": count.count} for count in counts]


def _table(title: str, columns: list[str], rows: list[Row]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column in {"count", "seconds"} else "left")
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in columns))
    return table


def _cell(value: str | int | float | list[int]) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "not used"
    return str(value)
