"""The card of a positive finding: a Secondary Capture image that every viewer shows.

Nothing about the patient is drawn: viewers overlay it, and burned-in names cannot be removed again.
"""

from __future__ import annotations

import numpy as np
from highdicom.sc import SCImage
from pydicom import Dataset

from appliance.dicom.codes import NOTICE, NOTICE_SHORT, SOURCE_IMAGE, code_item
from appliance.dicom.outcome import Findings, Identity
from appliance.dicom.uids import result_series_uid, result_uid
from appliance.dicom.volume import Volume
from appliance.results.attributes import (
    copy_patient_and_study,
    local_time,
    put,
    put_origin,
    quiet,
    readable_element,
    reference_to,
    revised_number,
    revised_text,
    source_value,
    text,
)
from appliance.results.card import Card, draw_card

SERIES_NUMBER = 9103

_SERIES_TAGS = (0x00180015, 0x00200060, 0x00400275)
"""Body Part Examined, Laterality, Request Attributes Sequence: copied from the source series."""


def secondary_capture(outcome: Findings, volume: Volume, identity: Identity) -> Dataset:
    """The card as a Secondary Capture Image (PS3.3 A.8.1), RGB with 8 bits."""
    source = volume.sources[outcome.key_slice]
    series = str(source.SeriesInstanceUID)
    digest, revision = identity.pipeline_digest, identity.revision
    moment = local_time(source, identity.created)
    pixels = draw_card(_card(outcome, volume, identity))
    with quiet():
        capture = SCImage(
            pixel_array=pixels,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=("L", "P"),
            study_instance_uid=str(source.StudyInstanceUID),
            series_instance_uid=result_series_uid("sc", series, digest, revision),
            series_number=revised_number(SERIES_NUMBER, revision),
            sop_instance_uid=result_uid("sc", series, volume.pixel_sha256, digest, revision),
            instance_number=1,
            manufacturer=text(identity.station.manufacturer, 64),
            series_description=revised_text(NOTICE_SHORT, revision),
            content_qualification="RESEARCH",
        )
        copy_patient_and_study(source, capture)
        _put_series(capture, source)
        put_origin(capture, source, identity)
        put(capture, "DateOfSecondaryCapture", moment.strftime("%Y%m%d"))
        put(capture, "TimeOfSecondaryCapture", moment.strftime("%H%M%S.%f"))
        _put_image(capture, volume, outcome)
    return capture


def _put_series(capture: Dataset, source: Dataset) -> None:
    for tag in _SERIES_TAGS:
        element = readable_element(source, tag) if tag in source else None
        if element is not None:
            capture.add(element)
    if "BodyPartExamined" not in capture and "Laterality" not in capture:
        put(capture, "Laterality", None)


def _put_image(capture: Dataset, volume: Volume, outcome: Findings) -> None:
    reference = reference_to(volume, outcome.key_slice)
    put(reference, "PurposeOfReferenceCodeSequence", [code_item(SOURCE_IMAGE)])
    put(capture, "SourceImageSequence", [reference])
    put(capture, "ImageType", ["DERIVED", "SECONDARY", "OTHER"])
    put(capture, "ConversionType", "WSD")
    put(capture, "BurnedInAnnotation", "YES")
    # The card is a page with two pictures on it: no direction holds for all of it.
    put(capture, "PatientOrientation", None)
    put(capture, "DerivationDescription", text(f"Summary card: {outcome.finding.meaning}", 1024))
    put(capture, "ImageComments", NOTICE)


def _card(outcome: Findings, volume: Volume, identity: Identity) -> Card:
    source = volume.sources[outcome.key_slice]
    moment = local_time(source, identity.created)
    number = source_value(source, "InstanceNumber") or outcome.key_slice + 1
    heat = None if outcome.heat is None else np.asarray(outcome.heat[outcome.key_slice], np.float32)
    return Card(
        finding=outcome.finding.meaning,
        urgency=outcome.urgency.meaning,
        score=outcome.score,
        threshold=outcome.threshold,
        calibrated=outcome.calibrated,
        place=f"image {number}, {len(volume.sources)} slices",
        model=f"{identity.model.title} {identity.model.version}",
        checksum=identity.model.sha256[:12],
        time=moment.strftime("%Y-%m-%d %H:%M:%S %z").strip(),
        hounsfield=volume.voxels[outcome.key_slice],
        heat=heat,
        aspect=volume.spacing[1] / volume.spacing[2],
    )
