"""Parts of documents that several result objects share: concepts, who observed, what is referred to."""

from __future__ import annotations

from collections.abc import Iterable

from highdicom import sr
from pydicom import Dataset
from pydicom.sr.codedict import codes

from appliance.dicom.codes import ARTIFICIAL_INTELLIGENCE
from appliance.dicom.outcome import Code, Identity, StationIdentity
from appliance.dicom.uids import tracking_uid
from appliance.results.attributes import put, text

_PATIENT_KEYWORDS = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber")

FAMILY = ARTIFICIAL_INTELLIGENCE


def concept(code: Code) -> sr.CodedConcept:
    """A coded concept as highdicom wants it."""
    return sr.CodedConcept(code.value, code.scheme, code.meaning)


def observer(station: StationIdentity) -> sr.ObserverContext:
    """The appliance as the device that observed (TID 1004)."""
    return sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=station.device_uid,
            name=text(station.ae_title, 64),
            manufacturer_name=text(station.manufacturer, 64),
            model_name=text(station.product, 64),
            serial_number=text(station.serial, 64),
        ),
    )


def tracking(finding: Code, source: Dataset, identity: Identity) -> tuple[str, str]:
    """Tracking Unique Identifier and Tracking Identifier: the same in every object about the finding."""
    uid = tracking_uid(str(source.SeriesInstanceUID), finding.value, identity.pipeline_digest)
    return uid, text(f"{identity.model.id} {finding.meaning}", 64)


def evidence(headers: Iterable[Dataset]) -> list[Dataset]:
    """What highdicom is told of images, each once: no patient attributes, which it would check and log."""
    found: dict[str, Dataset] = {}
    for header in headers:
        reference = found.setdefault(str(header.SOPInstanceUID), Dataset())
        for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
            setattr(reference, keyword, header[keyword].value)
        for keyword in _PATIENT_KEYWORDS:
            setattr(reference, keyword, "")
        for keyword in ("StudyID", "StudyDate", "StudyTime"):
            put(reference, keyword, None)
    return list(found.values())
