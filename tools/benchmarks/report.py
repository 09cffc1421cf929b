"""What every benchmark hands out: the machine, its cases, the ratios; as JSON and as tables."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console
from rich.table import Table

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
_WIDTH_OF_FILES = 160

Result = Mapping[str, float | str]
"""One case: its name under `case`, and its figures."""


@dataclass(frozen=True)
class Report:
    """The outcome of one command."""

    command: str
    results: tuple[Result, ...]
    ratios: Mapping[str, float]
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """The report as JSON."""
        content = {
            "command": self.command,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": machine(),
            "results": [dict(result) for result in self.results],
            "ratios": dict(self.ratios),
            "notes": list(self.notes),
        }
        return json.dumps(content, indent=2) + "\n"


def machine() -> dict[str, str | int]:
    """What the figures depend on, without the name of the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory_gib": round(memory / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def show(report: Report) -> None:
    """Print the tables."""
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH_OF_FILES
    for rows in _groups(report.results):
        columns = _columns(rows)
        table = Table(*columns)
        for row in rows:
            table.add_row(*(_text(row[column]) for column in columns))
        console.print(table)
    if report.ratios:
        ratios = Table("ratio", "value")
        for name, value in report.ratios.items():
            ratios.add_row(name, f"{value:.2f}")
        console.print(ratios)
    for note in report.notes:
        console.print(note)


def write_document(kind: str, report: Report) -> None:
    """Put the report into the place that docs/benchmarks.md keeps for this kind of benchmark."""
    begin, end = f"<!-- tools/bench {kind} writes from here -->\n", f"<!-- tools/bench {kind}: to here -->"
    document = DOCUMENT.read_text(encoding="utf-8")
    before, found, rest = document.partition(begin)
    _, also_found, after = rest.partition(end)
    if not (found and also_found):
        raise ValueError(f"{DOCUMENT.name} keeps no place for {kind}")
    DOCUMENT.write_text(f"{before}{begin}{_markdown(report)}\n{end}{after}", encoding="utf-8")


def _markdown(report: Report) -> str:
    facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine().items())
    day = datetime.now(timezone.utc).date().isoformat()
    blocks = [f"`{report.command}` on {day}; {facts}."]
    blocks += [
        _markdown_table(_columns(rows), [[_text(row[column]) for column in _columns(rows)] for row in rows])
        for rows in _groups(report.results)
    ]
    if report.ratios:
        rows = [[f"`{name}`", f"{value:.2f}"] for name, value in report.ratios.items()]
        blocks.append(_markdown_table(["ratio", "value"], rows))
    if report.notes:
        blocks.append("\n".join(f"- {note}" for note in report.notes))
    return "\n\n".join(blocks)


def _markdown_table(columns: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *("--:" for _ in columns[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in [columns, rule, *rows])


def _groups(results: tuple[Result, ...]) -> list[list[Result]]:
    """The results that have the same figures, each group for one table."""
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        groups.setdefault(tuple(result), []).append(result)
    return list(groups.values())


def _columns(rows: list[Result]) -> list[str]:
    return list(rows[0])


def _text(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
