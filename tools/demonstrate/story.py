"""The demonstration from beginning to end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tools.demonstrate.evidence import Evidence
from tools.demonstrate.inputs import Series, scanner_series, simulated_series
from tools.demonstrate.page import Result, all_problems, write_page
from tools.demonstrate.scanner import NotAccepted, send
from tools.demonstrate.site import ROOT, NotStarted, Site
from tools.demonstrate.verdict import JOBS_FINISHED, general_problems, rows
from tools.demonstrate.watch import GaveUp, Metrics, wait

SEED = 11
REPORT = ROOT / "demo-report" / "report.html"


def demonstrate(
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the table to FILE as JSON, too.")
    ] = None,
    report: Annotated[Path, typer.Option(metavar="FILE", help="Where the HTML report goes.")] = REPORT,
) -> None:
    """Send simulated and real series through the appliance to a PACS, and check what arrives there."""
    console = Console()
    folder = Path(tempfile.mkdtemp(prefix="appliance-demo-"))
    result = _run(folder, console, report)
    console.print(_table(result))
    for skip in result.skips:
        console.print(f"left alone: {escape(skip)}", style="dim")
    for problem in all_problems(result):
        console.print(escape(problem), style="red")
    if json_file is not None:
        json_file.write_text(json.dumps(_as_json(result), indent=2) + "\n")
    console.print(f"Report: {report.resolve()}", soft_wrap=True, highlight=False)
    if result.passed:
        shutil.rmtree(folder)
        console.print("Everything that should have arrived at the PACS did.", style="green")
    else:
        console.print(f"Logs, configuration and received files are kept in {folder}", soft_wrap=True)
        raise typer.Exit(1)


def _run(folder: Path, console: Console, report: Path) -> Result:
    with console.status("Simulating two head-CT series ..."):
        heads = simulated_series(folder / "heads", seed=SEED)
    # The small real series go first: the appliance waits longest for ultrasound to be complete.
    everything = [*scanner_series(), *heads]
    site = Site(folder)
    evidence = Evidence(site.received, everything)
    first_sent: dict[str, float] = {}
    problems: list[str] = []
    metrics: Metrics = {}
    skips: list[str] = []
    try:
        with console.status("Starting the PACS and the appliance ..."):
            site.start()
        metrics = _send_and_wait(site, evidence, everything, first_sent, console)
        skips = _skips(site)
    except (NotStarted, NotAccepted, GaveUp) as error:
        problems.append(str(error))
        evidence.refresh()
    finally:
        with console.status("Stopping the appliance and the PACS ..."):
            problems += site.stop()
    if metrics:
        problems += general_problems(evidence, metrics.get(JOBS_FINISHED, {}))
    table = rows(evidence, first_sent)
    ends = [first_sent[row.series.uid] + row.seconds for row in table if row.seconds is not None]
    seconds = max(ends) - min(first_sent.values()) if ends else 0.0
    # The heads are what people look for first, and of those the bleed.
    table.sort(key=lambda row: (row.series.bleed is None, not row.series.bleed))
    result = Result(table, problems, skips, seconds)
    write_page(report, result, evidence)
    return result


def _send_and_wait(
    site: Site, evidence: Evidence, everything: list[Series], first_sent: dict[str, float], console: Console
) -> Metrics:
    def sent(series: Series, begun: float) -> None:
        first_sent.setdefault(series.uid, begun)

    with ThreadPoolExecutor(1) as scanner:
        sending = scanner.submit(send, everything, site.ports.listener, sent)
        return wait(site, evidence, sending, console)


def _skips(site: Site) -> list[str]:
    """Why models left series alone, out of `appliance status --json`."""
    command = [sys.executable, "-m", "appliance", "status", "--json", "--config", str(site.config)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise GaveUp(f"`appliance status` failed: {answer.stderr.strip()}")
    skips = json.loads(answer.stdout)["skips"]
    return [f"{skip['model']}: {skip['count']} series, {skip['reason']}" for skip in skips]


def _table(result: Result) -> Table:
    table = Table(title="At the PACS", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    # Only the first column gives way on a narrow terminal.
    table.add_column("series")
    for name in ("images\nin", "forwarded", "enhanced"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("triage", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    for row in result.rows:
        style = "red" if row.problems else "bold" if row.triage.startswith("positive") else None
        table.add_row(
            Text(row.series.name, no_wrap=True, overflow="ellipsis"),
            str(len(row.series.images)),
            str(row.forwarded),
            str(row.enhanced) if row.enhanced else "-",
            row.triage.partition(" (")[0],
            "" if row.seconds is None else f"{row.seconds:.1f}",
            style=style,
        )
    return table


def _as_json(result: Result) -> dict[str, object]:
    return {
        "passed": result.passed,
        "seconds": round(result.seconds, 1),
        "series": [row.as_json() for row in result.rows],
        "problems": result.problems,
        "skips": result.skips,
    }
