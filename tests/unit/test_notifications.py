"""The facts of a finding, the workitem and the JSON document made of them, and who is told."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread

from appliance.dicom.codes import NOTICE
from appliance.dicom.outcome import Code
from appliance.domain.errors import Misconfigured
from appliance.models.manifest import TriageTask, load_manifest
from appliance.results.notification import Notification, Order, Patient, notification
from appliance.results.ups_workitem import UPS_PUSH, workitem
from appliance.results.webhook_message import finding_document
from appliance.services.inference.messenger import is_due
from tests.dicom_samples import CtSeries
from tests.message_samples import NEGATIVE, NOTIFICATION
from tests.result_samples import ACR_3, IDENTITY, findings, produce, sample_volume

ACR_2 = Code("RID49481", "RADLEX", "ACR Category 2 Actionable Finding")
SERIES = CtSeries(rows=16, columns=16)
UID = "2.25.4711"
TYPE_1 = (
    *("ProcedureStepState", "ScheduledProcedureStepPriority", "ProcedureStepLabel"),
    *("ScheduledProcedureStepStartDateTime", "InputReadinessState"),
)
TYPE_2 = (
    *("TransactionUID", "WorklistLabel", "ScheduledProcessingParametersSequence"),
    *("ScheduledStationNameCodeSequence", "ScheduledStationClassCodeSequence"),
    *("ScheduledStationGeographicLocationCodeSequence", "ScheduledWorkitemCodeSequence"),
    *("CommentsOnTheScheduledProcedureStep", "InputInformationSequence", "PatientName", "PatientID"),
    *("IssuerOfPatientID", "PatientBirthDate", "PatientSex", "AdmissionID", "ReferencedRequestSequence"),
    *("ProcedureStepProgressInformationSequence", "UnifiedProcedureStepPerformedProcedureSequence"),
)


def told_of(folder: Path, series: CtSeries = SERIES, *, positive: bool = True) -> Notification:
    volume = sample_volume(folder, series)
    return notification(findings(volume, positive=positive), volume, IDENTITY, {"sr"})


def test_the_facts_are_those_of_source_and_answer(tmp_path: Path) -> None:
    series = SERIES.with_attributes(
        PatientName="Müller^Jürgen=", IssuerOfPatientID="SITE", FillerOrderNumberImagingServiceRequest="F1"
    )
    told = told_of(tmp_path, series)
    assert told.patient == Patient("SYNTHETIC-1", "SITE", "Müller^Jürgen", "19700101", "O")
    assert told.order == Order("ACC1", "", "F1", "", Code("", "", "CT HEAD"))
    assert told.verdict == "positive"
    assert told.acts_within == "minutes"
    assert len(told.images) == series.slices
    assert told.key_image in told.images
    assert told.created == IDENTITY.created


def test_the_name_of_an_answer_is_that_of_its_report(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    outcome = findings(volume, positive=True)
    (report,) = produce(outcome, volume, kinds={"sr"})
    told = notification(outcome, volume, IDENTITY, {"sr"})
    assert told.uid == report.sop_instance_uid
    assert told.report_series_instance_uid == report.series_instance_uid
    assert notification(outcome, volume, IDENTITY, set()).report_series_instance_uid is None
    again = notification(outcome, volume, replace(IDENTITY, revision=2), {"sr"})
    assert again.uid != told.uid


def test_what_only_the_request_attributes_know(tmp_path: Path) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "CTH", "99SITE", "Head"
    request = Dataset()
    request.AccessionNumber, request.RequestedProcedureID = "ACC9", "RP9"
    request.RequestedProcedureCodeSequence = [code]
    one = told_of(
        tmp_path / "1", SERIES.with_attributes(AccessionNumber="", RequestAttributesSequence=[request])
    )
    assert one.order == Order("ACC9", "", "", "RP9", Code("CTH", "99SITE", "Head"))
    # Of several requests, nothing says which one the finding belongs to.
    two = SERIES.with_attributes(AccessionNumber="", RequestAttributesSequence=[request, request])
    assert told_of(tmp_path / "2", two).order.accession_number == ""


def test_a_workitem_asks_for_interpretation_soon() -> None:
    file = workitem(NOTIFICATION, UID, worklist="AI TRIAGE", retrieve_from="PACS")
    item = dcmread(BytesIO(file))
    assert item.file_meta.MediaStorageSOPInstanceUID == UID
    assert item.file_meta.MediaStorageSOPClassUID == UPS_PUSH
    assert "SOPInstanceUID" not in item and "SOPClassUID" not in item
    assert [keyword for keyword in TYPE_1 if not item.get(keyword)] == []
    assert [keyword for keyword in TYPE_2 if keyword not in item] == []
    assert item.ProcedureStepState == "SCHEDULED"
    assert item.ScheduledProcedureStepPriority == "HIGH"
    assert item.ScheduledProcedureStepStartDateTime == "20260102113015.250000+0100"
    assert item.ScheduledWorkitemCodeSequence[0].CodeValue == "110005"
    assert item.CommentsOnTheScheduledProcedureStep == NOTICE
    assert item.PatientName == "Sample^Synthetic^Middle^Dr^Jr"
    series, report = item.InputInformationSequence
    assert [one.ReferencedSOPInstanceUID for one in series.ReferencedSOPSequence] == [
        "1.2.3.0.1",
        "1.2.3.0.2",
    ]
    assert series.DICOMRetrievalSequence[0].RetrieveAETitle == "PACS"
    assert report.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == NOTIFICATION.uid
    (request,) = item.ReferencedRequestSequence
    assert request.AccessionNumber == "ACC1"
    assert request.RequestedProcedureCodeSequence[0].CodeValue == "CTHEAD"
    assert file == workitem(NOTIFICATION, UID, worklist="AI TRIAGE", retrieve_from="PACS")


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=80)


@given(st.builds(Patient, texts, texts, texts, st.sampled_from(["", "19700101"]), st.sampled_from("MFO")))
def test_a_workitem_takes_any_patient(patient: Patient) -> None:
    file = workitem(replace(NOTIFICATION, patient=patient), UID, worklist="W", retrieve_from="PACS")
    assert dcmread(BytesIO(file)).ProcedureStepState == "SCHEDULED"


def test_a_document_says_who_the_patient_is_only_where_asked() -> None:
    content = finding_document(NOTIFICATION, UID, identifiers=False)
    document = json.loads(content)
    assert document["id"] == UID
    assert document["outcome"] == "positive"
    assert document["act_within"] == "minutes"
    assert document["category"]["value"] == "RID49480"
    assert (document["score"], document["threshold"], document["score_is_probability"]) == (
        0.9312,
        0.62,
        False,
    )
    assert document["study"] == {"study_instance_uid": "1.2.3", "accession_number": "ACC1"}
    assert document["created"] == "2026-01-02T11:30:15.250+01:00"
    assert document["notice"] == NOTICE
    patient = NOTIFICATION.patient
    for identifier in (patient.id, patient.issuer, "Synthetic", patient.birth_date):
        assert identifier not in content.decode()
    named = json.loads(finding_document(NOTIFICATION, UID, identifiers=True))
    assert named.pop("patient")["name"] == patient.name
    assert named == document


def test_a_negative_document_has_no_category() -> None:
    document = json.loads(finding_document(NEGATIVE, UID, identifiers=False))
    assert (document["outcome"], document["category"], document["act_within"]) == ("negative", None, None)


HOURS = replace(NOTIFICATION, urgency=ACR_2)
DAYS = replace(NOTIFICATION, urgency=ACR_3)


@pytest.mark.parametrize(
    ("told", "wanted", "last", "due"),
    [
        (NOTIFICATION, True, None, True),
        (HOURS, True, None, True),
        (DAYS, True, None, False),  # can wait: nobody's alarm
        (NOTIFICATION, False, None, False),
        (NOTIFICATION, True, "positive", False),
        (NOTIFICATION, True, "negative", True),
        (NEGATIVE, False, None, False),
        (NEGATIVE, True, None, True),
        (NEGATIVE, False, "positive", True),
        (NEGATIVE, False, "negative", False),
        (NEGATIVE, True, "negative", False),
    ],
)
def test_who_is_told(told: Notification, wanted: bool, last: str | None, due: bool) -> None:
    assert is_due(told, wanted, last) is due


def test_the_category_is_the_manifests_and_an_acr_category(tmp_path: Path) -> None:
    package = Path(__file__).resolve().parents[2] / "engines" / "head-ct-triage"
    task = load_manifest(package).task
    assert isinstance(task, TriageTask)
    assert task.urgency.value == "RID49480"
    folder = tmp_path / "head-ct-triage"
    folder.mkdir()
    text = (package / "model.yaml").read_text()
    (folder / "model.yaml").write_text(text.replace("value: RID49480", "value: RID1"))
    with pytest.raises(Misconfigured, match="is none of the ACR categories"):
        load_manifest(folder)
