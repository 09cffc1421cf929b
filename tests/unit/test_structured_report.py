"""Reports say the same to any reader: finding or its absence, score with threshold, which model."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from highdicom.sr import MeasurementReport, srread
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage

from appliance.config.schema import ResultObjects
from appliance.dicom.codes import NOTICE
from appliance.dicom.outcome import EarlierReport, Findings, Identity, NotAnalysed, Subject
from appliance.dicom.volume import Volume, load_headers
from appliance.domain.errors import GiveUp
from appliance.results import Order, Produced, write_unanalysed
from tests.dicom_samples import CtSeries, write_series
from tests.result_samples import (
    ACR_3,
    BRAIN,
    HAEMORRHAGE,
    IDENTITY,
    as_wanted,
    findings,
    produce,
    revised,
    sample_volume,
)

SERIES = CtSeries(slices=3, rows=16, columns=16)


def report_of(outcome: Findings, volume: Volume, identity: Identity = IDENTITY) -> bytes:
    produced = next(produce(outcome, volume, identity))
    assert produced.kind == "sr"
    assert produced.sop_class_uid == Comprehensive3DSRStorage
    return produced.encode()


def items(content: bytes) -> dict[str, list[str]]:
    """The leaves of the content tree: concept meaning to values."""
    found: dict[str, list[str]] = {}

    def walk(item: Dataset) -> None:
        if "ConceptNameCodeSequence" in item:
            name = item.ConceptNameCodeSequence[0].CodeMeaning
            match item.ValueType:
                case "CODE":
                    found.setdefault(name, []).append(item.ConceptCodeSequence[0].CodeValue)
                case "TEXT":
                    found.setdefault(name, []).append(item.TextValue)
                case "UIDREF":
                    found.setdefault(name, []).append(item.UID)
                case "NUM":
                    value = item.MeasuredValueSequence[0]
                    unit = value.MeasurementUnitsCodeSequence[0].CodeValue
                    found.setdefault(name, []).append(f"{value.NumericValue} {unit}")
                case "IMAGE":
                    found.setdefault(name, []).append(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for child in item.get("ContentSequence", ()):
            walk(child)

    walk(dcmread(io.BytesIO(content)))
    return found


def test_a_positive_report(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    found = items(report_of(findings(volume, positive=True), volume))
    assert found["Finding"] == ["1386000"]
    assert found["Intracranial hemorrhage"] == ["52101004"]
    assert found["CAD Processing and Findings Summary"] == ["111242"]
    assert found["Priority"] == ["RID49480"]
    assert found["Certainty of Finding"] == ["93.1 %"]
    assert found["Source of Measurement"] == [volume.sources[1].SOPInstanceUID]
    assert found["Finding Site"] == ["12738006"]
    assert found["Comment"] == [NOTICE]


def test_a_negative_report_cannot_be_taken_for_a_finding(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    found = items(report_of(findings(volume, positive=False), volume))
    assert "Finding" not in found
    assert "Priority" not in found
    assert found["Intracranial hemorrhage"] == ["272519000"]
    assert found["CAD Processing and Findings Summary"] == ["111241"]
    assert found["Certainty of Finding"] == ["5.2 %"]


@pytest.mark.parametrize("positive", [True, False])
def test_every_item_is_to_be_shown_with_its_name(tmp_path: Path, positive: bool) -> None:
    volume = sample_volume(tmp_path, SERIES)
    (report,) = produce(findings(volume, positive=positive), volume, kinds=["sr"])
    containers = [report.dataset]
    for container in containers:
        assert container.ContinuityOfContent == "SEPARATE"
        containers += [item for item in container.ContentSequence if item.ValueType == "CONTAINER"]
    assert len(containers) == 3


@pytest.mark.parametrize("positive", [True, False])
def test_the_score_never_stands_without_threshold_and_model(tmp_path: Path, positive: bool) -> None:
    volume = sample_volume(tmp_path, SERIES)
    found = items(report_of(findings(volume, positive=positive), volume))
    assert found["Algorithm Name"] == ["Sample model"]
    assert found["Algorithm Version"] == ["1.2.3"]
    assert found["Algorithm Manufacturer"] == ["Sample Models"]
    assert found["Algorithm Family"] == ["123110"]
    assert "threshold=62.00 %" in found["Algorithm Parameters"]
    assert f"sha256={IDENTITY.model.sha256}" in found["Algorithm Parameters"]
    assert "strength=0.5" in found["Algorithm Parameters"]


@pytest.mark.parametrize("positive", [True, False])
def test_the_threshold_is_stated_once(tmp_path: Path, positive: bool) -> None:
    volume = sample_volume(tmp_path, SERIES)
    identity = replace(IDENTITY, parameters={"threshold": "0.62"})
    found = items(report_of(findings(volume, positive=positive), volume, identity))
    assert [value for value in found["Algorithm Parameters"] if "threshold" in value] == ["threshold=62.00 %"]


def unanalysed(folder: Path, kinds: tuple[str, ...] = ("sr",)) -> list[Produced]:
    sources = load_headers(write_series(folder, SERIES))
    outcome = NotAnalysed("out_of_distribution", "only 1 of 3 slabs shows a brain in its skull")
    return list(
        write_unanalysed(outcome, Subject(HAEMORRHAGE, BRAIN), sources, IDENTITY, Order(kinds, (), as_wanted))
    )


def test_a_series_that_was_not_analysed_is_neither_positive_nor_negative(tmp_path: Path) -> None:
    (made,) = unanalysed(tmp_path)
    found = items(made.encode())
    assert not made.urgent
    assert "Finding" not in found
    assert "Certainty of Finding" not in found
    assert found["Intracranial hemorrhage"] == ["373068000"]
    assert found["CAD Processing and Findings Summary"] == ["111245"]
    assert found["Comment"] == [
        "Not analysed (out_of_distribution): only 1 of 3 slabs shows a brain in its skull",
        NOTICE,
    ]
    evidence = dcmread(io.BytesIO(made.encode())).CurrentRequestedProcedureEvidenceSequence
    assert len(evidence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence) == 3


def test_the_report_that_nothing_was_analysed_is_not_taken_for_one_with_an_answer(tmp_path: Path) -> None:
    (made,) = unanalysed(tmp_path / "unanalysed")
    volume = sample_volume(tmp_path / "analysed", SERIES)
    answered = dcmread(io.BytesIO(report_of(findings(volume, positive=False), volume)))
    assert made.sop_instance_uid != answered.SOPInstanceUID
    assert made.series_instance_uid == answered.SeriesInstanceUID


def test_nothing_is_said_of_a_series_that_was_not_analysed_unless_asked(tmp_path: Path) -> None:
    assert unanalysed(tmp_path, ()) == []
    assert ResultObjects().kinds("not_analysed") == frozenset()


def test_a_later_report_names_the_earlier_one(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    first = dcmread(io.BytesIO(report_of(findings(volume, positive=True), volume)))
    assert "PredecessorDocumentsSequence" not in first
    earlier = EarlierReport(
        first.SOPClassUID, first.SOPInstanceUID, first.StudyInstanceUID, first.SeriesInstanceUID
    )
    identity = replace(revised(2), earlier_report=earlier)
    second = dcmread(io.BytesIO(report_of(findings(volume, positive=True), volume, identity)))
    (study,) = second.PredecessorDocumentsSequence
    assert study.StudyInstanceUID == first.StudyInstanceUID
    assert study.ReferencedSeriesSequence[0].SeriesInstanceUID == first.SeriesInstanceUID
    (reference,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert reference.ReferencedSOPInstanceUID == first.SOPInstanceUID


def test_only_a_calibrated_score_is_called_a_probability(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    found = items(report_of(findings(volume, positive=True, calibrated=True), volume))
    assert found["Probability"] == ["93.1 %"]
    assert "Certainty of Finding" not in found


def test_the_report_is_complete_preliminary_and_unverified(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    report = dcmread(io.BytesIO(report_of(findings(volume, positive=True), volume)))
    assert (report.CompletionFlag, report.PreliminaryFlag) == ("COMPLETE", "PRELIMINARY")
    assert report.VerificationFlag == "UNVERIFIED"
    assert (report.Modality, report.SeriesNumber) == ("SR", 9101)
    assert report.SeriesDescription == "AI TRIAGE - NOT FOR DIAGNOSIS"
    assert report.ContentTime == "113015.250000"
    assert report.Manufacturer == "Sample Appliances"
    assert report.InstanceCreatorUID == IDENTITY.station.device_uid


def test_patient_and_study_are_those_of_the_source(tmp_path: Path) -> None:
    series = SERIES.with_attributes(
        SpecificCharacterSet="ISO_IR 192", PatientName="Größe", PatientSex="X", PatientAge="053Y"
    )
    volume = sample_volume(tmp_path, series)
    report = dcmread(io.BytesIO(report_of(findings(volume, positive=False), volume)))
    for keyword in [
        "PatientName",
        "PatientID",
        "PatientSex",
        "PatientAge",
        "StudyDate",
        "StudyID",
        "AccessionNumber",
    ]:
        assert report[keyword].value == volume.sources[0][keyword].value, keyword


def test_a_source_without_patient_attributes_still_gets_a_report(tmp_path: Path) -> None:
    absent = dict.fromkeys(("PatientID", "PatientSex", "PatientBirthDate", "StudyID", "AccessionNumber"))
    volume = sample_volume(tmp_path, SERIES.with_attributes(**absent))
    report = dcmread(io.BytesIO(report_of(findings(volume, positive=False), volume)))
    assert report.PatientID == ""
    assert report.AccessionNumber == ""


def test_evidence_lists_every_analysed_image(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    report = dcmread(io.BytesIO(report_of(findings(volume, positive=True), volume)))
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    listed = {item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence}
    assert listed == {header.SOPInstanceUID for header in volume.sources}


def test_the_procedure_is_the_one_of_the_source(tmp_path: Path) -> None:
    procedure = Dataset()
    procedure.CodeValue, procedure.CodingSchemeDesignator = "24727-0", "LN"
    procedure.CodeMeaning = "CT Head W contrast IV"
    coded = sample_volume(tmp_path / "coded", SERIES.with_attributes(ProcedureCodeSequence=[procedure]))
    assert items(report_of(findings(coded, positive=False), coded))["Procedure reported"] == ["24727-0"]
    head = sample_volume(tmp_path / "head", SERIES)
    assert items(report_of(findings(head, positive=False), head))["Procedure reported"] == ["24725-4"]
    chest = sample_volume(tmp_path / "chest", CtSeries(slices=2, rows=8, columns=8, body_part="CHEST"))
    assert items(report_of(findings(chest, positive=False), chest))["Procedure reported"] == ["25045-6"]


def test_highdicom_reads_the_report_back(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    path = tmp_path / "report.dcm"
    path.write_bytes(report_of(findings(volume, positive=True), volume))
    content = srread(path).content
    assert isinstance(content, MeasurementReport)
    (group,) = content.get_image_measurement_groups()
    assert group.finding_type == codes.SCT.IntracranialHemorrhage
    (measurement,) = group.get_measurements(codes.DCM.CertaintyOfFinding)
    assert measurement.value == pytest.approx(93.1)


def test_a_new_revision_is_a_new_series_that_tracks_the_same_finding(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    outcome = findings(volume, positive=True)
    first = dcmread(io.BytesIO(report_of(outcome, volume)))
    second = dcmread(io.BytesIO(report_of(outcome, volume, revised(2))))
    assert first.SeriesInstanceUID != second.SeriesInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert second.SeriesDescription == "AI TRIAGE - NOT FOR DIAGNOSIS r2"
    assert second.SeriesNumber == 9111
    tracked = [
        items(report_of(outcome, volume, identity))["Tracking Unique Identifier"]
        for identity in (IDENTITY, revised(2))
    ]
    assert tracked[0] == tracked[1]


def test_doing_the_work_again_gives_the_same_bytes_in_any_order_of_files(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path / "one", SERIES)
    outcome = findings(volume, positive=True)
    assert report_of(outcome, volume) == report_of(outcome, volume)
    paths = write_series(tmp_path / "two", SERIES)
    assert report_of(outcome, volume) == report_of(outcome, sample_volume(tmp_path / "two", SERIES))
    assert len(paths) == 3


def test_only_what_has_to_be_acted_on_soon_is_urgent(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    positive, negative = (findings(volume, positive=answer) for answer in (True, False))
    assert [produced.urgent for produced in produce(positive, volume, IDENTITY)] == [True, True]
    assert [produced.urgent for produced in produce(negative, volume, IDENTITY)] == [False]
    assert not next(produce(replace(positive, urgency=ACR_3), volume, IDENTITY)).urgent


def test_a_report_on_many_images_stays_small(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, CtSeries(slices=100, rows=4, columns=4))
    assert len(report_of(findings(volume, positive=True), volume)) < 40_000


def test_the_finding_is_the_one_of_the_model(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    outcome = replace(
        findings(volume, positive=True),
        finding=replace(HAEMORRHAGE, value="36118008", meaning="Pneumothorax"),
    )
    assert items(report_of(outcome, volume))["Pneumothorax"] == ["52101004"]


def test_an_image_that_says_it_has_one_frame_is_referred_to_as_an_image(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES.with_attributes(NumberOfFrames=1))
    for made in produce(findings(volume, positive=True), volume, kinds=["sr", "sc", "ko"]):
        assert "Referenced Frame Number" not in str(made.dataset)


def test_a_source_of_an_unknown_class_is_given_up(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES.with_attributes(SOPClassUID="1.2.840.113619.4.99"))
    with pytest.raises(GiveUp):
        list(produce(findings(volume, positive=True), volume, kinds=["sr"]))


def test_a_report_that_cannot_be_made_keeps_no_card_from_people(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    volume = sample_volume(tmp_path, SERIES.with_attributes(SOPClassUID="1.2.840.113619.4.99"))
    made = list(produce(findings(volume, positive=True), volume))
    assert [(one.kind, one.urgent, one.stands_for) for one in made] == [("sc", True, None)]
    assert [(record.message, record.levelname) for record in caplog.records] == [("result_not_made", "ERROR")]
