"""What the commands have in common: their options, and how they tell of problems and print tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from appliance.domain.errors import ApplianceError, Misconfigured

if TYPE_CHECKING:
    from rich.table import Table

WIDTH_OF_FILES = 160

Report = TypeVar("Report")

ConfigFile = Annotated[
    Path, typer.Option("--config", metavar="FILE", help="The configuration file.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Identifiers = Annotated[bool, typer.Option("--identifiers", help="Show UIDs too, which point to a patient.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept with your login name.", show_default=False)]


@contextmanager
def problems_as_lines(*, on_stderr: bool = True) -> Iterator[None]:
    """What the administrator can mend is told in lines, not in a traceback.

    On standard error, unless the lines are the very answer that was asked for.
    """
    try:
        yield
    except Misconfigured as error:
        for problem in error.problems:
            typer.echo(" ".join(problem.split()), err=on_stderr)
        raise typer.Exit(2) from error
    except ApplianceError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error


def print_report(report: Report, tables: Callable[[Report], list[Table]], *, as_json: bool) -> None:
    """Print a report on standard output, as JSON or as tables; an empty one makes no table."""
    from rich.console import Console

    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    # In a terminal a table fits its width; in a file or a pipe nothing is cut off.
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_FILES
    for table in tables(report) if report else ():
        console.print(table)
