"""A series as a block of voxels with its geometry, and the way from files to it."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.filewriter import correct_ambiguous_vr

from appliance.dicom import ultrasound
from appliance.dicom.frames import MULTI_FRAME, check_parts, frames_of, scale_of
from appliance.dicom.geometry import SeriesGeometry, check_series
from appliance.dicom.header import Facts, read_facts
from appliance.dicom.pixels import Samples, Scale, decode
from appliance.dicom.unusable import DAMAGED, Unusable

_NOT_ONE_STACK = ("invalid_uid", "missing_geometry", "mixed_geometry", "repeated_positions")


@dataclass(frozen=True)
class Volume:
    """One series on one grid: slices of a stack, or images and frames that have no place in space.

    `voxels` has shape (slices, rows, columns) and is in real-world units (HU for CT), the brighter the
    higher. Slices are sorted along their normal (dot of ImagePositionPatient and normal, ascending), images
    without a place by instance number and frame. `padding` is True where nothing is to be analysed or
    changed: where the source pixel is padding (PixelPaddingValue/RangeLimit), and in an ultrasound image
    where it is not grey tissue. `colour` is the RGB of an image in colour, shape (slices, rows, columns, 3).

    `sources` are the headers (data sets without pixel data) in the same order, for frames of one object
    the same one; `frames` are the frame numbers in them, from 1. `pixel_sha256`, also in that order, are
    hashes of each slice's stored pixels and geometry. `spacing` is (between slices, between rows, between
    columns) in mm; the first is the distance of slice centres, or SliceThickness for a single slice, and all
    are 0 where unknown. `geometry` is what `check_series` measured.
    """

    voxels: NDArray[np.float32]
    padding: NDArray[np.bool_] | None
    sources: tuple[Dataset, ...]
    pixel_sha256: tuple[str, ...]
    spacing: tuple[float, float, float]
    geometry: SeriesGeometry
    frames: tuple[int, ...] = ()
    colour: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class _Place:
    """Where a slice of the volume comes from."""

    file: int
    frame: int
    facts: Facts


def load_volume(paths: Sequence[Path]) -> Volume:
    """Decode the images of one series, Part-10 files in any order, into a volume.

    Missing slices are allowed: whether a model accepts them is the model's decision.

    Raises:
        Unusable: with the reason `invalid_uid`, `missing_geometry`, `mixed_geometry`,
            `repeated_positions`, `unreadable_header`, `multi_frame`, `concatenation`, `missing_rescale`,
            `bad_rescale` (slope not finite or not above 0), or one of `pixels.decode`.
        GiveUp: an image has no identifiers.
        OSError: a file cannot be read.
    """
    facts = [read_facts(path) for path in paths]
    places = [
        _Place(file, frame, its)
        for file, path in enumerate(paths)
        for frame, its in enumerate(_frames(path, facts[file]), 1)
    ]
    geometry = check_series([place.facts for place in places])
    for problem in geometry.problems:
        if problem.reason in _NOT_ONE_STACK:
            raise Unusable(problem.reason, problem.detail)
    in_order = [places[index] for index in geometry.order]
    block = _Block(in_order)
    by_file: dict[int, list[int]] = {}
    for number, place in enumerate(in_order):
        by_file.setdefault(place.file, []).append(number)
    for file, numbers in by_file.items():
        with _quiet():
            header = _read_header(paths[file], facts[file])
            samples = decode(header)
            if "PixelData" in header:
                del header.PixelData
            for number in numbers:
                block.put(number, header, samples)
    volume = block.volume(geometry)
    check_parts({id(header): header for header in volume.sources}.values())
    return volume


class _Block:
    """The voxels of a volume while they are filled in."""

    def __init__(self, places: Sequence[_Place]) -> None:
        first = places[0].facts
        self._places = places
        self._voxels = np.empty((len(places), first.rows or 0, first.columns or 0), np.float32)
        self._padding: NDArray[np.bool_] | None = None
        self._colour: NDArray[np.uint8] | None = None
        self._headers: list[Dataset] = [Dataset()] * len(places)
        self._hashes = [""] * len(places)

    def put(self, number: int, header: Dataset, samples: Samples) -> None:
        """Fill in slice `number` from the object that it comes from."""
        place = self._places[number]
        if samples.stored.shape[1:] != self._voxels.shape[1:]:
            raise Unusable("unreadable_header", "the data set can be parsed in two ways")
        stored, scale = samples.stored[place.frame - 1], scale_of(header, place.frame)
        self._voxels[number] = scale.values(stored)
        if samples.untouched is not None:
            self._padding = np.zeros(self._voxels.shape, np.bool_) if self._padding is None else self._padding
            self._padding[number] = samples.untouched[place.frame - 1]
        if samples.colour is not None:
            shape = (*self._voxels.shape, 3)
            self._colour = np.zeros(shape, np.uint8) if self._colour is None else self._colour
            self._colour[number] = samples.colour[place.frame - 1]
        self._headers[number] = header
        shown = stored if samples.colour is None else samples.colour[place.frame - 1]
        self._hashes[number] = _pixel_sha256(shown, place.facts, scale)

    def volume(self, geometry: SeriesGeometry) -> Volume:
        """What was filled in."""
        rows, columns = _in_plane_spacing(self._headers[0], self._places[0].facts)
        return Volume(
            voxels=self._voxels,
            padding=self._padding,
            sources=tuple(self._headers),
            pixel_sha256=tuple(self._hashes),
            spacing=(geometry.gap_mm or self._places[0].facts.slice_thickness or 0.0, rows, columns),
            geometry=geometry,
            frames=tuple(place.frame for place in self._places),
            colour=self._colour,
        )


def _frames(path: Path, facts: Facts) -> Sequence[Facts]:
    if facts.number_of_frames == 1 and facts.sop_class_uid not in MULTI_FRAME:
        return (facts,)
    with _quiet():
        return frames_of(_read_header(path, facts, pixels=False), facts)


def _in_plane_spacing(header: Dataset, facts: Facts) -> tuple[float, float]:
    """Millimetres between rows and between columns; of a projection at the detector, 0 where unknown."""
    if facts.pixel_spacing:
        return facts.pixel_spacing[0], facts.pixel_spacing[1]
    if facts.sop_class_uid in ultrasound.ULTRASOUND:
        return ultrasound.spacing_mm(header) or (0.0, 0.0)
    try:
        rows, columns = header.ImagerPixelSpacing
        return float(rows), float(columns)
    except DAMAGED:
        return 0.0, 0.0


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep pydicom's warnings out of the log: they quote attribute values, which may be a patient's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def load_headers(paths: Sequence[Path]) -> tuple[Dataset, ...]:
    """The headers of one series without pixel data, ordered by SOP Instance UID.

    Raises:
        Unusable: `unreadable_header`.
        GiveUp: an image has no identifiers.
        OSError: a file cannot be read.
    """
    with _quiet():
        headers = [_read_header(path, read_facts(path), pixels=False) for path in paths]
    return tuple(sorted(headers, key=lambda header: str(header.SOPInstanceUID)))


def _read_header(path: Path, facts: Facts, *, pixels: bool = True) -> Dataset:
    try:
        header = dcmread(path, force=True, stop_before_pixels=not pixels)
        # Whether padding values are signed is decided by another element.
        correct_ambiguous_vr(header, header.original_encoding[1] is not False)
        agrees = (
            header.SOPClassUID == facts.sop_class_uid
            and header.SOPInstanceUID == facts.sop_instance_uid
            and header.SeriesInstanceUID == facts.series_instance_uid
            and header.StudyInstanceUID == facts.study_instance_uid
        )
    except DAMAGED as error:
        raise Unusable("unreadable_header", "the data set cannot be parsed") from error
    if not agrees:
        raise Unusable("unreadable_header", "the data set can be parsed in two ways")
    return header


def _pixel_sha256(shown: NDArray[np.int32] | NDArray[np.uint8], facts: Facts, scale: Scale) -> str:
    """A hash of what the image shows and where: the same for every transfer syntax and patient name."""
    geometry = (
        facts.frame_of_reference_uid,
        facts.rows,
        facts.columns,
        facts.pixel_spacing,
        facts.image_position,
        facts.image_orientation,
        scale,
    )
    digest = hashlib.sha256(repr(geometry).encode())
    digest.update(np.ascontiguousarray(shown, "<i4").tobytes())
    return digest.hexdigest()
