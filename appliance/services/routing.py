"""Which destinations get an original or a result: what the configuration names, as far as rules let it."""

from __future__ import annotations

from collections.abc import Sequence
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
