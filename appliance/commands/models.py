"""`appliance models`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from appliance.commands.options import AsJson, ConfigFile, print_report, problems_as_lines
from appliance.config.load import load

app = typer.Typer()


@app.callback(invoke_without_command=True)
def list_models(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="The configuration file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the model packages: checksum, the runtime that each will use, and whether it is in service."""
    from appliance.services.administration.report import models_report, models_table

    if context.invoked_subcommand is not None:
        return
    if config is None:
        raise typer.BadParameter("is missing", param_hint="--config")
    with problems_as_lines():
        report = models_report(load(config))
    print_report(report, lambda rows: [models_table(rows)], as_json=as_json)


@app.command("retest")
def retest(
    config: ConfigFile,
    model: Annotated[str, typer.Argument(metavar="ID", help="Which model.")],
) -> None:
    """Test a model on its golden inputs now, and put it back into service if it answers as it should."""
    from appliance.services.administration.model_commands import retest as test_now

    with problems_as_lines():
        problem = test_now(load(config), model)
    if problem is not None:
        typer.echo(f"{model}: {problem}", err=True)
        raise typer.Exit(1)
    typer.echo(f"{model}: answers as it should, and is in service")
