"""`appliance engines`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from appliance.commands.options import AsJson, ConfigFile, print_report, problems_as_lines
from appliance.config.load import load

if TYPE_CHECKING:
    from appliance.services.administration.report import Row

app = typer.Typer(help="Build engines for GPUs, and look after those that were built.")


@app.command("build")
def build_engines(
    config: ConfigFile,
    model: Annotated[list[str] | None, typer.Option(help="Only this model; may be repeated.")] = None,
    runtime: Annotated[
        str | None, typer.Option(help="tensorrt or tensorrt_rtx. Left out: the first that can.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Compute capability such as SM86; may be repeated. Left out: the GPU here."),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also what is there already.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build engines, and activate those that answer on this machine's GPU as ONNX Runtime does."""
    from appliance.runtime.trt_library import FLAVOURS
    from appliance.services.administration.engine_commands import build

    flavour = next((known for known in FLAVOURS if known == runtime), None)
    if runtime is not None and flavour is None:
        raise typer.BadParameter(f"{runtime} is none of {', '.join(FLAVOURS)}", param_hint="--runtime")

    def say(line: dict[str, object]) -> None:
        typer.echo(
            f"{line['task']} {line['model']}: {line['phase']} {line['step']}/{line['steps']}", err=True
        )

    with problems_as_lines():
        rows, problems = build(
            load(config), models=model or (), flavour=flavour, targets=target or (), again=again, say=say
        )
    _engines(rows, problems, as_json=as_json)


@app.command("list")
def list_engines(config: ConfigFile, as_json: AsJson = False) -> None:
    """List engines: for which GPU, whether they may run, and how near ONNX Runtime they are."""
    from appliance.services.administration.engine_commands import listed

    with problems_as_lines():
        rows = listed(load(config))
    _engines(rows, [], as_json=as_json)


@app.command("verify")
def verify_engines(config: ConfigFile, as_json: AsJson = False) -> None:
    """Check that every engine is the very file that this appliance built."""
    from appliance.services.administration.engine_commands import verify

    with problems_as_lines():
        rows, problems = verify(load(config))
    _engines(rows, problems, as_json=as_json)


@app.command("prune")
def prune_engines(
    config: ConfigFile,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Delete engines that nothing can use any more: of other models, libraries, profiles, or not ours."""
    from appliance.services.administration.engine_commands import prune

    with problems_as_lines():
        rows = prune(load(config), dry_run=dry_run)
    for row in rows:
        typer.echo(f"{row['engine']}: {row['detail']}")
    typer.echo(f"{len(rows)} engines {'would be ' if dry_run else ''}deleted")


def _engines(rows: list[Row], problems: list[str], *, as_json: bool) -> None:
    from appliance.services.administration.engine_commands import COLUMNS
    from appliance.services.administration.report import table

    print_report(rows, lambda found: [table("Engines", COLUMNS, found)], as_json=as_json)
    for problem in problems:
        typer.echo(problem, err=True)
    raise typer.Exit(1 if problems else 0)
