"""Progress while the appliance works, and the moment when it has nothing left to do."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tools.demonstrate.evidence import Evidence
from tools.demonstrate.site import Site

PATIENCE_S = 600.0
WAITING_STATES = {
    "appliance_series": {"open", "complete"},
    "appliance_jobs": {"queued", "running"},
    "appliance_outbox_deliveries": {"pending", "sending"},
}
"""States of the journal that mean that something is still to be done; `state` is the last label."""

Metrics = Mapping[str, Mapping[tuple[str, ...], float]]


class GaveUp(Exception):
    """The appliance did not finish, or a process ended; the message says which."""


class Bars:
    """The progress bars, fed by the appliance's metrics and by the files of the PACS."""

    def __init__(self, console: Console, evidence: Evidence) -> None:
        everything = [arrived.series for arrived in evidence.arrived.values()]
        images = sum(len(series.images) for series in everything)
        heads = [series for series in everything if series.bleed is not None]
        self._evidence = evidence
        self._series = len(everything)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._bars = {
            name: self.progress.add_task(description, total=total)
            for name, description, total in (
                ("received", "images received by the appliance", images),
                ("forwarded", "originals forwarded to the PACS", images),
                ("decided", "series looked at by the models", self._series),
                ("enhanced", "enhanced images at the PACS", sum(len(head.images) for head in heads)),
                ("triaged", "triage reports at the PACS", len(heads)),
            )
        }

    def show(self, metrics: Metrics) -> None:
        """Move the bars to where things stand."""
        stored = metrics.get("appliance_instances_received_total", {}).get(("stored",), 0)
        states = metrics.get("appliance_series", {})
        self._move("received", stored)
        self._move("forwarded", self._evidence.originals)
        self._move("decided", states.get(("planned",), 0) + states.get(("skipped",), 0))
        self._move("enhanced", self._evidence.derived)
        self._move("triaged", self._evidence.reports)

    def _move(self, name: str, completed: float) -> None:
        bar: TaskID = self._bars[name]
        total = self.progress.tasks[bar].total or 0
        # Real series may be taken by a model as well: then there is more to come than was foreseen.
        self.progress.update(bar, completed=int(completed), total=max(int(total), int(completed)))


def is_settled(metrics: Metrics, series: int) -> bool:
    """Whether all `series` are known to the appliance and nothing waits in its journal."""
    if sum(metrics.get("appliance_series", {}).values()) < series:
        return False
    return not any(
        count
        for name, waiting in WAITING_STATES.items()
        for labels, count in metrics.get(name, {}).items()
        if labels[-1] in waiting
    )


def wait(site: Site, evidence: Evidence, sending: Future[Any], console: Console) -> Metrics:
    """Show progress until everything is sent and the appliance has nothing left to do.

    Returns the last metrics.

    Raises:
        GaveUp: a process ended, or ten minutes went by.
        NotAccepted: what `sending` raises.
    """
    end = time.monotonic() + PATIENCE_S
    bars = Bars(console, evidence)
    with bars.progress:
        while True:
            metrics = _read(site)
            evidence.refresh()
            bars.show(metrics)
            if sending.done():
                sending.result()
                if is_settled(metrics, len(evidence.arrived)):
                    evidence.refresh()
                    bars.show(metrics)
                    return metrics
            if site.died():
                raise GaveUp(f"ended unasked: {', '.join(site.died())}")
            if time.monotonic() > end:
                raise GaveUp(f"not finished after {PATIENCE_S:.0f} s")
            time.sleep(0.3)


def _read(site: Site) -> Metrics:
    """The metrics; none at all while nobody answers, as between the death and the restart of the monitor."""
    try:
        return site.metrics()
    except OSError:
        return {}
