"""A Key Object Selection that takes back result objects, for archives that act on one (IHE RAD, IOCM)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from pydicom import Dataset

from appliance.dicom.codes import NOTICE, REJECTIONS
from appliance.dicom.outcome import StationIdentity
from appliance.dicom.uids import rejection_uid
from appliance.domain.errors import GiveUp
from appliance.domain.rejection import Rejection
from appliance.results import Numbering, Produced
from appliance.results.attributes import (
    copy_patient_and_study,
    local_time,
    put,
    put_moment,
    put_station,
    quiet,
    text,
)
from appliance.results.conformance_rules import DOCUMENTS
from appliance.results.content import concept, evidence, observer
from appliance.results.retraction import DESCRIPTION

SERIES_NUMBER = 9107


@dataclass(frozen=True)
class Rejected:
    """A result object that a note names, by its UIDs."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True)
class Rejecting:
    """Who takes something back, when and why."""

    station: StationIdentity
    moment: datetime
    why: Rejection
    reason: str


def rejection_note(
    header: Dataset, rejected: Sequence[Rejected], rejecting: Rejecting, numbering: Numbering
) -> Produced:
    """The note (TID 2010) that names `rejected`, which all belong to the study of `header`.

    `header` is that of one of them: patient, study and origin are as they were when it was made.

    Raises:
        GiveUp: the header is none of ours.
    """
    with quiet():
        try:
            note = _document(header, rejected, rejecting)
            wanted = int(note.SeriesNumber)
            number = numbering(str(note.StudyInstanceUID), str(note.SeriesInstanceUID), wanted)
            put(note, "SeriesNumber", number)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            # The libraries' messages quote attribute values, which may be a patient's.
            raise GiveUp(f"no rejection note can be made: {type(error).__name__}") from None
    return Produced("rejection_note", True, note, rejecting.station.ae_title)


def _document(header: Dataset, rejected: Sequence[Rejected], rejecting: Rejecting) -> Dataset:
    title, station = REJECTIONS[rejecting.why], rejecting.station
    named = evidence(_reference(one, str(header.StudyInstanceUID)) for one in rejected)
    for one in named:
        if one.SOPClassUID not in DOCUMENTS:  # what highdicom tells images from other objects by
            put(one, "Rows", 1)
            put(one, "Columns", 1)
    content = KeyObjectSelection(
        document_title=concept(title),
        referenced_objects=named,
        observer_device_context=observer(station),
        description=text(f"Retracted: {text(rejecting.reason, 900)}. {NOTICE}", 1024),
    )
    uids = [one.sop_instance_uid for one in rejected]
    note = KeyObjectSelectionDocument(
        evidence=named,
        content=content,
        series_instance_uid=rejection_uid("series", title.value, uids),
        series_number=SERIES_NUMBER,
        sop_instance_uid=rejection_uid("ko", title.value, uids),
        instance_number=1,
        manufacturer=text(station.manufacturer, 64),
        series_description=DESCRIPTION,
    )
    copy_patient_and_study(header, note)
    at = local_time(header, rejecting.moment)
    for name in ("Series", "Content", "InstanceCreation"):
        put_moment(note, name, at)
    put_station(note, station)
    note.ContributingEquipmentSequence = deepcopy(header.ContributingEquipmentSequence)
    return note


def _reference(one: Rejected, study_uid: str) -> Dataset:
    item = Dataset()
    put(item, "SOPClassUID", one.sop_class_uid)
    put(item, "SOPInstanceUID", one.sop_instance_uid)
    put(item, "SeriesInstanceUID", one.series_instance_uid)
    put(item, "StudyInstanceUID", study_uid)
    return item
