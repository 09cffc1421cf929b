"""The command line. Each command imports only what it needs, so that the small ones answer at once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.config.load import load
from appliance.config.schema import Config
from appliance.domain.errors import ApplianceError, Misconfigured

if TYPE_CHECKING:
    from rich.table import Table

    from appliance.observe.process import Process

app = typer.Typer(
    help="Edge inference appliance: receives from scanners, forwards to the PACS, runs models in between.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

WIDTH_OF_FILES = 160

ConfigFile = Annotated[
    Path, typer.Option("--config", metavar="FILE", help="The configuration file.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@app.command()
def run(config: ConfigFile) -> None:
    """Run the whole appliance in the foreground until SIGTERM."""
    from appliance.observe import log
    from appliance.services.packages import load_packages
    from appliance.services.supervise import run as supervise

    with _problems_as_lines():
        settings = load(config)
        load_packages(settings)
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
    """Check the configuration and the model packages without starting anything."""
    from appliance.services.packages import load_packages

    with _problems_as_lines(on_stderr=False):
        load_packages(load(config))
    typer.echo("configuration is valid")


@app.command()
def status(config: ConfigFile, as_json: AsJson = False) -> None:
    """Show series, jobs and deliveries by state, and why models skipped series."""
    from appliance.services.report import status_report, status_tables

    with _problems_as_lines():
        report = status_report(load(config))
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        _print(status_tables(report))


@app.command()
def models(config: ConfigFile, as_json: AsJson = False) -> None:
    """List the model packages, their checksums and the runtime that each will use."""
    from appliance.services.report import models_report, models_table

    with _problems_as_lines():
        report = models_report(load(config))
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        _print([models_table(report)])


def _work(name: str, config_path: Path, serve: Callable[[Config, Process], None]) -> None:
    from appliance.observe import log, metrics
    from appliance.observe.process import Process

    with _problems_as_lines():
        settings = load(config_path)
        log.configure(name, settings.log.level)
        process = Process(name, settings.run_directory)
        metrics.expose(settings.run_directory, name)
        serve(settings, process)
    logging.getLogger(__name__).info("stopped")


@contextmanager
def _problems_as_lines(*, on_stderr: bool = True) -> Iterator[None]:
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


def _print(renderables: list[Table]) -> None:
    from rich.console import Console

    # In a terminal a table fits its width; in a file or a pipe nothing is cut off.
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_FILES
    for renderable in renderables:
        console.print(renderable)


def main() -> None:
    """Entry point of the `appliance` program."""
    app(prog_name="appliance")


if __name__ == "__main__":
    main()
