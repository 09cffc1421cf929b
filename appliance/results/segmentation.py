"""The mask of a finding as a binary Segmentation on the frames of its source (PS3.3 A.51)."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationTypeValues,
    SegmentDescription,
)
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.sr.codedict import codes

from appliance.dicom.codes import NOTICE, NOTICE_SHORT
from appliance.dicom.frames import functional_group, has_frames
from appliance.dicom.outcome import Findings, Identity
from appliance.dicom.uids import derived_uid, result_series_uid, result_uid
from appliance.dicom.volume import Volume
from appliance.domain.errors import GiveUp
from appliance.results.attributes import (
    copy_patient_and_study,
    put,
    put_origin,
    quiet,
    readable_element,
    revised_number,
    revised_text,
    text,
)
from appliance.results.content import FAMILY, concept, evidence, tracking

_log = logging.getLogger(__name__)

SERIES_NUMBER = 9102

_BODY_PART = 0x00180015

# What places the source in space: all that highdicom needs of it beside its identifiers.
_GEOMETRY = (
    "Modality",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "DimensionIndexSequence",
    "DimensionOrganizationSequence",
)


def segmentations(outcome: Findings, volume: Volume, identity: Identity) -> Iterator[Dataset]:
    """One Segmentation for a stack of images, or for each multi-frame object; none of an empty mask.

    A mask over several images that have no place in space cannot be told by highdicom: it is logged.

    Raises:
        GiveUp: the mask does not have the volume's shape.
    """
    mask = outcome.mask
    if mask is None:
        return
    if mask.shape != volume.voxels.shape:
        raise GiveUp(f"the model returned a mask of {mask.shape} for {volume.voxels.shape}")
    for indices in _by_grid(volume):
        if mask[indices].any():
            if len(indices) > 1 and "FrameOfReferenceUID" not in volume.sources[indices[0]]:
                _log.warning("no_segmentation", extra={"reason": "frames without a place in space"})
                continue
            with quiet():
                yield _segmentation(outcome, mask[indices], volume, indices, identity)


def _by_grid(volume: Volume) -> list[list[int]]:
    """The slices that one Segmentation can cover: all single images, or the frames of one object."""
    objects: dict[int, list[int]] = {}
    for index, source in enumerate(volume.sources):
        objects.setdefault(id(source) if has_frames(source) else 0, []).append(index)
    return [sorted(indices, key=lambda index: volume.frames[index]) for indices in objects.values()]


def _segmentation(
    outcome: Findings, mask: NDArray[np.bool_], volume: Volume, indices: list[int], identity: Identity
) -> Dataset:
    headers = list({id(volume.sources[index]): volume.sources[index] for index in indices}.values())
    source, hashes = headers[0], [volume.pixel_sha256[index] for index in indices]
    series = str(source.SeriesInstanceUID)
    digest, edition = identity.pipeline_digest, identity.edition
    station = identity.station
    result = Segmentation(
        source_images=_sources(headers),
        pixel_array=mask.astype(np.uint8),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment(outcome, source, identity)],
        series_instance_uid=result_series_uid("seg", series, digest, edition),
        series_number=revised_number(SERIES_NUMBER, identity.revision),
        sop_instance_uid=result_uid("seg", series, hashes, digest, edition),
        instance_number=1,
        manufacturer=text(station.manufacturer, 64),
        manufacturer_model_name=text(station.product, 64),
        software_versions=text(station.version, 64),
        device_serial_number=text(station.serial, 64),
        content_description=NOTICE_SHORT,
        content_label="AI_FINDING",
        omit_empty_frames=True,
        series_description=revised_text(NOTICE_SHORT, identity),
    )
    dimensions = derived_uid("dimensions", str(result.SOPInstanceUID))  # highdicom's are random
    for item in (*result.DimensionOrganizationSequence, *result.DimensionIndexSequence):
        put(item, "DimensionOrganizationUID", dimensions)
    copy_patient_and_study(source, result)
    put_origin(result, source, identity)
    put(result, "ContentQualification", "RESEARCH")
    put(result, "ImageComments", NOTICE)
    _put_body_part(result, source)
    return result


def _segment(outcome: Findings, source: Dataset, identity: Identity) -> SegmentDescription:
    model, (uid, identifier) = identity.model, tracking(outcome.finding, source, identity)
    return SegmentDescription(
        segment_number=1,
        segment_label=text(outcome.finding.meaning, 64),
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=concept(outcome.finding),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=text(model.title, 64),
            family=concept(FAMILY),
            version=text(model.version, 64),
            source=text(model.manufacturer, 64),
        ),
        tracking_uid=uid,
        tracking_id=identifier,
        anatomic_regions=[concept(outcome.site)],
    )


def _sources(headers: list[Dataset]) -> list[Dataset]:
    sources = evidence(headers)
    for source, header in zip(sources, headers, strict=True):
        for keyword in _GEOMETRY:
            tag = tag_for_keyword(keyword)
            element = readable_element(header, tag) if tag is not None and tag in header else None
            if element is not None:
                source.add(element)
        if "PerFrameFunctionalGroupsSequence" in source:
            _share_grid(source)
    return sources


def _share_grid(source: Dataset) -> None:
    """Name spacing and orientation, which are the same in all frames of a volume, where highdicom looks."""
    shared = source.SharedFunctionalGroupsSequence[0]
    for keyword in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
        group = functional_group(source, 1, keyword)
        if group is not None:
            put(shared, keyword, [group])


def _put_body_part(result: Dataset, source: Dataset) -> None:
    element = readable_element(source, _BODY_PART) if _BODY_PART in source else None
    if element is not None:
        result.add(element)
    if "FrameOfReferenceUID" not in source:
        put(result, "PatientOrientation", None)
