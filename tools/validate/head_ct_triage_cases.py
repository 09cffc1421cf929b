"""What `head-ct-triage` is measured on: held-out phantoms, labelled real pictures, real series."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from appliance.dicom.geometry import SeriesGeometry
from appliance.dicom.volume import Volume, load_volume
from appliance.models.tasks.head_alignment import AlignedHead, align_head
from tools.simulate.head_phantom_bleeds import Bleed
from tools.simulate.head_rendering import picture_to_hu
from tools.simulate.head_series import SimulatedSeries, simulate_series

FIRST_SEED = 10_000
FIRST_SEED_OF_KINDS = 40_000
KINDS = (Bleed.PARENCHYMAL, Bleed.INTRAVENTRICULAR, Bleed.SUBDURAL, Bleed.EPIDURAL, Bleed.SUBARACHNOID)
COVERED_MM = 125.0
THICKNESSES_MM = (3.0, 4.0, 5.0, 6.0, 7.5)
PICTURE_HEAD_MM = 195.0
REAL_SERIES = {
    "ct/philips-skull-phantom/std-5mm": "a plastic skull with inserts, 5 mm",
    "ct/philips-skull-phantom/std-1mm-slices-50-89": "the same, 1 mm",
    "ct/philips-skull-phantom/bone-1mm-slices-50-89": "the same, 1 mm, bone kernel",
    "ct/philips-tilted-slices-0-19": "the lower half of a skull phantom, tilted gantry",
    "ct/human-lung": "a human thorax",
}


@dataclass(frozen=True)
class Case:
    """One simulated series and its truth; the seed tells it from others of its set."""

    seed: int
    volume: Volume
    blood: NDArray[np.float32]
    bleed: Bleed | None


@dataclass(frozen=True)
class Picture:
    """One labelled 8-bit picture: its aligned head, its label, and what a shortcut could use."""

    name: str
    head: AlignedHead | None
    bleeds: bool
    width: int
    mean_grey: float


def volume_of(series: SimulatedSeries) -> Volume:
    """A simulated series as the appliance would load it, without headers."""
    pixel, gap, count = series.acquisition.pixel_mm, series.acquisition.slice_mm, len(series.hu)
    return Volume(
        voxels=series.hu,
        padding=None,
        sources=(),
        pixel_sha256=(),
        spacing=(gap, pixel, pixel),
        geometry=SeriesGeometry(
            order=tuple(range(count)),
            positions_mm=tuple(series.bottom_mm + gap * index for index in range(count)),
            gap_mm=gap,
            missing_slices=0,
            repeated_positions=0,
            uniform=True,
            tilt_degrees=0.0,
            problems=(),
        ),
    )


def held_out_cases(count: int, size: int = 256) -> Iterator[Case]:
    """`count` phantoms of the held-out family, every second one with a bleed of any kind."""
    for index in range(count):
        thickness = THICKNESSES_MM[index // 2 % 5]
        yield _case(FIRST_SEED + index, thickness, size, bleed=index % 2 == 1, kind=None)


def cases_of_kinds(each: int, size: int = 256) -> Iterator[Case]:
    """`each` phantoms of each of `KINDS`, and as many without a bleed, all of the held-out family."""
    for index in range(2 * each * len(KINDS)):
        thickness = THICKNESSES_MM[index // (2 * len(KINDS)) % 5]
        kind = KINDS[index // 2 % len(KINDS)] if index % 2 else None
        yield _case(FIRST_SEED_OF_KINDS + index, thickness, size, bleed=kind is not None, kind=kind)


def _case(seed: int, thickness: float, size: int, *, bleed: bool, kind: Bleed | None) -> Case:
    series = simulate_series(
        seed=seed,
        bleed=bleed,
        kind=kind,
        slices=round(COVERED_MM / thickness),
        size=size,
        slice_mm=thickness,
    )
    return Case(seed, volume_of(series), series.blood, series.bleed)


def labelled_pictures(folder: Path) -> list[Picture]:
    """The real labelled pictures, read as if they showed 0 to 80 HU and a head 195 mm long."""
    pictures = []
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            grey = np.asarray(Image.open(folder / row["file"]).convert("L"))
            pixel = PICTURE_HEAD_MM / max(grey.shape)
            pictures.append(
                Picture(
                    name=Path(row["file"]).stem,
                    head=align_head(picture_to_hu(grey), (pixel, pixel)),
                    bleeds=row["label"] == "hemorrhage",
                    width=grey.shape[1],
                    mean_grey=float(grey.mean()),
                )
            )
    return pictures


def real_volume(folder: Path) -> Volume:
    """A real series from its files."""
    return load_volume(sorted(folder.glob("*.dcm")))
