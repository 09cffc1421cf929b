"""Pixels of an image: decoding, padding, and the way between sample values and real-world values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, JPEGExtended12Bit

from appliance.dicom.ultrasound import ULTRASOUND, tissue
from appliance.dicom.unusable import DAMAGED, Unusable

_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", "PALETTE COLOR")
_GREY_TOLERANCE = 12
"""Colour components of a grey pixel differ by less than this after lossy compression."""
_FAR_OUTSIDE = float(1 << 40)
"""Beyond what any image can hold, and within what an integer can."""


@dataclass(frozen=True)
class Samples:
    """The decoded pixels of one object.

    `stored` are the pixel sample values, shape (frames, rows, columns); where `untouched` is True they are
    whole pixel cells, and belong to padding or to what is not grey tissue of an ultrasound image. Of an
    image in colour, `stored` is the brightness and `colour` its RGB, shape (frames, rows, columns, 3).
    """

    stored: NDArray[np.int32]
    untouched: NDArray[np.bool_] | None
    colour: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Scale:
    """The way from sample values to real-world values (PS3.3 C.11.1) and back.

    `mirror` is the sum of the lowest and the highest sample value of a MONOCHROME1 image, whose values are
    turned round, so that what is bright has high values in every volume; None for others.
    """

    slope: float
    intercept: float
    mirror: int | None = None

    def values(self, stored: NDArray[np.int32]) -> NDArray[np.float32]:
        """Real-world values of sample values."""
        upright = stored if self.mirror is None else self.mirror - stored
        return (upright * np.float64(self.slope) + self.intercept).astype(np.float32)

    def stored(self, values: NDArray[np.float32]) -> NDArray[np.int64]:
        """The nearest sample values, not clipped to what the image can hold."""
        exact = (values.astype(np.float64) - self.intercept) / self.slope
        upright = np.rint(np.clip(exact, -_FAR_OUTSIDE, _FAR_OUTSIDE)).astype(np.int64)
        return upright if self.mirror is None else self.mirror - upright


def sample_limits(header: Dataset) -> tuple[int, int]:
    """The lowest and the highest sample value that fit into Bits Stored."""
    bits = int(header.BitsStored)
    low = -(1 << (bits - 1)) if header.PixelRepresentation else 0
    return low, low + (1 << bits) - 1


def decode(header: Dataset) -> Samples:
    """Decode the pixels of an object that still has them.

    Raises:
        Unusable: `unsupported_pixels`, `missing_pixel_data`, `truncated_pixel_data`, `no_decoder`,
            `undecodable_pixel_data` or `no_tissue_region`.
    """
    in_colour = header.get("PhotometricInterpretation") in _COLOURS
    samples = _decode_colour(header) if in_colour else _decode_grey(header)
    if header.get("SOPClassUID") not in ULTRASOUND:
        return samples
    elsewhere = np.broadcast_to(~tissue(header), samples.stored.shape)
    untouched = elsewhere if samples.untouched is None else samples.untouched | elsewhere
    return Samples(samples.stored, untouched, samples.colour)


def _decode_grey(header: Dataset) -> Samples:
    cells = _cells(header)
    stored = _stored_values(cells, header)
    padding = _padding(cells, stored, header)
    if padding is not None:
        # Padding may use bits outside BitsStored, and has to be written back as it was.
        stored = np.where(padding, cells, stored)
    return Samples(stored, padding, None)


def _decode_colour(header: Dataset) -> Samples:
    """Ultrasound in colour: what is grey in it can be analysed; flow, text and marks stay as they are."""
    if header.get("SOPClassUID") not in ULTRASOUND or (
        header.get("BitsAllocated"),
        header.get("BitsStored"),
    ) != (8, 8):
        raise Unusable("unsupported_pixels", "colour is read of ultrasound images with 8 bits only")
    plugin = _checked_plugin(header)
    try:
        colour = pixel_array(header, decoding_plugin=plugin)
        if header.PhotometricInterpretation == "PALETTE COLOR":
            table = apply_color_lut(colour, header)
            colour = table if table.dtype == np.uint8 else (table >> 8).astype(np.uint8)
        colour = colour.reshape(_frames(header), int(header.Rows), int(header.Columns), 3)
    except DAMAGED as error:
        raise Unusable("undecodable_pixel_data", "the pixel data cannot be decoded") from error
    if colour.dtype != np.uint8:
        raise Unusable("undecodable_pixel_data", "the decoded colours do not have 8 bits")
    spread = colour.max(axis=-1).astype(np.int16) - colour.min(axis=-1)
    brightness = np.rint(colour.mean(axis=-1, dtype=np.float32)).astype(np.int32)
    return Samples(brightness, spread >= _GREY_TOLERANCE, colour)


def _frames(header: Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1)


def _cells(header: Dataset) -> NDArray[np.int32]:
    """The decoded pixel cells, signed as PixelRepresentation says; shape (frames, rows, columns)."""
    try:
        cell_bits = int(header.BitsAllocated)
        monochrome = header.PhotometricInterpretation in _MONOCHROME and header.SamplesPerPixel == 1
        shape = (_frames(header), int(header.Rows), int(header.Columns))
        signed = bool(header.PixelRepresentation)
        bits_stored, high_bit = int(header.BitsStored), int(header.HighBit)
    except DAMAGED as error:
        raise Unusable("unsupported_pixels", "the image does not describe its pixels") from error
    if not monochrome or cell_bits not in (8, 16) or not 0 < bits_stored <= high_bit + 1 <= cell_bits:
        raise Unusable("unsupported_pixels", "pixels are not monochrome with 8 or 16 bits")
    plugin = _checked_plugin(header)
    try:
        # Unused bits are kept: padding may use them.
        cells = pixel_array(header, raw=True, correct_unused_bits=False, decoding_plugin=plugin)
    except DAMAGED as error:
        raise Unusable("undecodable_pixel_data", "the pixel data cannot be decoded") from error
    if cells.dtype.itemsize != cell_bits // 8 or cells.shape != (shape[1:] if shape[0] == 1 else shape):
        raise Unusable("undecodable_pixel_data", "the decoded pixels have another size than announced")
    # A JPEG 2000 stream may disagree with the header about the sign; the header counts.
    native = cells.astype(cells.dtype.newbyteorder("="), copy=False).reshape(shape)
    return native.view(f"{'i' if signed else 'u'}{cell_bits // 8}").astype(np.int32)


def _checked_plugin(header: Dataset) -> str:
    """The decoder to use, once it is certain that the pixel data are there in full."""
    if not header.get("PixelData"):
        raise Unusable("missing_pixel_data", "the image has no pixel data")
    syntax = UID(header.file_meta.get("TransferSyntaxUID") or "1.2.840.10008.1.2")
    plugin = _decoder_plugin(syntax)
    if not syntax.is_compressed:
        try:
            bits = (
                int(header.Rows)
                * int(header.Columns)
                * int(header.SamplesPerPixel)
                * int(header.BitsAllocated)
            )
            halved = header.PhotometricInterpretation == "YBR_FULL_422"
            expected = _frames(header) * bits // 8 * (2 if halved else 3) // 3
        except DAMAGED as error:
            raise Unusable("unsupported_pixels", "the image does not describe its pixels") from error
        if len(header.PixelData) < expected:
            detail = f"the pixel data hold {len(header.PixelData)} of {expected} bytes"
            raise Unusable("truncated_pixel_data", detail)
    return plugin


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
    raised = cells << (31 - int(header.HighBit))
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
