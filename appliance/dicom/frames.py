"""Frames of one object: where each lies, and what its values mean.

Multi-frame CT and MR say so in functional groups (PS3.3 C.7.6.16), per frame or shared by all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pydicom import Dataset
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage, UltrasoundMultiFrameImageStorage

from appliance.dicom.header import Facts
from appliance.dicom.pixels import Scale, sample_limits
from appliance.dicom.unusable import DAMAGED, Unusable

ENHANCED = frozenset({str(EnhancedCTImageStorage), str(EnhancedMRImageStorage)})
"""Multi-frame objects with functional groups."""
MULTI_FRAME = ENHANCED | {str(UltrasoundMultiFrameImageStorage)}
MOST_FRAMES = 20_000


def functional_group(header: Dataset, frame: int, keyword: str) -> Dataset | None:
    """The item of a functional group macro for frame `frame` (from 1): its own, or the shared one."""
    for groups in (
        header.PerFrameFunctionalGroupsSequence[frame - 1 : frame]
        if "PerFrameFunctionalGroupsSequence" in header
        else (),
        header.get("SharedFunctionalGroupsSequence") or (),
    ):
        for group in groups[:1]:
            items = group.get(keyword)
            if items:
                item: Dataset = items[0]
                return item
    return None


def frames_of(header: Dataset, facts: Facts) -> Sequence[Facts]:
    """The facts of each frame, as if it were an image of its own.

    Raises:
        Unusable: `multi_frame` for objects whose frames cannot be read as slices, or `missing_geometry`
            where a frame does not say where it lies.
    """
    count = facts.number_of_frames
    if facts.sop_class_uid not in MULTI_FRAME or not 0 < count <= MOST_FRAMES:
        raise Unusable("multi_frame", "a multi-frame image of this kind cannot be read as slices")
    if facts.sop_class_uid not in ENHANCED:
        return [replace(facts, number_of_frames=1)] * count
    try:
        if len(header.PerFrameFunctionalGroupsSequence) != count:
            raise Unusable("missing_geometry", "the object does not describe each of its frames")
        return [_frame_facts(header, facts, frame) for frame in range(1, count + 1)]
    except DAMAGED as error:
        raise Unusable("missing_geometry", "a frame does not say where it lies") from error


def _frame_facts(header: Dataset, facts: Facts, frame: int) -> Facts:
    position = functional_group(header, frame, "PlanePositionSequence")
    orientation = functional_group(header, frame, "PlaneOrientationSequence")
    measures = functional_group(header, frame, "PixelMeasuresSequence")
    if position is None or orientation is None or measures is None:
        raise Unusable("missing_geometry", "a frame does not say where it lies")
    thickness = measures.get("SliceThickness")
    return replace(
        facts,
        number_of_frames=1,
        image_position=_numbers(position.ImagePositionPatient, 3),
        image_orientation=_numbers(orientation.ImageOrientationPatient, 6),
        pixel_spacing=_numbers(measures.PixelSpacing, 2),
        slice_thickness=None if thickness is None else float(thickness),
    )


def _numbers(values: Sequence[float], count: int) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise Unusable("missing_geometry", "a frame does not say where it lies")
    return numbers


def has_frames(header: Dataset) -> bool:
    """Whether an object consists of frames, so that a reference to a slice has to name one."""
    return str(header.SOPClassUID) in MULTI_FRAME


def whole_of(header: Dataset) -> str:
    """What names the whole that an object is, or is one part of (a concatenation, PS3.3 C.7.6.16.2.2.4)."""
    return str(header.get("ConcatenationUID") or header.SOPInstanceUID)


def part_of(header: Dataset) -> int:
    """The number of an object in its concatenation, from 1."""
    return int(header.get("InConcatenationNumber") or 1)


def check_parts(headers: Iterable[Dataset]) -> None:
    """See that every concatenation is complete.

    Raises:
        Unusable: `concatenation`, where a part is missing, there twice, or does not say which it is.
    """
    parts: dict[str, list[Dataset]] = {}
    for header in headers:
        parts.setdefault(whole_of(header), []).append(header)
    try:
        for those in parts.values():
            if "ConcatenationUID" not in those[0]:
                continue
            total = those[0].get("InConcatenationTotalNumber")
            if total is None or sorted(map(part_of, those)) != list(range(1, int(total) + 1)):
                raise Unusable("concatenation", f"{len(those)} of {total} parts of an object are there")
    except DAMAGED as error:
        raise Unusable("concatenation", "an object does not say which part it is") from error


def scale_of(header: Dataset, frame: int = 1) -> Scale:
    """The modality's scale (PS3.3 C.11.1) of a frame; 1 and 0 where it need not be present.

    Raises:
        Unusable: `missing_rescale` for a CT image without it, `bad_rescale` for an impossible one.
    """
    try:
        group = functional_group(header, frame, "PixelValueTransformationSequence") or header
        slope, intercept = group.get("RescaleSlope"), group.get("RescaleIntercept")
        mirror = (
            sum(sample_limits(header)) if header.get("PhotometricInterpretation") == "MONOCHROME1" else None
        )
        if slope is None or intercept is None:
            if header.get("Modality") == "CT":
                raise Unusable("missing_rescale", "a CT image has no rescale slope or intercept")
            return Scale(1.0, 0.0, mirror)
        slope, intercept = float(slope), float(intercept)
    except DAMAGED as error:
        raise Unusable("bad_rescale", "rescale slope or intercept is not a number") from error
    if not (math.isfinite(slope) and math.isfinite(intercept) and slope > 0):
        raise Unusable("bad_rescale", f"rescale slope {slope} or intercept {intercept} is out of range")
    return Scale(slope, intercept, mirror)
