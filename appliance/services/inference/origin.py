"""What result objects say of their own origin: this appliance, the model, when, and what came before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime, timezone
from zoneinfo import ZoneInfo

from appliance import __version__
from appliance.config.schema import Config
from appliance.dicom.outcome import EarlierReport, Identity, ModelIdentity, StationIdentity
from appliance.dicom.uids import station_device_uid
from appliance.domain.types import Job
from appliance.journal import jobs
from appliance.services.packages import Package
from appliance.services.storage import Storage

_MANUFACTURER = "Edge Inference Appliance project"
_PRODUCT = "Edge Inference Appliance"


def pipeline_digest(package: Package, settings: dict[str, float]) -> str:
    """What makes results of a model with these settings other results than those with others."""
    manifest, derived = package.manifest, package.pipeline.derived
    parts = [manifest.id, manifest.version, manifest.weights.sha256, _named(settings), derived.model_dump()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _named(settings: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:g}" for name, value in settings.items()}


def station_of(config: Config) -> StationIdentity:
    """How this appliance names itself in what it makes."""
    station = config.station
    return StationIdentity(
        ae_title=station.ae_title,
        manufacturer=_MANUFACTURER,
        product=_PRODUCT,
        version=__version__,
        serial=station.device_serial,
        device_uid=station_device_uid(station.device_serial),
    )


def identity_of(
    job: Job,
    package: Package,
    settings: dict[str, float],
    config: Config,
    storage: Storage,
    ran: Sequence[str] = (),
) -> Identity:
    """The origin of the results of a job, made now by a model with these settings.

    `ran` is `ModelIdentity.ran`. It is no part of the digest: an engine built anew makes no new result.
    """
    manifest, station, derived = package.manifest, config.station, package.pipeline.derived
    zone = ZoneInfo(station.timezone) if station.timezone else None
    with storage.journal.read() as connection:
        begun = datetime.fromisoformat(jobs.begun_at(connection, job))
        report = jobs.earlier_report(connection, job)
    return Identity(
        station=station_of(config),
        model=ModelIdentity(
            manifest.id,
            manifest.version,
            manifest.title,
            manifest.manufacturer,
            manifest.weights.sha256,
            tuple(ran),
        ),
        pipeline_digest=pipeline_digest(package, settings),
        revision=job.series[0][1],
        created=datetime.now(timezone.utc).astimezone(zone),
        parameters=_named(settings),
        series_begun=begun.astimezone(zone),
        earlier_report=None if report is None else EarlierReport(*report),
        names_scanner=derived.equipment == "scanner",
        primary=derived.image_type == "PRIMARY",
        card_design=package.pipeline.cards.design,
    )
