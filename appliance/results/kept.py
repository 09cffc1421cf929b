"""What a derived image keeps of its source: everything that is still true of it."""

from __future__ import annotations

from copy import deepcopy

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.tag import BaseTag, Tag
from pydicom.uid import EnhancedMRImageStorage

from appliance.dicom.outcome import PrivateElement
from appliance.results.attributes import readable_element

_DROPPED_GROUPS = frozenset({0x0000, 0x0002, 0x4FFE, 0x7FE0, 0xFFFA, 0xFFFC})
_DROPPED = frozenset(
    {
        0x00080001,  # Length to End
        0x0008103F,  # Series Description Code Sequence
        0x00081111,  # Referenced Performed Procedure Step Sequence: it does not list this series
        0x00200242,  # SOP Instance UID of Concatenation Source
        0x00400244,  # Performed Procedure Step Start Date
        0x00400245,  # Performed Procedure Step Start Time
        0x00400250,  # Performed Procedure Step End Date
        0x00400251,  # Performed Procedure Step End Time
        0x00400253,  # Performed Procedure Step ID
        0x00400254,  # Performed Procedure Step Description
        0x00400280,  # Comments on the Performed Procedure Step
        0x00280104,  # Smallest Valid Pixel Value
        0x00280105,  # Largest Valid Pixel Value
        0x00280106,  # Smallest Image Pixel Value
        0x00280107,  # Largest Image Pixel Value
        0x00280108,  # Smallest Pixel Value in Series
        0x00280109,  # Largest Pixel Value in Series
        0x00280110,  # Smallest Image Pixel Value in Plane
        0x00280111,  # Largest Image Pixel Value in Plane
        0x00287FE0,  # Pixel Data Provider URL
        0x00880200,  # Icon Image Sequence: it shows the source
    }
)
_PALETTE = frozenset(range(0x00281101, 0x00281104)) | frozenset(range(0x00281199, 0x00281224))
"""Palette Color Lookup Tables: our pixels are written as the colours themselves."""

_PULSE_SEQUENCE = frozenset(
    tag_for_keyword(keyword)
    for keyword in (
        "PulseSequenceName",
        "MRAcquisitionType",
        "EchoPulseSequence",
        "MultipleSpinEcho",
        "MultiPlanarExcitation",
        "PhaseContrast",
        "TimeOfFlightContrast",
        "SteadyStatePulseSequence",
        "EchoPlanarPulseSequence",
        "SaturationRecovery",
        "SpectrallySelectedSuppression",
        "OversamplingPhase",
        "GeometryOfKSpaceTraversal",
        "RectilinearPhaseEncodeReordering",
        "SegmentedKSpaceTraversal",
        "CoverageOfKSpace",
        "NumberOfKSpaceTrajectories",
    )
)
"""What only an original or mixed multi-frame MR image may say (PS3.3 C.8.13.4)."""


def kept(source: Dataset, private: tuple[PrivateElement, ...], *, same_grid: bool) -> Dataset:
    """A copy of what the policy keeps of the source, without its pixels.

    Private elements repeat stale geometry, thumbnails and protocols: only those of `private` stay.
    """
    image = Dataset()
    multi_frame_mr = source.SOPClassUID == EnhancedMRImageStorage
    overlays = _separate_overlays(source) if same_grid else frozenset()
    for tag in list(source.keys()):
        overlay = tag.group & 0xFF01 == 0x6000
        if (
            _is_dropped(tag)
            or (multi_frame_mr and tag in _PULSE_SEQUENCE)
            or (overlay and tag.group not in overlays)
        ):
            continue
        element = readable_element(source, tag)
        if element is not None:
            image.add(element)
    for wanted in private:
        _copy_private(source, image, wanted)
    return image


def _is_dropped(tag: BaseTag) -> bool:
    return (
        tag.is_private
        or tag.group in _DROPPED_GROUPS
        or tag in _DROPPED
        or tag in _PALETTE
        or tag.element == 0
    )


def _separate_overlays(source: Dataset) -> frozenset[int]:
    """The groups of overlays that do not live in unused bits of the pixel data (PS3.3 C.9.2)."""
    return frozenset(group for group in range(0x6000, 0x6020, 2) if (group << 16 | 0x3000) in source)


def _copy_private(source: Dataset, image: Dataset, wanted: PrivateElement) -> None:
    """Copy one private element into the block that its creator has in the source (PS3.5 section 7.8.1)."""
    for block in range(0x10, 0x100):
        creator = (
            readable_element(source, Tag(wanted.group, block)) if Tag(wanted.group, block) in source else None
        )
        if creator is None or str(creator.value).strip() != wanted.creator:
            continue
        tag = Tag(wanted.group, block << 8 | wanted.element)
        element = readable_element(source, tag) if tag in source else None
        if element is not None:
            image.add(deepcopy(creator))
            image.add(element)
        return
