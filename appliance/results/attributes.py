"""Attributes that every result object shares: who made it, when, for whom."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import datetime, timedelta, timezone
from typing import Any

from pydicom import DataElement, Dataset
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.tag import BaseTag

from appliance.dicom.codes import (
    ACQUISITION_EQUIPMENT,
    PRIVATE_SCHEME,
    PRIVATE_SCHEME_NAME,
    PRIVATE_SCHEME_ORGANIZATION,
    PROCESSING_EQUIPMENT,
    code_item,
)
from appliance.dicom.frames import has_frames
from appliance.dicom.outcome import Code, Identity, StationIdentity
from appliance.dicom.uids import model_device_uid
from appliance.dicom.unusable import UNREADABLE
from appliance.dicom.volume import Volume

EQUIPMENT_KEYWORDS = (
    "Manufacturer",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "StationName",
    "DeviceUID",
    "DateOfLastCalibration",
    "TimeOfLastCalibration",
    "ManufacturerDeviceClassUID",
    "UDISequence",
)
"""What General Equipment says of the one device that made a series (PS3.3 C.7.5.1)."""

_SITE_KEYWORDS = ("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName")

# Study-level attributes outside the patient groups 0010 and 0012 (PS3.3 C.7.2, C.4).
_STUDY_KEYWORDS = frozenset(
    [
        "SpecificCharacterSet",
        "TimezoneOffsetFromUTC",
        "StudyInstanceUID",
        "StudyDate",
        "StudyTime",
        "StudyID",
        "StudyDescription",
        "AccessionNumber",
        "IssuerOfAccessionNumberSequence",
        "ReferringPhysicianName",
        "ReferringPhysicianIdentificationSequence",
        "ConsultingPhysicianName",
        "ConsultingPhysicianIdentificationSequence",
        "ProcedureCodeSequence",
        "PhysiciansOfRecord",
        "PhysiciansOfRecordIdentificationSequence",
        "NameOfPhysiciansReadingStudy",
        "PhysiciansReadingStudyIdentificationSequence",
        "ReferencedStudySequence",
        "AdmittingDiagnosesDescription",
        "AdmittingDiagnosesCodeSequence",
        "RequestingService",
        "RequestingServiceCodeSequence",
        "ReasonForVisit",
        "ReasonForVisitCodeSequence",
        "AdmissionID",
        "IssuerOfAdmissionIDSequence",
        "ServiceEpisodeID",
        "IssuerOfServiceEpisodeIDSequence",
        "ServiceEpisodeDescription",
        "StudyUpdateDateTime",
    ]
)
_STUDY_TAGS = frozenset(map(tag_for_keyword, _STUDY_KEYWORDS))
_CLINICAL_TRIAL_SERIES = frozenset({0x00120071, 0x00120072, 0x00120073})
_EMPTY_IF_ABSENT = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' warnings about source attributes out of the log: they quote patient data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def put(target: Dataset, keyword: str, value: Any) -> None:
    """Set one of our own attributes. Unlike what is copied from a source, it has to be valid.

    Raises:
        ValueError: the value breaks its value representation, or is text outside ASCII.
    """
    if isinstance(value, str) and not value.isascii():
        raise ValueError(f"{keyword} is not ASCII")
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"{keyword} is not an attribute")
    target.add(DataElement(tag, dictionary_VR(tag), value, validation_mode=RAISE))


def readable_element(source: Dataset, tag: int) -> DataElement | None:
    """A copy of one element of a source without private parts, or None if its value cannot be read.

    Such a value cannot be written again in another transfer syntax; the original keeps it.
    """
    try:
        element = deepcopy(source[tag])
        if element.VR == "SQ":
            for item in element.value:
                _drop_private(item)
    except UNREADABLE:
        return None
    return element


def _drop_private(item: Dataset) -> None:
    for tag in list(item.keys()):
        if tag.is_private:
            del item[tag]
        elif item[tag].VR == "SQ":
            for nested in item[tag].value:
                _drop_private(nested)


def source_value(source: Dataset, keyword: str) -> Any:
    """The value of an element of a source, or None if it is absent, empty or cannot be read."""
    tag = tag_for_keyword(keyword)
    element = readable_element(source, tag) if tag is not None else None
    return None if element is None or element.is_empty else element.value


def patient_and_study_tags(source: Dataset) -> list[BaseTag]:
    """The tags of the elements of an object that say which patient and which study it belongs to."""
    return [
        tag
        for tag in list(source.keys())
        if tag in _STUDY_TAGS
        or (tag.group in (0x0010, 0x0012) and tag.element and tag not in _CLINICAL_TRIAL_SERIES)
    ]


def copy_patient_and_study(source: Dataset, target: Dataset) -> None:
    """Make the patient and study attributes of `target` those of `source` (PS3.3 A.1.2)."""
    for tag in patient_and_study_tags(source):
        element = readable_element(source, tag)
        if element is not None:
            target.add(element)
    for keyword in _EMPTY_IF_ABSENT:
        if keyword not in target:
            put(target, keyword, None)


def local_time(source: Dataset, moment: datetime) -> datetime:
    """`moment` in the time zone of the source's dates; the site's zone if the source names none."""
    match = re.fullmatch(r"([+-])(\d{2})(\d{2})", str(source_value(source, "TimezoneOffsetFromUTC") or ""))
    if match is None:
        return moment
    minutes = int(match[2]) * 60 + int(match[3])
    return moment.astimezone(timezone(timedelta(minutes=minutes if match[1] == "+" else -minutes)))


def put_moment(target: Dataset, name: str, moment: datetime) -> None:
    """Set the pair `<name>Date` and `<name>Time`."""
    put(target, f"{name}Date", moment.strftime("%Y%m%d"))
    put(target, f"{name}Time", moment.strftime("%H%M%S.%f"))


def put_equipment(target: Dataset, identity: Identity) -> None:
    """Make General Equipment say that this appliance made the series, with which model."""
    put_station(target, identity.station, f"{identity.model.id}:{identity.model.version}")


def put_station(target: Dataset, station: StationIdentity, *programs: str) -> None:
    """Make General Equipment say that this appliance made the series, with these programs beside its own."""
    for keyword in EQUIPMENT_KEYWORDS:
        if keyword in target:
            delattr(target, keyword)
    put(target, "Manufacturer", text(station.manufacturer, 64))
    put(target, "ManufacturerModelName", text(station.product, 64))
    put(target, "DeviceSerialNumber", text(station.serial, 64))
    put(target, "SoftwareVersions", [text(one, 64) for one in (station.version, *programs)])
    put(target, "StationName", text(station.ae_title, 16))
    put(target, "DeviceUID", station.device_uid)
    put(target, "InstanceCreatorUID", station.device_uid)


def acquisition_equipment(source: Dataset) -> Dataset:
    """The Contributing Equipment item of the scanner (PS3.3 C.12.1)."""
    item = Dataset()
    put(item, "PurposeOfReferenceCodeSequence", [code_item(ACQUISITION_EQUIPMENT)])
    for keyword in (*EQUIPMENT_KEYWORDS, *_SITE_KEYWORDS):
        tag = tag_for_keyword(keyword)
        element = readable_element(source, tag) if tag is not None and keyword in source else None
        if element is not None and not element.is_empty:
            item.add(element)
    if "Manufacturer" not in item:
        put(item, "Manufacturer", "UNKNOWN")
    return item


def processing_equipment(identity: Identity, moment: datetime) -> Dataset:
    """The Contributing Equipment item of the model (IHE AIR 6.5.3.1)."""
    model = identity.model
    item = Dataset()
    put(item, "PurposeOfReferenceCodeSequence", [code_item(PROCESSING_EQUIPMENT)])
    put(item, "Manufacturer", text(model.manufacturer, 64))
    put(item, "ManufacturerModelName", text(model.id, 64))
    ran = [text(one, 64) for one in model.ran]
    put(item, "SoftwareVersions", [text(model.version, 64), f"sha256:{model.sha256[:12]}", *ran])
    put(item, "DeviceUID", model_device_uid(model.sha256))
    put(item, "ContributionDateTime", moment.strftime("%Y%m%d%H%M%S.%f%z"))
    put(item, "ContributionDescription", text(model.title, 1024))
    return item


def reference_to(volume: Volume, index: int) -> Dataset:
    """An item that refers to the image, or the frame, of one slice (PS3.3 table 10-3)."""
    source = volume.sources[index]
    item = Dataset()
    put(item, "ReferencedSOPClassUID", str(source.SOPClassUID))
    put(item, "ReferencedSOPInstanceUID", str(source.SOPInstanceUID))
    if has_frames(source):
        put(item, "ReferencedFrameNumber", volume.frames[index])
    return item


def put_origin(result: Dataset, source: Dataset, identity: Identity) -> None:
    """Say who made a result about a series, and when."""
    moment = local_time(source, identity.created)
    for name in ("Series", "Content", "InstanceCreation"):
        put_moment(result, name, moment)
    put_equipment(result, identity)
    contributors = [acquisition_equipment(source), processing_equipment(identity, moment)]
    put(result, "ContributingEquipmentSequence", contributors)


def revised_number(number: int, revision: int) -> int:
    """The series number of a revision: the last digit tells the kind of result."""
    return number + 10 * (revision - 1)


def revised_text(description: str, identity: Identity) -> str:
    """A series description that tells the answers about one series apart."""
    revised = description if identity.revision <= 1 else f"{description} r{identity.revision}"
    return f"{revised} early" if identity.early else revised


def declare_private_scheme(target: Dataset, codes: tuple[Code, ...]) -> None:
    """Name the responsible organization of our own codes, if any is used (PS3.3 C.12.1.1.5)."""
    if all(code.scheme != PRIVATE_SCHEME for code in codes):
        return
    item = Dataset()
    put(item, "CodingSchemeDesignator", PRIVATE_SCHEME)
    put(item, "CodingSchemeName", PRIVATE_SCHEME_NAME)
    put(item, "CodingSchemeResponsibleOrganization", PRIVATE_SCHEME_ORGANIZATION)
    put(
        target,
        "CodingSchemeIdentificationSequence",
        [*(target.get("CodingSchemeIdentificationSequence") or ()), item],
    )


def text(value: str, length: int) -> str:
    """Text of our own as ASCII of at most `length` characters; a backslash would separate values."""
    return value.encode("ascii", "replace").decode().replace("\\", "/")[:length].strip()
