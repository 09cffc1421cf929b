"""Which destinations get an original or a result: what the configuration names, as far as rules let it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from appliance.config.destinations import Only
from appliance.config.schema import Config
from appliance.dicom.header import Facts


@dataclass(frozen=True)
class Source:
    """What rules look at in an image that came in. `facts` is the JSON of `dicom.header.Facts`."""

    modality: str
    called_ae_title: str
    facts: str


def originals_to(config: Config, source: Source) -> tuple[str, ...]:
    """Names of the destinations that get an original."""
    return tuple(
        name for name in config.originals_destinations if _fits(config.destinations[name].only, source)
    )


def results_to(
    config: Config, destinations: Sequence[str], source: Source, model: str, outcome: str
) -> tuple[str, ...]:
    """Those of a pipeline's `destinations` that get its results; `outcome` is a word of the journal."""
    rules = {name: config.destinations[name].only for name in destinations}
    return tuple(
        name for name, only in rules.items() if _fits(only, source) and only.fits_result(model, outcome)
    )


def _fits(only: Only, source: Source) -> bool:
    # The facts of every image pass here: they are taken apart only for a rule that asks for it.
    station_name = Facts.from_json(source.facts).station_name if only.station_name else ""
    return only.fits_source(source.modality, station_name, source.called_ae_title)


def explain(config: Config) -> list[str]:
    """A line for each destination with rules, and one if an original may go nowhere."""
    lines = [
        f"destination {name}: {line}"
        for name, settings in config.destinations.items()
        if settings.only != Only()
        for line in _explain_one(config, name, settings.only)
    ]
    originals = config.originals_destinations
    if originals and all(_narrows_source(config.destinations[name].only) for name in originals):
        lines.append(
            "originals that fit no rule go nowhere and stay on this machine:"
            " see the metric appliance_originals_unrouted_total"
        )
    return lines


def _explain_one(config: Config, name: str, only: Only) -> Iterator[str]:
    source = "".join(
        f", {words} {' or '.join(entries)}"
        for words, entries in (
            ("modality", only.modality),
            ("station", only.station_name),
            ("sent to", only.called_ae_title),
        )
        if entries
    )
    if name in config.originals_destinations:
        yield f"originals{source}"
    models = [
        pipeline.model
        for pipeline in config.pipelines
        if name in pipeline.destinations and (not only.model or pipeline.model in only.model)
    ]
    if models:
        outcome = f", outcome {' or '.join(only.outcome)}" if only.outcome else ""
        yield f"results of {' and '.join(models)}{source}{outcome}"


def _narrows_source(only: Only) -> bool:
    return bool(only.modality or only.station_name or only.called_ae_title)
