"""The command line. Each command imports only what it needs, so that the small ones answer at once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.commands import results
from appliance.commands.options import (
    AsJson,
    ConfigFile,
    Identifiers,
    Reason,
    print_tables,
    problems_as_lines,
)
from appliance.config.load import load
from appliance.config.schema import Config

if TYPE_CHECKING:
    from appliance.observe.process import Process
    from appliance.services.report import Row

app = typer.Typer(
    help="Edge inference appliance: receives from scanners, forwards to the PACS, runs models in between.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

outbox = typer.Typer(help="See what waits for the destinations, and decide about what they refused.")
app.add_typer(outbox, name="deliveries")

engines = typer.Typer(help="Build engines for GPUs, and look after those that were built.")
app.add_typer(engines, name="engines")
app.add_typer(results.app, name="results")

DeliveryIds = Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="Which deliveries.")]
OfDestination = Annotated[str | None, typer.Option("--destination", help="All of this destination.")]


@app.command()
def run(config: ConfigFile) -> None:
    """Run the whole appliance in the foreground until SIGTERM."""
    from appliance.observe import log
    from appliance.services.preflight import check as check_before
    from appliance.services.supervise import run as supervise

    with problems_as_lines():
        settings = load(config)
        check_before(settings)
        log.configure("run", settings.log.level)
        code = supervise(config, settings)
    raise typer.Exit(code)


@app.command()
def receive(
    config: ConfigFile,
    number: Annotated[int, typer.Option(min=1, help="Which of `listener.processes` this is.")] = 1,
) -> None:
    """Run only one process that receives images."""
    from appliance.services.receive import serve

    _work("receive" if number == 1 else f"receive-{number}", config, serve)


@app.command()
def plan(config: ConfigFile) -> None:
    """Run only the process that decides which models take a series."""
    from appliance.services.plan import serve

    _work("plan", config, serve)


@app.command()
def infer(config: ConfigFile) -> None:
    """Run only the process that runs the models."""
    from appliance.services.infer import serve

    _work("infer", config, serve)


@app.command()
def forward(config: ConfigFile) -> None:
    """Run only the process that sends to the destinations."""
    from appliance.services.forward import serve

    _work("forward", config, serve)


@app.command()
def monitor(config: ConfigFile) -> None:
    """Run only the process that serves metrics and health."""
    from appliance.services.monitor import serve

    _work("monitor", config, serve)


@app.command()
def check(config: ConfigFile) -> None:
    """Check the configuration and all that it refers to without starting anything; explain the rules."""
    from appliance.services.preflight import check as check_before
    from appliance.services.routing import explain

    with problems_as_lines(on_stderr=False):
        settings = load(config)
        check_before(settings)
    for line in ("configuration is valid", *explain(settings)):
        typer.echo(line)


@app.command()
def status(config: ConfigFile, as_json: AsJson = False) -> None:
    """Show series, jobs and deliveries by state, and why models skipped series."""
    from appliance.services.report import status_report, status_tables

    with problems_as_lines():
        report = status_report(load(config))
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        print_tables(status_tables(report))


@app.command()
def models(config: ConfigFile, as_json: AsJson = False) -> None:
    """List the model packages, their checksums and the runtime that each will use."""
    from appliance.services.report import models_report, models_table

    with problems_as_lines():
        report = models_report(load(config))
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        print_tables([models_table(report)])


@app.command("conformance")
def conformance_statement(config: ConfigFile) -> None:
    """Print the DICOM conformance statement of this configuration, as Markdown."""
    from appliance.services.conformance_statement import statement

    with problems_as_lines():
        text = statement(load(config), config.name)
    typer.echo(text, nl=False)


@outbox.command("list")
def list_deliveries(
    config: ConfigFile,
    destination: OfDestination = None,
    state: Annotated[list[str] | None, typer.Option(help="Only in this state; may be repeated.")] = None,
    study: Annotated[str | None, typer.Option("--study-hash", help="Only this study, as in the log.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The most to list.")] = 1000,
    identifiers: Identifiers = False,
    as_json: AsJson = False,
) -> None:
    """List deliveries: by default all that are not done."""
    from appliance.domain.states import DELIVERY
    from appliance.journal.interventions import Selection
    from appliance.services.interventions import deliveries_table
    from appliance.services.interventions import list_deliveries as listed

    states = tuple(state or ("pending", "sending", "rejected"))
    unknown = sorted(set(states) - set(DELIVERY.states))
    if unknown:
        raise typer.BadParameter(
            f"{unknown[0]} is none of {', '.join(DELIVERY.states)}", param_hint="--state"
        )
    selection = Selection(destination=destination, states=states)
    with problems_as_lines():
        rows = listed(load(config), selection, study=study, identifiers=identifiers, limit=limit)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif rows:
        print_tables([deliveries_table(rows)])


@outbox.command("show")
def show_delivery(
    config: ConfigFile,
    delivery: Annotated[int, typer.Argument(metavar="ID", help="Which delivery.")],
    identifiers: Identifiers = False,
    as_json: AsJson = False,
) -> None:
    """Show one delivery and all that happened to it: the audit trail."""
    from appliance.services.interventions import deliveries_table, history_table
    from appliance.services.interventions import show_delivery as shown

    with problems_as_lines():
        report = shown(load(config), delivery, identifiers=identifiers)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        print_tables([deliveries_table([report["delivery"]]), history_table(report)])


@outbox.command("retry")
def retry(config: ConfigFile, ids: DeliveryIds = None, destination: OfDestination = None) -> None:
    """Try what was postponed now instead of later."""
    _intervene("retry", config, ids, destination, None, "")


@outbox.command("release")
def release(
    config: ConfigFile, reason: Reason, ids: DeliveryIds = None, destination: OfDestination = None
) -> None:
    """Send once more what was rejected (all of a destination, or by id), or dropped (by id)."""
    _intervene("release", config, ids, destination, ("rejected",), reason)


@outbox.command("drop")
def drop(
    config: ConfigFile,
    reason: Reason,
    ids: DeliveryIds = None,
    destination: OfDestination = None,
    pending: Annotated[bool, typer.Option("--pending", help="Of a destination: also what waits.")] = False,
) -> None:
    """Give up what was rejected (all of a destination, or by id), or what waits (by id, or --pending)."""
    states = ("rejected", "pending") if pending else ("rejected",)
    _intervene("drop", config, ids, destination, states, reason)


@engines.command("build")
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
    from appliance.services.engine_commands import build

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


@engines.command("list")
def list_engines(config: ConfigFile, as_json: AsJson = False) -> None:
    """List engines: for which GPU, whether they may run, and how near ONNX Runtime they are."""
    from appliance.services.engine_commands import listed

    with problems_as_lines():
        rows = listed(load(config))
    _engines(rows, [], as_json=as_json)


@engines.command("verify")
def verify_engines(config: ConfigFile, as_json: AsJson = False) -> None:
    """Check that every engine is the very file that this appliance built."""
    from appliance.services.engine_commands import verify

    with problems_as_lines():
        rows, problems = verify(load(config))
    _engines(rows, problems, as_json=as_json)


@engines.command("prune")
def prune_engines(
    config: ConfigFile,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Delete engines that nothing can use any more: of other models, libraries, profiles, or not ours."""
    from appliance.services.engine_commands import prune

    with problems_as_lines():
        rows = prune(load(config), dry_run=dry_run)
    for row in rows:
        typer.echo(f"{row['engine']}: {row['detail']}")
    typer.echo(f"{len(rows)} engines {'would be ' if dry_run else ''}deleted")


def _engines(rows: list[Row], problems: list[str], *, as_json: bool) -> None:
    from appliance.services.engine_commands import COLUMNS
    from appliance.services.report import table

    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif rows:
        print_tables([table("Engines", COLUMNS, rows)])
    for problem in problems:
        typer.echo(problem, err=True)
    raise typer.Exit(1 if problems else 0)


def _intervene(
    word: str,
    config: Path,
    ids: list[int] | None,
    destination: str | None,
    states: tuple[str, ...] | None,
    reason: str,
) -> None:
    from appliance.journal.interventions import Intervention, Selection
    from appliance.services.interventions import intervene

    intervention = Intervention(word)
    if bool(ids) == (destination is not None):
        raise typer.BadParameter("name either deliveries by their id or one --destination")
    if intervention is not Intervention.RETRY and not reason.strip():
        raise typer.BadParameter("must not be empty", param_hint="--reason")
    chosen = (
        Selection(ids=tuple(ids))
        if ids
        else Selection(destination=destination, states=states or ("pending",))
    )
    with problems_as_lines():
        done = intervene(load(config), intervention, chosen, reason.strip())
    for problem in done.problems:
        typer.echo(problem, err=True)
    typer.echo(f"{word}: {done.changed} deliveries")
    raise typer.Exit(1 if done.problems else 0)


def _work(name: str, config_path: Path, serve: Callable[[Config, Process], None]) -> None:
    from appliance.observe import exposition, log
    from appliance.observe.process import Process

    with problems_as_lines():
        settings = load(config_path)
        log.configure(name, settings.log.level)
        process = Process(name, settings.run_directory)
        exposition.expose(settings.run_directory, name)
        serve(settings, process)
    logging.getLogger(__name__).info("stopped")


def main() -> None:
    """Entry point of the `appliance` program."""
    app(prog_name="appliance")


if __name__ == "__main__":
    main()
