"""Whether pixels, frames and segments are as many and as large as an image says (PS3.3 C.7.6.3, C.8.20)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from pydicom import Dataset
from pydicom.uid import SegmentationStorage

from appliance.results.conformance_rules import FRAME_GROUPS, PLACE_GROUPS
from appliance.results.conformance_values import Problem

_SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1, "RGB": 3}
_SIZES = (1, 8, 16, 32)


def pixel_problems(image: Dataset, source: Dataset | None) -> Iterator[Problem]:
    """What contradicts itself in an image whose attributes are each valid.

    Bits that its source has the same way, odd or not, are not ours.
    """
    rows, columns, samples = int(image.Rows), int(image.Columns), int(image.SamplesPerPixel)
    allocated, stored = int(image.BitsAllocated), int(image.BitsStored)
    frames = int(image.get("NumberOfFrames") or 1)
    if not rows or not columns:
        yield "Rows", "no pixels"
    if _SAMPLES.get(image.PhotometricInterpretation) != samples:
        yield "PhotometricInterpretation", "does not fit Samples per Pixel"
    if samples > 1 and image.get("PlanarConfiguration") != 0:
        yield "PlanarConfiguration", "not by pixel"
    if allocated not in _SIZES:
        yield "BitsAllocated", "not a size that we write"
        return
    if not 0 < stored <= allocated:
        yield "BitsStored", "does not fit Bits Allocated"
    if image.HighBit != stored - 1 and not _same(image, source, "HighBit", "BitsStored"):
        yield "HighBit", "does not fit Bits Stored"
    if image.PixelRepresentation not in (0, 1):
        yield "PixelRepresentation", "not a defined value"
    expected = (rows * columns * samples * frames * allocated + 7) // 8
    data = image["PixelData"]
    if len(data.value) != expected + expected % 2:
        yield "PixelData", "wrong length"
    elif allocated > stored and allocated in (16, 32):
        yield from _range(data.value, allocated, stored, signed=image.PixelRepresentation == 1)
    # Values of more than a byte are words (PS3.5 A.2).
    if allocated > 8 and data.VR == "OB":
        yield "PixelData", "wrong value representation"
    yield from _frame_problems(image, frames, source)


def _same(image: Dataset, source: Dataset | None, *keywords: str) -> bool:
    return source is not None and all(image.get(one) == source.get(one) for one in keywords)


def _range(data: bytes, allocated: int, stored: int, *, signed: bool) -> Iterator[Problem]:
    values = np.frombuffer(data, f"<{'i' if signed else 'u'}{allocated // 8}")
    lowest, most = (-(1 << stored - 1), (1 << stored - 1) - 1) if signed else (0, (1 << stored) - 1)
    if values.size and (values.max() > most or (signed and values.min() < lowest)):
        yield "PixelData", "values beyond Bits Stored"


def _frame_problems(image: Dataset, frames: int, source: Dataset | None) -> Iterator[Problem]:
    wanted = FRAME_GROUPS.get(str(image.SOPClassUID))
    if wanted is None:
        return
    groups = image.get("PerFrameFunctionalGroupsSequence") or ()
    if len(groups) != frames:
        yield "NumberOfFrames", "does not fit the functional groups"
    shared = (image.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    placed = PLACE_GROUPS if "FrameOfReferenceUID" in image else ()
    of_source = () if source is None else _groups_of(source)
    for keyword in dict.fromkeys((*wanted, *placed, *of_source)):
        if not shared.get(keyword) and not all(group.get(keyword) for group in groups):
            yield keyword, "not there for each frame"
    if image.SOPClassUID == SegmentationStorage:
        yield from _segment_problems(image, shared, groups)


def _groups_of(source: Dataset) -> Iterator[str]:
    """The functional groups of the first frame of a source, by keyword: what is derived has them too."""
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in (source.get(keyword) or ())[:1]:
            yield from (element.keyword for element in group if element.keyword and element.value)


def _segment_problems(image: Dataset, shared: Dataset, groups: Sequence[Dataset]) -> Iterator[Problem]:
    numbers = [segment.get("SegmentNumber") for segment in image.get("SegmentSequence") or ()]
    if numbers != list(range(1, len(numbers) + 1)):
        yield "SegmentSequence", "not numbered from 1"
    for group in groups:
        of_frame = group.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
        if not of_frame or of_frame[0].get("ReferencedSegmentNumber") not in numbers:
            yield "SegmentIdentificationSequence", "a frame of no segment"
            return
    if image.get("SegmentationType") == "BINARY" and image.BitsAllocated != 1:
        yield "BitsAllocated", "not 1 for a binary mask"
