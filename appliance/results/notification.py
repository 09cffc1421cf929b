"""What is told of a finding beside the result objects: the facts of which each kind of message is made.

The text values are a patient's or an order's, as the source has them; they belong into messages only.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydicom import Dataset
from pydicom.multival import MultiValue

from appliance.dicom.codes import ACTIONABLE_WITHIN_HOURS
from appliance.dicom.outcome import Code, Findings, Identity, ModelIdentity, StationIdentity
from appliance.dicom.uids import result_series_uid, result_uid
from appliance.dicom.volume import Volume
from appliance.results.attributes import source_value

REPORT_SOP_CLASS_UID = "1.2.840.10008.5.1.4.1.1.88.34"
"""Comprehensive 3D SR Storage."""

_SEXES = frozenset({"M", "F", "O"})  # PS3.3 C.7.1.1
_MINUTES = "RID49480"  # RadLex: ACR Category 1
_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")


@dataclass(frozen=True)
class Image:
    """One SOP instance."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class Patient:
    """Whom a message is about. `name` is a DICOM person name with all its component groups.

    `birth_date` is eight digits, `sex` M, F or O; either may be empty.
    """

    id: str
    issuer: str
    name: str
    birth_date: str
    sex: str


@dataclass(frozen=True)
class Order:
    """What the study was ordered and filed under; empty where the source does not say."""

    accession_number: str
    placer_number: str
    filler_number: str
    procedure_id: str
    procedure: Code


@dataclass(frozen=True)
class Notification:
    """One finding, or its absence, in one revision of one series; `early` is one in a part of its images.

    `uid` names the answer: it is the SOP Instance UID of its structured report, whether that is made or
    not. `score` and `threshold` are 0..1.
    """

    uid: str
    positive: bool
    finding: Code
    urgency: Code
    score: float
    threshold: float
    calibrated: bool
    created: datetime
    revision: int
    early: bool
    station: StationIdentity
    model: ModelIdentity
    patient: Patient
    order: Order
    study_instance_uid: str
    series_instance_uid: str
    modality: str
    images: tuple[Image, ...]
    key_image: Image
    report_series_instance_uid: str | None

    @property
    def verdict(self) -> str:
        """The word of the journal for the outcome."""
        return "positive" if self.positive else "negative"

    @property
    def acts_within(self) -> str | None:
        """How soon somebody has to act on a positive finding: minutes, hours or days (ACR category 1, 2, 3).

        None for a negative one.
        """
        if not self.positive:
            return None
        if self.urgency.value == _MINUTES:
            return "minutes"
        return "hours" if self.urgency.value in ACTIONABLE_WITHIN_HOURS else "days"


def notification(
    outcome: Findings, volume: Volume, identity: Identity, objects: Collection[str]
) -> Notification:
    """The facts of an answer; `objects` are the kinds of result objects that are made of it."""
    source, key = volume.sources[0], volume.sources[outcome.key_slice]
    series = str(source.SeriesInstanceUID)
    digest, edition = identity.pipeline_digest, identity.edition
    return Notification(
        uid=result_uid("sr", series, volume.pixel_sha256, digest, edition),
        positive=outcome.positive,
        finding=outcome.finding,
        urgency=outcome.urgency,
        score=float(outcome.score),
        threshold=float(outcome.threshold),
        calibrated=outcome.calibrated,
        created=identity.created,
        revision=identity.revision,
        early=identity.early,
        station=identity.station,
        model=identity.model,
        patient=_patient(source),
        order=_order(source),
        study_instance_uid=str(source.StudyInstanceUID),
        series_instance_uid=series,
        modality=_text(source, "Modality"),
        images=tuple(dict.fromkeys(_image(header) for header in volume.sources)),
        key_image=_image(key),
        report_series_instance_uid=(
            result_series_uid("sr", series, digest, edition) if "sr" in objects else None
        ),
    )


def _patient(source: Dataset) -> Patient:
    birth_date, sex = _text(source, "PatientBirthDate"), _text(source, "PatientSex")
    return Patient(
        id=_text(source, "PatientID"),
        issuer=_text(source, "IssuerOfPatientID"),
        name=_text(source, "PatientName"),
        birth_date=birth_date if re.fullmatch(r"\d{8}", birth_date) else "",
        sex=sex if sex in _SEXES else "",
    )


def _order(source: Dataset) -> Order:
    # Modalities write some of these into the Request Attributes only (PS3.3 10.6).
    requests = source_value(source, "RequestAttributesSequence") or ()
    places = [source, *requests] if len(requests) == 1 else [source]

    def first(keyword: str) -> str:
        return next(filter(None, (_text(place, keyword) for place in places)), "")

    return Order(
        accession_number=first("AccessionNumber"),
        placer_number=first("PlacerOrderNumberImagingServiceRequest"),
        filler_number=first("FillerOrderNumberImagingServiceRequest"),
        procedure_id=first("RequestedProcedureID"),
        procedure=_procedure(places),
    )


def _procedure(places: Collection[Dataset]) -> Code:
    """What was done: as it is coded, else in words, else in general."""
    for place in places:
        for keyword in ("ProcedureCodeSequence", "RequestedProcedureCodeSequence"):
            for item in source_value(place, keyword) or ():
                code = Code(
                    _text(item, "CodeValue"),
                    _text(item, "CodingSchemeDesignator"),
                    _text(item, "CodeMeaning"),
                )
                if code.value and code.scheme:
                    return code
    for place in places:
        for keyword in ("RequestedProcedureDescription", "StudyDescription"):
            if words := _text(place, keyword):
                return Code("", "", words)
    return _PROCEDURE


def _image(header: Dataset) -> Image:
    return Image(str(header.SOPClassUID), str(header.SOPInstanceUID))


def _text(source: Dataset, keyword: str) -> str:
    value: Any = source_value(source, keyword)
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    return "" if value is None else str(value).strip(" \0")
