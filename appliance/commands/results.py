"""`appliance results`."""

from __future__ import annotations

from typing import Annotated

import typer

from appliance.commands.options import (
    AsJson,
    ConfigFile,
    Identifiers,
    Reason,
    print_report,
    problems_as_lines,
)
from appliance.config.load import load

app = typer.Typer(help="See the answers of the models, and take one back.", no_args_is_help=True)


@app.command("list")
def list_results(
    config: ConfigFile,
    limit: Annotated[int, typer.Option(min=1, help="The most to list.")] = 100,
    identifiers: Identifiers = False,
    as_json: AsJson = False,
) -> None:
    """List the answers of triage models, the newest first."""
    from appliance.services.administration.retraction import answers_table, list_answers

    with problems_as_lines():
        rows = list_answers(load(config), identifiers=identifiers, limit=limit)
    print_report(rows, lambda found: [answers_table(found)], as_json=as_json)


@app.command("retract")
def retract(
    config: ConfigFile,
    answer: Annotated[
        str, typer.Argument(metavar="JOB", help="Job id, or the SOP Instance UID of a result.")
    ],
    reason: Reason,
) -> None:
    """Take an answer back wherever it was told, and drop what still waits of it."""
    from appliance.services.administration.retraction import retract as take_back

    if not reason.strip():
        raise typer.BadParameter("must not be empty", param_hint="--reason")
    with problems_as_lines():
        done = take_back(load(config), answer, reason.strip())
    for line in done.standing:
        typer.echo(line, err=True)
    typer.echo(f"job {done.job_id} is retracted: {done.corrections} corrections")
