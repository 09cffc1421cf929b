"""A finding as a Unified Procedure Step: "interpret this study soon" (PS3.4 CC.2.5), or no more (CC.2.2)."""

from __future__ import annotations

import io
from typing import Any

from pydicom import DataElement, Dataset, dcmwrite
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from appliance.dicom.codes import NOTICE, code_item
from appliance.dicom.outcome import Code
from appliance.domain.errors import GiveUp
from appliance.domain.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from appliance.results.attributes import put, quiet, text
from appliance.results.notification import REPORT_SOP_CLASS_UID, Image, Notification

UPS_PUSH = "1.2.840.10008.5.1.4.34.6.1"

_INTERPRETATION = Code("110005", "DCM", "Interpretation")  # CID 9231
_PRIORITIES = {"minutes": "HIGH", "hours": "HIGH", "days": "MEDIUM"}
# Type 2 or 2/2 in table CC.2.5-3: nothing is known of them.
_EMPTY_SEQUENCES = (
    "ScheduledStationNameCodeSequence",
    "ScheduledStationClassCodeSequence",
    "ScheduledStationGeographicLocationCodeSequence",
    "ScheduledProcessingParametersSequence",
    "ProcedureStepProgressInformationSequence",
    "UnifiedProcedureStepPerformedProcedureSequence",
    "IssuerOfPatientIDQualifiersSequence",
    "OtherPatientIDsSequence",
    "IssuerOfAdmissionIDSequence",
    "AdmittingDiagnosesCodeSequence",
)
_LONGEST_REASON = 10240  # of LT (PS3.5 table 6.2-1)
_EMPTY = ("TransactionUID", "AdmissionID", "AdmittingDiagnosesDescription")


def workitem(told: Notification, message_uid: str, *, worklist: str, retrieve_from: str) -> bytes:
    """The data set of the N-CREATE as a Part-10 file, whose meta information has the UID: `message_uid`.

    `worklist` is Worklist Label (0074,1202); `retrieve_from` the AE title that has the images.

    Raises:
        GiveUp: the workitem cannot be written as the standard demands.
    """
    try:
        return _file(_attributes(told, worklist, retrieve_from), message_uid, told.station.ae_title)
    except (AttributeError, TypeError, ValueError) as error:
        # The library's messages quote attribute values, which may be a patient's.
        raise GiveUp(f"the workitem cannot be written: {type(error).__name__}") from None


def request_to_cancel(workitem_uid: str, reason: str, ae_title: str) -> bytes:
    """The Action Information of "Request UPS Cancel" (PS3.4 table CC.2.2-1) about the workitem of this UID.

    As a Part-10 file, whose meta information has the workitem's UID.

    Raises:
        GiveUp: it cannot be written as the standard demands.
    """
    request = Dataset()
    try:
        put(request, "SpecificCharacterSet", "ISO_IR 192")
        _copy(request, "ReasonForCancellation", " ".join(f"Retracted: {reason}".split())[:_LONGEST_REASON])
        return _file(request, workitem_uid, ae_title)
    except (AttributeError, TypeError, ValueError) as error:
        raise GiveUp(f"the request to cancel cannot be written: {type(error).__name__}") from None


def _attributes(told: Notification, worklist: str, retrieve_from: str) -> Dataset:
    item = Dataset()
    put(item, "SpecificCharacterSet", "ISO_IR 192")
    for keyword in _EMPTY:
        put(item, keyword, None)
    for keyword in _EMPTY_SEQUENCES:
        put(item, keyword, [])
    put(item, "ProcedureStepState", "SCHEDULED")
    put(item, "ScheduledProcedureStepPriority", _PRIORITIES[told.acts_within or "days"])
    put(item, "ProcedureStepLabel", text(f"AI: suspected {told.finding.meaning}", 64))
    put(item, "WorklistLabel", text(worklist, 64))
    put(item, "CommentsOnTheScheduledProcedureStep", NOTICE)
    put(item, "ScheduledProcedureStepStartDateTime", f"{told.created:%Y%m%d%H%M%S.%f%z}"[:26])
    put(item, "ScheduledWorkitemCodeSequence", [code_item(_INTERPRETATION)])
    put(item, "InputReadinessState", "READY")
    put(item, "InputInformationSequence", list(_inputs(told, retrieve_from)))
    put(item, "ReferencedRequestSequence", [_request(told)])
    patient = told.patient
    _copy(item, "PatientName", patient.name)
    _copy(item, "PatientID", patient.id)
    _copy(item, "IssuerOfPatientID", patient.issuer)
    _copy(item, "PatientBirthDate", patient.birth_date)
    _copy(item, "PatientSex", patient.sex)
    return item


def _inputs(told: Notification, retrieve_from: str) -> list[Dataset]:
    inputs = [_input(told, told.series_instance_uid, told.images, retrieve_from)]
    if told.report_series_instance_uid:
        report = (Image(REPORT_SOP_CLASS_UID, told.uid),)
        inputs.append(_input(told, told.report_series_instance_uid, report, retrieve_from))
    return inputs


def _input(told: Notification, series_uid: str, images: tuple[Image, ...], retrieve_from: str) -> Dataset:
    """Referenced Instances and Access (PS3.3 table 10-3b)."""
    item = Dataset()
    put(item, "TypeOfInstances", "DICOM")
    put(item, "StudyInstanceUID", told.study_instance_uid)
    put(item, "SeriesInstanceUID", series_uid)
    references = []
    for image in images:
        reference = Dataset()
        put(reference, "ReferencedSOPClassUID", image.sop_class_uid)
        put(reference, "ReferencedSOPInstanceUID", image.sop_instance_uid)
        references.append(reference)
    put(item, "ReferencedSOPSequence", references)
    retrieval = Dataset()
    put(retrieval, "RetrieveAETitle", retrieve_from)
    put(item, "DICOMRetrievalSequence", [retrieval])
    return item


def _request(told: Notification) -> Dataset:
    order = told.order
    item = Dataset()
    put(item, "StudyInstanceUID", told.study_instance_uid)
    _copy(item, "AccessionNumber", order.accession_number)
    put(item, "IssuerOfAccessionNumberSequence", [])
    _copy(item, "PlacerOrderNumberImagingServiceRequest", order.placer_number)
    _copy(item, "FillerOrderNumberImagingServiceRequest", order.filler_number)
    _copy(item, "RequestedProcedureID", order.procedure_id)
    coded = bool(order.procedure.value and order.procedure.scheme and order.procedure.meaning)
    _copy(item, "RequestedProcedureDescription", order.procedure.meaning)
    put(item, "RequestedProcedureCodeSequence", [])
    if coded:
        code = Dataset()
        _copy(code, "CodeValue", order.procedure.value)
        _copy(code, "CodingSchemeDesignator", order.procedure.scheme)
        _copy(code, "CodeMeaning", order.procedure.meaning)
        put(item, "RequestedProcedureCodeSequence", [code])
    return item


def _copy(target: Dataset, keyword: str, value: Any) -> None:
    """Set what the source says, which may be longer or odder than the standard has it."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    target.add(DataElement(tag, dictionary_VR(tag), value or None, validation_mode=IGNORE))


def _file(dataset: Dataset, message_uid: str, ae_title: str) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(UPS_PUSH)
    meta.MediaStorageSOPInstanceUID = UID(message_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    meta.SourceApplicationEntityTitle = ae_title
    dataset.file_meta = meta
    buffer = io.BytesIO()
    with quiet():
        dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
