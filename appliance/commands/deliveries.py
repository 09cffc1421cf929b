"""`appliance deliveries`."""

from __future__ import annotations

from pathlib import Path
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

app = typer.Typer(help="See what waits for the destinations, and decide about what they refused.")

DeliveryIds = Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="Which deliveries.")]
OfDestination = Annotated[str | None, typer.Option("--destination", help="All of this destination.")]


@app.command("list")
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
    from appliance.services.administration.interventions import deliveries_table
    from appliance.services.administration.interventions import list_deliveries as listed

    states = tuple(state or ("pending", "sending", "rejected"))
    unknown = sorted(set(states) - set(DELIVERY.states))
    if unknown:
        raise typer.BadParameter(
            f"{unknown[0]} is none of {', '.join(DELIVERY.states)}", param_hint="--state"
        )
    selection = Selection(destination=destination, states=states)
    with problems_as_lines():
        rows = listed(load(config), selection, study=study, identifiers=identifiers, limit=limit)
    print_report(rows, lambda found: [deliveries_table(found)], as_json=as_json)


@app.command("show")
def show_delivery(
    config: ConfigFile,
    delivery: Annotated[int, typer.Argument(metavar="ID", help="Which delivery.")],
    identifiers: Identifiers = False,
    as_json: AsJson = False,
) -> None:
    """Show one delivery and all that happened to it: the audit trail."""
    from appliance.services.administration.interventions import deliveries_table, history_table
    from appliance.services.administration.interventions import show_delivery as shown

    with problems_as_lines():
        report = shown(load(config), delivery, identifiers=identifiers)
    print_report(
        report, lambda one: [deliveries_table([one["delivery"]]), history_table(one)], as_json=as_json
    )


@app.command("retry")
def retry(config: ConfigFile, ids: DeliveryIds = None, destination: OfDestination = None) -> None:
    """Try what was postponed now instead of later."""
    _intervene("retry", config, ids, destination, None, "")


@app.command("release")
def release(
    config: ConfigFile, reason: Reason, ids: DeliveryIds = None, destination: OfDestination = None
) -> None:
    """Send once more what was rejected (all of a destination, or by id), or dropped (by id)."""
    _intervene("release", config, ids, destination, ("rejected",), reason)


@app.command("drop")
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


def _intervene(
    word: str,
    config: Path,
    ids: list[int] | None,
    destination: str | None,
    states: tuple[str, ...] | None,
    reason: str,
) -> None:
    from appliance.journal.interventions import Intervention, Selection
    from appliance.services.administration.interventions import intervene

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
