"""The card of an outcome: a Secondary Capture image that every viewer shows.

Nothing about the patient is drawn: viewers overlay it, and burned-in names cannot be removed again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from highdicom.sc import SCImage
from pydicom import Dataset

from appliance.dicom.codes import NOTICE, NOTICE_SHORT, SOURCE_IMAGE, code_item
from appliance.dicom.frames import has_frames
from appliance.dicom.outcome import Findings, Identity, NotAnalysed, Subject
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
from appliance.results.card import Card, Picture, Score, draw_card
from appliance.results.card_design import DESIGNS, Tone
from appliance.results.display import edges_of, overlay, picture, window_of

SERIES_NUMBER = 9103
CARD_TITLE = "Summary card: "
"""How Derivation Description (0008,2111) begins."""

_SERIES_TAGS = (0x00180015, 0x00200060, 0x00400275)
"""Body Part Examined, Laterality, Request Attributes Sequence: copied from the source series."""


def secondary_capture(outcome: Findings, volume: Volume, identity: Identity) -> Dataset:
    """The card of an answer as a Secondary Capture Image (PS3.3 A.8.1), RGB with 8 bits."""
    with quiet():
        capture = _capture(
            _finding_card(outcome, volume, identity),
            volume.sources[outcome.key_slice],
            volume.pixel_sha256,
            outcome.finding.meaning,
            identity,
        )
        reference = reference_to(volume, outcome.key_slice)
        put(reference, "PurposeOfReferenceCodeSequence", [code_item(SOURCE_IMAGE)])
        put(capture, "SourceImageSequence", [reference])
    return capture


def unanalysed_capture(
    outcome: NotAnalysed, subject: Subject, sources: Sequence[Dataset], identity: Identity
) -> Dataset:
    """The card that says that there is no answer, and why."""
    uids = [str(source.SOPInstanceUID) for source in sources]
    card = Card(
        heading=f"Not analysed: {subject.finding.meaning}",
        remark="No answer. This is not a negative result.",
        tone=Tone.UNKNOWN,
        pictures=(),
        score=None,
        reason=f"Reason: {text(outcome.detail, 600)}",
        **_origin(sources[0], identity),
    )
    with quiet():
        return _capture(card, sources[0], uids, subject.finding.meaning, identity)


def _capture(card: Card, source: Dataset, hashes: Sequence[str], finding: str, identity: Identity) -> Dataset:
    series = str(source.SeriesInstanceUID)
    digest, edition = identity.pipeline_digest, identity.edition
    moment = local_time(source, identity.created)
    # Another design is another image, so the names of both differ.
    purpose = f"sc-{identity.card_design}"
    capture = SCImage(
        pixel_array=draw_card(card, DESIGNS[identity.card_design]),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        study_instance_uid=str(source.StudyInstanceUID),
        series_instance_uid=result_series_uid(purpose, series, digest, edition),
        series_number=revised_number(SERIES_NUMBER, identity.revision),
        sop_instance_uid=result_uid(purpose, series, hashes, digest, edition),
        instance_number=1,
        manufacturer=text(identity.station.manufacturer, 64),
        series_description=revised_text(NOTICE_SHORT, identity),
        content_qualification="RESEARCH",
    )
    copy_patient_and_study(source, capture)
    _put_series(capture, source)
    put_origin(capture, source, identity)
    put(capture, "DateOfSecondaryCapture", moment.strftime("%Y%m%d"))
    put(capture, "TimeOfSecondaryCapture", moment.strftime("%H%M%S.%f"))
    put(capture, "ImageType", ["DERIVED", "SECONDARY", "OTHER"])
    put(capture, "ConversionType", "WSD")
    put(capture, "BurnedInAnnotation", "YES")
    # The card is a page with two pictures on it: no direction holds for all of it.
    put(capture, "PatientOrientation", None)
    put(capture, "DerivationDescription", text(f"{CARD_TITLE}{finding}", 1024))
    put(capture, "ImageComments", NOTICE)
    return capture


def _put_series(capture: Dataset, source: Dataset) -> None:
    for tag in _SERIES_TAGS:
        element = readable_element(source, tag) if tag in source else None
        if element is not None:
            capture.add(element)
    if "BodyPartExamined" not in capture and "Laterality" not in capture:
        put(capture, "Laterality", None)


def _finding_card(outcome: Findings, volume: Volume, identity: Identity) -> Card:
    key, source = outcome.key_slice, volume.sources[outcome.key_slice]
    plain = picture(volume, key)
    heated = plain if outcome.heat is None else overlay(plain, np.asarray(outcome.heat[key], np.float32))
    aspect = volume.spacing[1] / volume.spacing[2] if all(volume.spacing[1:]) else 1.0
    titles = (
        _place(outcome, volume),
        "Heat map" if outcome.heat is not None else "No heat map",
    )
    pictures = tuple(
        Picture(title, pixels, edges_of(volume, key), aspect, _window(volume, key))
        for title, pixels in zip(titles, (plain, heated), strict=True)
    )
    meaning = outcome.finding.meaning
    return Card(
        heading=f"Suspected: {meaning}" if outcome.positive else f"Not suspected: {meaning}",
        remark=outcome.urgency.meaning if outcome.positive else "Below the threshold. Does not rule it out.",
        tone=Tone.ALERT if outcome.positive else Tone.CALM,
        pictures=pictures,
        score=Score(outcome.score, outcome.threshold, outcome.calibrated),
        reason="",
        **_origin(source, identity),
    )


def _place(outcome: Findings, volume: Volume) -> str:
    """Which image of how many is shown."""
    key = outcome.key_slice
    source = volume.sources[key]
    number = source_value(source, "InstanceNumber") or key + 1
    where = f"frame {volume.frames[key]}" if has_frames(source) else f"image {number}"
    among = f" ({len(volume.sources)} in all)" if len(volume.sources) > 1 else ""
    return f"{'Key' if outcome.positive else 'Highest score:'} {where}{among}"


def _window(volume: Volume, index: int) -> str:
    """Width and level of a CT image as viewers write them; of others they are in nobody's units."""
    if source_value(volume.sources[index], "Modality") != "CT":
        return ""
    center, width = window_of(volume, index)
    return f"W {width:.0f} L {center:.0f}"


def _origin(source: Dataset, identity: Identity) -> dict[str, str]:
    model, moment = identity.model, local_time(source, identity.created)
    return {
        "model": f"{model.title} {model.version}",
        "checksum": model.sha256[:12],
        "time": moment.strftime("%Y-%m-%d %H:%M:%S %z").strip(),
    }
