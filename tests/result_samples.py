"""Outcomes and identities for tests of result objects."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from appliance.config.schema import ResultObjects
from appliance.dicom.codes import ARTIFICIAL_INTELLIGENCE, NOISE_REDUCTION
from appliance.dicom.outcome import (
    Code,
    Enhanced,
    Findings,
    Identity,
    ModelIdentity,
    PrivateElement,
    StationIdentity,
)
from appliance.dicom.volume import Volume, load_volume
from appliance.results import Numbering, Order, Produced, write
from tests.dicom_samples import CtSeries, write_series
from tests.modality_samples import write_images

IDENTITY = Identity(
    station=StationIdentity(
        ae_title="EDGE",
        manufacturer="Sample Appliances",
        product="Edge Inference Appliance",
        version="0.1.0",
        serial="EDGE-1",
        device_uid="2.25.1000",
    ),
    model=ModelIdentity(
        id="sample-model",
        version="1.2.3",
        title="Sample model",
        manufacturer="Sample Models",
        sha256="0123456789abcdef" * 4,
    ),
    pipeline_digest="digest-1",
    revision=1,
    created=datetime(2026, 1, 2, 11, 30, 15, 250000, tzinfo=timezone(timedelta(hours=1))),
    parameters={"strength": "0.5"},
)

HAEMORRHAGE = Code("1386000", "SCT", "Intracranial hemorrhage")
BRAIN = Code("12738006", "SCT", "Brain")
ACR_1 = Code("RID49480", "RADLEX", "ACR Category 1 Actionable Finding")
ACR_3 = Code("RID49482", "RADLEX", "ACR Category 3 Actionable Finding")


def revised(revision: int) -> Identity:
    """The sample identity at another revision of the series."""
    return replace(IDENTITY, revision=revision)


def sample_volume(folder: Path, series: CtSeries) -> Volume:
    """A synthetic series, written and loaded."""
    return load_volume(write_series(folder, series))


def as_wanted(_study: str, _series: str, wanted: int) -> int:
    """The numbering of a study without collisions."""
    return wanted


def produce(
    outcome: Enhanced | Findings,
    volume: Volume,
    identity: Identity = IDENTITY,
    kinds: Collection[str] | None = None,
    numbering: Numbering = as_wanted,
    stand_ins: Collection[str] = (),
) -> Iterator[Produced]:
    """The result objects that a pipeline with the default settings makes, or those of `kinds`."""
    if kinds is None:
        word = "positive" if isinstance(outcome, Findings) and outcome.positive else "negative"
        kinds = ResultObjects().kinds("enhanced" if isinstance(outcome, Enhanced) else word)
    return write(outcome, volume, identity, Order(kinds, stand_ins, numbering))


def enhanced(voxels: NDArray[np.float32]) -> Enhanced:
    """What an enhancement model might return."""
    return Enhanced(
        voxels=voxels,
        description="Noise reduction by sample-model 1.2.3 (sha256:0123456789ab)",
        prefix="AI-DN",
        codes=(NOISE_REDUCTION, ARTIFICIAL_INTELLIGENCE),
    )


def findings(volume: Volume, *, positive: bool, calibrated: bool = False) -> Findings:
    """What a triage model might return; a positive one has a heat map with one hot spot."""
    heat = None
    key_slice = len(volume.sources) // 2
    if positive:
        rows, columns = volume.voxels.shape[1:]
        y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
        heat = np.zeros(volume.voxels.shape, np.float32)
        heat[key_slice] = np.exp(-(((x - 0.2) / 0.15) ** 2 + ((y + 0.2) / 0.15) ** 2))
    return Findings(
        positive=positive,
        score=0.931 if positive else 0.052,
        threshold=0.62,
        calibrated=calibrated,
        finding=HAEMORRHAGE,
        site=BRAIN,
        urgency=ACR_1,
        key_slice=key_slice,
        heat=heat,
    )


def load(folder: Path, *images: Dataset) -> Volume:
    """Images, written in this order and loaded."""
    return load_volume(write_images(folder, images))


def derive(
    volume: Volume, voxels: NDArray[np.float32], private: tuple[PrivateElement, ...] = ()
) -> list[Dataset]:
    """The derived images of a model that made `voxels` of a volume, as any program reads them."""
    outcome = replace(enhanced(voxels), private=private)
    return [dcmread(io.BytesIO(made.encode())) for made in produce(outcome, volume)]


def twice_as_fine(voxels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each pixel as four."""
    return np.repeat(np.repeat(voxels, 2, axis=1), 2, axis=2)
