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
from appliance.domain.rejection import Rejection

app = typer.Typer(help="See the answers of the models, and take one back.", no_args_is_help=True)


@app.command("list")
def list_results(
    config: ConfigFile,
    limit: Annotated[int, typer.Option(min=1, help="The most to list.")] = 100,
    identifiers: Identifiers = False,
    as_json: AsJson = False,
) -> None:
    """List the answers of the models, the newest first."""
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
    rejected_for: Annotated[
        Rejection,
        typer.Option(help="Title of rejection notes (IHE IOCM); worklist-entry: wrong patient or study."),
    ] = Rejection.PATIENT_SAFETY,
    identifiers: Identifiers = False,
    as_json: AsJson = False,
) -> None:
    """Take an answer back wherever it was told, and drop what still waits of it."""
    from appliance.services.administration.retraction import effects_table
    from appliance.services.administration.retraction import retract as take_back

    if not reason.strip():
        raise typer.BadParameter("must not be empty", param_hint="--reason")
    with problems_as_lines():
        done = take_back(load(config), answer, reason.strip(), rejected_for, identifiers=identifiers)
    print_report(done, lambda found: [effects_table(found)] if found["destinations"] else [], as_json=as_json)
    for row in done["destinations"]:
        if row["left"]:
            typer.echo(f"{row['destination']} keeps {row['kind']} {row['series']}: {row['left']}", err=True)
    for job in done["unfinished"]:
        typer.echo(f"job {job} of the same series is not done: what it makes is sent", err=True)
    names = ", ".join(map(str, done["jobs"]))
    typer.echo(f"job {names} is retracted: {done['corrections']} corrections", err=True)
