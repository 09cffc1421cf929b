"""Derived CT images: one for every source image, on its grid, in its units, with its bit depth.

A changed pixel needs a new SOP Instance UID (PS3.3 C.7.6.1.1.2); everything that describes patient, study,
acquisition and geometry is kept, and what would be stale, private or about the scanner alone is not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.tag import BaseTag

from appliance.dicom.codes import NOTICE, SOURCE_IMAGE, code_item
from appliance.dicom.outcome import Enhanced, Identity
from appliance.dicom.uids import image_series_uid, image_uid
from appliance.dicom.volume import Volume, padding_range, rescale
from appliance.domain.errors import GiveUp
from appliance.results.attributes import (
    acquisition_equipment,
    declare_private_scheme,
    local_time,
    processing_equipment,
    put,
    put_equipment,
    put_moment,
    quiet,
    readable_element,
    source_value,
    text,
)

_DROPPED_GROUPS = frozenset({0x0000, 0x0002, 0x4FFE, 0x7FE0, 0xFFFA, 0xFFFC})
_DROPPED = frozenset(
    {
        0x00080001,  # Length to End
        0x0008103F,  # Series Description Code Sequence
        0x00081111,  # Referenced Performed Procedure Step Sequence: it does not list this series
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


def derive_images(outcome: Enhanced, volume: Volume, identity: Identity) -> Iterator[Dataset]:
    """One derived image per source image, in the order of the volume.

    Raises:
        GiveUp: the model's voxels do not have the volume's shape or are not finite.
    """
    if outcome.voxels.shape != volume.voxels.shape:
        raise GiveUp(f"the model returned {outcome.voxels.shape} voxels for {volume.voxels.shape}")
    for index, source in enumerate(volume.sources):
        with quiet():
            image = _kept(source)
            image.add_new("PixelData", "OW", _pixel_data(outcome.voxels[index], volume, index))
            _describe(image, source, outcome, identity, volume.pixel_sha256[index])
        yield image


def _kept(source: Dataset) -> Dataset:
    """A copy of what the policy keeps of the source."""
    image = Dataset()
    overlays = _separate_overlays(source)
    for tag in list(source.keys()):
        overlay = tag.group & 0xFF01 == 0x6000
        if _is_dropped(tag) or (overlay and tag.group not in overlays):
            continue
        element = readable_element(source, tag)
        if element is not None:
            image.add(element)
    return image


def _is_dropped(tag: BaseTag) -> bool:
    return tag.is_private or tag.group in _DROPPED_GROUPS or tag in _DROPPED or tag.element == 0


def _separate_overlays(source: Dataset) -> frozenset[int]:
    """The groups of overlays that do not live in unused bits of the pixel data (PS3.3 C.9.2)."""
    return frozenset(group for group in range(0x6000, 0x6020, 2) if (group << 16 | 0x3000) in source)


def _pixel_data(voxels: NDArray[np.float32], volume: Volume, index: int) -> bytes:
    """Real-world values as the bytes of PixelData in the format of the source image."""
    source = volume.sources[index]
    signed = bool(source.PixelRepresentation)
    if not np.isfinite(voxels).all():
        raise GiveUp("the model returned values that are not finite")
    stored = _clip(_stored(voxels, source), int(source.BitsStored), signed)
    low, high = padding_range(source) or (1, 0)
    stored = _outside(stored, low, high, int(source.BitsStored), signed)
    if volume.padding is not None:
        mask = volume.padding[index]
        stored[mask] = _stored(volume.voxels[index][mask], source)
    cell = np.dtype(f"<{'i' if signed else 'u'}{int(source.BitsAllocated) // 8}")
    data = stored.astype(cell).tobytes()
    return data + b"\0" * (len(data) % 2)


def _stored(values: NDArray[np.float32], source: Dataset) -> NDArray[np.int64]:
    slope, intercept = rescale(source)
    return np.rint((values.astype(np.float64) - intercept) / slope).astype(np.int64)


def _limits(bits: int, signed: bool) -> tuple[int, int]:
    low = -(1 << (bits - 1)) if signed else 0
    return low, low + (1 << bits) - 1


def _clip(stored: NDArray[np.int64], bits: int, signed: bool) -> NDArray[np.int64]:
    return np.clip(stored, *_limits(bits, signed))


def _outside(stored: NDArray[np.int64], low: int, high: int, bits: int, signed: bool) -> NDArray[np.int64]:
    """Move values that would read as padding to the next value that does not."""
    above = high + 1 if high + 1 <= _limits(bits, signed)[1] else low - 1
    return np.where((stored >= low) & (stored <= high), above, stored)


def _describe(
    image: Dataset, source: Dataset, outcome: Enhanced, identity: Identity, pixel_sha256: str
) -> None:
    moment = local_time(source, identity.created)
    digest = identity.pipeline_digest
    put(image, "SOPInstanceUID", image_uid(str(source.SOPInstanceUID), pixel_sha256, digest))
    put(image, "SeriesInstanceUID", image_series_uid(str(source.SeriesInstanceUID), digest))
    put(image, "SeriesNumber", 9000 + _series_number(source) % 1000)
    _put_series_description(image, source, outcome.prefix)
    _put_image_type(image, source)
    put_moment(image, "Series", local_time(source, identity.series_begun or identity.created))
    for name in ("Content", "InstanceCreation"):
        put_moment(image, name, moment)
    _put_derivation(image, source, outcome)
    contributors = list(source_value(source, "ContributingEquipmentSequence") or ())
    put(
        image,
        "ContributingEquipmentSequence",
        [*contributors, acquisition_equipment(source), processing_equipment(identity, moment)],
    )
    put_equipment(image, identity)
    declare_private_scheme(image, outcome.codes)
    put(image, "ContentQualification", "RESEARCH")
    put(image, "ImageComments", NOTICE)


def _put_derivation(image: Dataset, source: Dataset, outcome: Enhanced) -> None:
    earlier = str(source_value(source, "DerivationDescription") or "").strip()
    description = text(outcome.description, 1024)
    if earlier:
        # The source's text keeps its own character set, so it is copied rather than checked.
        image.DerivationDescription = f"{earlier}; {description}"[:1024]
    else:
        put(image, "DerivationDescription", description)
    put(image, "DerivationCodeSequence", [code_item(code) for code in outcome.codes])
    reference = Dataset()
    put(reference, "ReferencedSOPClassUID", source.SOPClassUID)
    put(reference, "ReferencedSOPInstanceUID", source.SOPInstanceUID)
    put(reference, "SpatialLocationsPreserved", "YES")
    put(reference, "PurposeOfReferenceCodeSequence", [code_item(SOURCE_IMAGE)])
    put(image, "SourceImageSequence", [reference])


def _put_image_type(image: Dataset, source: Dataset) -> None:
    values = source_value(source, "ImageType") or []
    values = [values] if isinstance(values, str) else list(values)
    # The source's further values are kept as they are, valid or not.
    image.ImageType = ["DERIVED", "SECONDARY", *values[2:]]


def _put_series_description(image: Dataset, source: Dataset, prefix: str) -> None:
    """A prefix, so that hanging rules that test how a description starts never swap the original."""
    described = str(source_value(source, "SeriesDescription") or "")
    image.SeriesDescription = f"{text(prefix, 16)} {described}"[:64].strip()


def _series_number(source: Dataset) -> int:
    number = source_value(source, "SeriesNumber")
    return int(number) if isinstance(number, int) else 0
