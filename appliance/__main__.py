"""The command line. Each command imports only what it needs, so that the small ones answer at once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.commands import deliveries, engines, models, results
from appliance.commands.options import (
    AsJson,
    ConfigFile,
    print_report,
    problems_as_lines,
)
from appliance.config.load import load
from appliance.config.schema import Config
from appliance.domain.errors import Misconfigured

if TYPE_CHECKING:
    from appliance.observe.process import Process

app = typer.Typer(
    help="Edge inference appliance: receives from scanners, forwards to the PACS, runs models in between.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(deliveries.app, name="deliveries")
app.add_typer(engines.app, name="engines")
app.add_typer(models.app, name="models")
app.add_typer(results.app, name="results")


@app.command()
def run(config: ConfigFile) -> None:
    """Run the whole appliance in the foreground until SIGTERM."""
    from appliance.observe import log
    from appliance.services.administration.preflight import check as check_before
    from appliance.services.supervise import run as supervise

    with problems_as_lines():
        settings = load(config)
        damaged = check_before(settings)
        log.configure("run", settings.log.level)
        for sentence in damaged:  # originals flow whatever a model is like
            logging.getLogger(__name__).error("model_damaged", extra={"reason": sentence})
        code = supervise(config, settings)
    raise typer.Exit(code)


@app.command()
def receive(
    config: ConfigFile,
    number: Annotated[int, typer.Option(min=1, help="Which of `listener.processes` this is.")] = 1,
) -> None:
    """Run only one process that receives images."""
    from appliance.services.receiving.receive import serve

    _work("receive" if number == 1 else f"receive-{number}", config, serve)


@app.command()
def plan(config: ConfigFile) -> None:
    """Run only the process that decides which models take a series."""
    from appliance.services.planning.plan import serve

    _work("plan", config, serve)


@app.command()
def infer(config: ConfigFile) -> None:
    """Run only the process that runs the models."""
    from appliance.services.inference.infer import serve

    _work("infer", config, serve)


@app.command()
def forward(config: ConfigFile) -> None:
    """Run only the process that sends to the destinations."""
    from appliance.services.forwarding.forward import serve

    _work("forward", config, serve)


@app.command()
def monitor(config: ConfigFile) -> None:
    """Run only the process that serves metrics and health."""
    from appliance.services.monitoring.monitor import serve

    _work("monitor", config, serve)


@app.command()
def check(config: ConfigFile) -> None:
    """Check the configuration and all that it refers to without starting anything; explain the rules."""
    from appliance.services.administration.preflight import check as check_before
    from appliance.services.routing import explain

    with problems_as_lines(on_stderr=False):
        settings = load(config)
        damaged = check_before(settings)
        if damaged:
            raise Misconfigured(damaged)
    for line in ("configuration is valid", *explain(settings)):
        typer.echo(line)


@app.command()
def status(config: ConfigFile, as_json: AsJson = False) -> None:
    """Show series, jobs and deliveries by state, and why models skipped series."""
    from appliance.services.administration.report import status_report, status_tables

    with problems_as_lines():
        report = status_report(load(config))
    print_report(report, status_tables, as_json=as_json)


@app.command("conformance")
def conformance_statement(config: ConfigFile) -> None:
    """Print the DICOM conformance statement of this configuration, as Markdown."""
    from appliance.services.administration.conformance_statement import statement

    with problems_as_lines():
        text = statement(load(config), config.name)
    typer.echo(text, nl=False)


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
