"""A series as a block of voxels with its geometry, and the way from files to it."""

from __future__ import annotations

import hashlib
import math
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, JPEGExtended12Bit

from appliance.dicom.geometry import SeriesGeometry, check_series
from appliance.dicom.header import Facts, read_facts
from appliance.domain.errors import GiveUp

# What decoders and the parser raise on damaged data; none of them has a base class of its own.
_DAMAGED = (
    ArithmeticError,
    AttributeError,
    BufferError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
_NOT_ONE_STACK = ("invalid_uid", "missing_geometry", "mixed_geometry", "repeated_positions")


class Unusable(GiveUp):
    """A series that no model can look at; `reason` is a short stable word for metrics."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Volume:
    """One series of single-frame images on one grid.

    `voxels` has shape (slices, rows, columns) and is in real-world units (HU for CT), sorted along
    the slice normal (dot of ImagePositionPatient and normal, ascending). `padding` is True where the
    source pixel is padding (PixelPaddingValue/RangeLimit) and is not to be analysed or changed.
    `sources` are the headers (data sets without pixel data) in the same order; `pixel_sha256`, also in
    that order, are hashes of each image's stored pixels and geometry.
    `spacing` is (between slices, between rows, between columns) in mm; the first is the distance of
    slice centres, or SliceThickness for a single slice. `geometry` is what `check_series` measured.
    """

    voxels: NDArray[np.float32]
    padding: NDArray[np.bool_] | None
    sources: tuple[Dataset, ...]
    pixel_sha256: tuple[str, ...]
    spacing: tuple[float, float, float]
    geometry: SeriesGeometry


@dataclass(frozen=True)
class _Slice:
    values: NDArray[np.float32]
    padding: NDArray[np.bool_] | None
    header: Dataset
    sha256: str


def load_volume(paths: Sequence[Path]) -> Volume:
    """Decode the images of one series, Part-10 files in any order, into a volume.

    Missing slices are allowed: whether a model accepts them is the model's decision.

    Raises:
        Unusable: with the reason `invalid_uid`, `missing_geometry`, `mixed_geometry`,
            `repeated_positions`, `unreadable_header`, `multi_frame`, `unsupported_pixels` (not
            monochrome, or neither 8 nor 16 bits allocated), `missing_rescale`, `bad_rescale` (slope not
            finite or not above 0), `missing_pixel_data`, `truncated_pixel_data`, `no_decoder` or
            `undecodable_pixel_data`.
        GiveUp: an image has no identifiers.
        OSError: a file cannot be read.
    """
    facts = [read_facts(path) for path in paths]
    geometry = check_series(facts)
    for problem in geometry.problems:
        if problem.reason in _NOT_ONE_STACK:
            raise Unusable(problem.reason, problem.detail)
    first = facts[geometry.order[0]]
    voxels = np.empty((len(facts), first.rows or 0, first.columns or 0), np.float32)
    padding: NDArray[np.bool_] | None = None
    headers, hashes = [], []
    for position, index in enumerate(geometry.order):
        image = _load_slice(paths[index], facts[index])
        voxels[position] = image.values
        if image.padding is not None:
            padding = np.zeros(voxels.shape, np.bool_) if padding is None else padding
            padding[position] = image.padding
        headers.append(image.header)
        hashes.append(image.sha256)
    rows, columns = first.pixel_spacing or (0.0, 0.0)
    between = geometry.gap_mm or first.slice_thickness or 0.0
    return Volume(
        voxels=voxels,
        padding=padding,
        sources=tuple(headers),
        pixel_sha256=tuple(hashes),
        spacing=(between, rows, columns),
        geometry=geometry,
    )


def load_headers(paths: Sequence[Path]) -> tuple[Dataset, ...]:
    """The headers of one series without pixel data, ordered by SOP Instance UID.

    Raises:
        Unusable: `unreadable_header`.
        GiveUp: an image has no identifiers.
        OSError: a file cannot be read.
    """
    headers = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in paths:
            header = _read_header(path, read_facts(path))
            if "PixelData" in header:
                del header.PixelData
            headers.append(header)
    return tuple(sorted(headers, key=lambda header: str(header.SOPInstanceUID)))


def _load_slice(path: Path, facts: Facts) -> _Slice:
    if facts.number_of_frames != 1:
        raise Unusable("multi_frame", "a multi-frame image cannot be read as one slice")
    with warnings.catch_warnings():
        # pydicom's warnings quote attribute values, which may be a patient's.
        warnings.simplefilter("ignore")
        header = _read_header(path, facts)
        slope, intercept = rescale(header)
        container = _decode(header)
    stored = _stored_values(container, header)
    padding = _padding(container, stored, header)
    if padding is not None:
        # Padding may use bits outside BitsStored, and has to be written back as it was.
        stored = np.where(padding, container, stored)
    if "PixelData" in header:
        del header.PixelData
    return _Slice(
        values=(stored * np.float64(slope) + intercept).astype(np.float32),
        padding=padding,
        header=header,
        sha256=_pixel_sha256(stored, facts, slope, intercept),
    )


def _read_header(path: Path, facts: Facts) -> Dataset:
    try:
        header = dcmread(path, force=True)
        # Whether padding values are signed is decided by another element.
        correct_ambiguous_vr(header, header.original_encoding[1] is not False)
        agrees = (
            header.SOPClassUID == facts.sop_class_uid
            and header.SOPInstanceUID == facts.sop_instance_uid
            and header.SeriesInstanceUID == facts.series_instance_uid
            and header.StudyInstanceUID == facts.study_instance_uid
        )
    except _DAMAGED as error:
        raise Unusable("unreadable_header", "the data set cannot be parsed") from error
    if not agrees:
        raise Unusable("unreadable_header", "the data set can be parsed in two ways")
    return header


def rescale(header: Dataset) -> tuple[float, float]:
    """Slope and intercept of the modality (PS3.3 C.11.1); 1 and 0 where they need not be present.

    Raises:
        Unusable: `missing_rescale` for a CT image without them, `bad_rescale` for impossible ones.
    """
    try:
        slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
        if slope is None or intercept is None:
            if header.get("Modality") == "CT":
                raise Unusable("missing_rescale", "a CT image has no rescale slope or intercept")
            return 1.0, 0.0
        slope, intercept = float(slope), float(intercept)
    except _DAMAGED as error:
        raise Unusable("bad_rescale", "rescale slope or intercept is not a number") from error
    if not (math.isfinite(slope) and math.isfinite(intercept) and slope > 0):
        raise Unusable("bad_rescale", f"rescale slope {slope} or intercept {intercept} is out of range")
    return slope, intercept


def _decode(header: Dataset) -> NDArray[np.int32]:
    """The decoded pixel cells, signed as PixelRepresentation says; shape (rows, columns)."""
    try:
        cell_bits = int(header.BitsAllocated)
        monochrome = header.PhotometricInterpretation == "MONOCHROME2" and header.SamplesPerPixel == 1
        expected = int(header.Rows) * int(header.Columns) * cell_bits // 8
        signed = bool(header.PixelRepresentation)
        bits_stored, high_bit = int(header.BitsStored), int(header.HighBit)
    except _DAMAGED as error:
        raise Unusable("unsupported_pixels", "the image does not describe its pixels") from error
    if not monochrome or cell_bits not in (8, 16) or not 0 < bits_stored <= high_bit + 1 <= cell_bits:
        raise Unusable("unsupported_pixels", "pixels are not MONOCHROME2 of 8 or 16 bits")
    if not header.get("PixelData"):
        raise Unusable("missing_pixel_data", "the image has no pixel data")
    syntax = UID(header.file_meta.get("TransferSyntaxUID") or "1.2.840.10008.1.2")
    plugin = _decoder_plugin(syntax)
    if not syntax.is_compressed and len(header.PixelData) < expected:
        detail = f"the pixel data hold {len(header.PixelData)} of {expected} bytes"
        raise Unusable("truncated_pixel_data", detail)
    try:
        # Unused bits are kept: padding may use them.
        cells = pixel_array(header, raw=True, correct_unused_bits=False, decoding_plugin=plugin)
    except _DAMAGED as error:
        raise Unusable("undecodable_pixel_data", "the pixel data cannot be decoded") from error
    kind = f"{'i' if signed else 'u'}{cell_bits // 8}"
    if cells.dtype.itemsize != cell_bits // 8 or cells.shape != (header.Rows, header.Columns):
        raise Unusable("undecodable_pixel_data", "the decoded pixels have another size than announced")
    # A JPEG 2000 stream may disagree with the header about the sign; the header counts.
    native = cells.astype(cells.dtype.newbyteorder("="), copy=False)
    return native.view(kind).astype(np.int32)


def _decoder_plugin(syntax: UID) -> str:
    """The decoder to use; an empty string if the pixels are not compressed.

    GDCM ends the whole process on some damaged images, so it decodes only what nothing else can.
    """
    try:
        plugins = get_decoder(syntax).available_plugins
    except NotImplementedError:
        raise Unusable("no_decoder", "the transfer syntax is not one of images") from None
    if not syntax.is_compressed:
        return ""
    if not plugins:
        raise Unusable("no_decoder", f"no decoder for the transfer syntax {syntax.name}")
    # Pillow offers JPEG Extended, but reads its 8-bit form only.
    last = "pillow" if syntax == JPEGExtended12Bit else "gdcm"
    return min(plugins, key=lambda plugin: plugin == last)


def _stored_values(cells: NDArray[np.int32], header: Dataset) -> NDArray[np.int32]:
    """The pixel sample values: bits outside BitsStored (overlays, garbage) removed (PS3.5 8.1.1)."""
    bits = int(header.BitsStored)
    shift_up = 31 - int(header.HighBit)
    raised = cells << shift_up
    if header.PixelRepresentation:
        return raised >> (32 - bits)
    return (raised.view(np.uint32) >> np.uint32(32 - bits)).astype(np.int32)


def padding_range(header: Dataset) -> tuple[int, int] | None:
    """The lowest and highest pixel cell that is padding (PS3.3 C.7.5.1.1.2), if any is declared."""
    value = header.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limit = header.get("PixelPaddingRangeLimit")
    ends = (_as_cell(value, header), _as_cell(limit if isinstance(limit, int) else value, header))
    return min(ends), max(ends)


def _padding(
    cells: NDArray[np.int32], stored: NDArray[np.int32], header: Dataset
) -> NDArray[np.bool_] | None:
    declared = padding_range(header)
    if declared is None:
        return None
    low, high = declared
    padding = ((cells >= low) & (cells <= high)) | ((stored >= low) & (stored <= high))
    return padding if padding.any() else None


def _as_cell(value: int, header: Dataset) -> int:
    """A padding value read with the wrong sign (its VR is often wrong), as a pixel cell holds it."""
    bits = int(header.BitsAllocated)
    value &= (1 << bits) - 1
    return value - (1 << bits) if header.PixelRepresentation and value >> (bits - 1) else value


def _pixel_sha256(stored: NDArray[np.int32], facts: Facts, slope: float, intercept: float) -> str:
    """A hash of what the image shows and where: the same for every transfer syntax and patient name."""
    geometry = (
        facts.frame_of_reference_uid,
        facts.rows,
        facts.columns,
        facts.pixel_spacing,
        facts.image_position,
        facts.image_orientation,
        slope,
        intercept,
    )
    digest = hashlib.sha256(repr(geometry).encode())
    digest.update(np.ascontiguousarray(stored, "<i4").tobytes())
    return digest.hexdigest()
