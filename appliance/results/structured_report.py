"""The answer of a triage model as a Comprehensive 3D SR, TID 1500, positive or negative.

Always COMPLETE, PRELIMINARY and UNVERIFIED. A score never stands without its threshold.
"""

from __future__ import annotations

from highdicom import sr
from pydicom import Dataset
from pydicom.sr.codedict import codes

from appliance.dicom.codes import ARTIFICIAL_INTELLIGENCE, NOTICE, NOTICE_SHORT
from appliance.dicom.outcome import Code, Findings, Identity
from appliance.dicom.uids import result_series_uid, result_uid, tracking_uid
from appliance.dicom.volume import Volume
from appliance.results.attributes import (
    copy_patient_and_study,
    put_origin,
    quiet,
    revised_number,
    revised_text,
    source_value,
    text,
)

SERIES_NUMBER = 9101

_CT_HEAD = Code("24725-4", "LN", "CT Head")
_CT_UNSPECIFIED = Code("25045-6", "LN", "CT Unspecified body region")
_HEAD_WORDS = frozenset({"HEAD", "BRAIN", "SKULL"})
_PRESENT = Code("52101004", "SCT", "Present")
_ABSENT = Code("272519000", "SCT", "Absent")
_PRIORITY = Code("260870009", "SCT", "Priority")
_SUMMARY = Code("111017", "DCM", "CAD Processing and Findings Summary")
_WITH_FINDINGS = Code("111242", "DCM", "All algorithms succeeded; with findings")
_WITHOUT_FINDINGS = Code("111241", "DCM", "All algorithms succeeded; without findings")
_CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
_PROBABILITY = Code("122157", "DCM", "Probability")


def structured_report(outcome: Findings, volume: Volume, identity: Identity) -> Dataset:
    """The report; its evidence lists every analysed image, its content only the key image."""
    source = volume.sources[outcome.key_slice]
    series = str(source.SeriesInstanceUID)
    digest, revision = identity.pipeline_digest, identity.revision
    with quiet():
        report = sr.Comprehensive3DSR(
            evidence=[_evidence(header) for header in volume.sources],
            content=_content(outcome, source, identity)[0],
            series_instance_uid=result_series_uid("sr", series, digest, revision),
            series_number=revised_number(SERIES_NUMBER, revision),
            sop_instance_uid=result_uid("sr", series, volume.pixel_sha256, digest, revision),
            instance_number=1,
            is_complete=True,
            is_final=False,
            is_verified=False,
            series_description=revised_text(NOTICE_SHORT, revision),
            content_qualification="RESEARCH",
            specific_character_set=None,
        )
        copy_patient_and_study(source, report)
        put_origin(report, source, identity)
    return report


def _evidence(header: Dataset) -> Dataset:
    """What highdicom is told of an image: no patient attributes, which it would check and log."""
    reference = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        setattr(reference, keyword, header[keyword].value)
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"):
        setattr(reference, keyword, "")
    reference.StudyID = reference.StudyDate = reference.StudyTime = None
    return reference


def _content(outcome: Findings, source: Dataset, identity: Identity) -> sr.MeasurementReport:
    return sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=_observer(identity)),
        procedure_reported=_procedure(source),
        imaging_measurements=[_measurement_group(outcome, source, identity)],
        title=codes.DCM.ImagingMeasurementReport,
    )


def _observer(identity: Identity) -> sr.ObserverContext:
    station = identity.station
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


def _procedure(source: Dataset) -> sr.CodedConcept:
    """The imaging procedure: as the source codes it, else what can be said of any CT."""
    for item in source_value(source, "ProcedureCodeSequence") or ():
        value, scheme, meaning = (
            str(source_value(item, keyword) or "")
            for keyword in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
        )
        if value and scheme and meaning:
            return sr.CodedConcept(value, scheme, meaning)
    words = str(source_value(source, "BodyPartExamined") or "").upper()
    return _concept(_CT_HEAD if words in _HEAD_WORDS else _CT_UNSPECIFIED)


def _measurement_group(
    outcome: Findings, source: Dataset, identity: Identity
) -> sr.MeasurementsAndQualitativeEvaluations:
    evaluations = [
        (outcome.finding, _PRESENT if outcome.positive else _ABSENT),
        (_SUMMARY, _WITH_FINDINGS if outcome.positive else _WITHOUT_FINDINGS),
    ]
    references = []
    if outcome.positive:
        evaluations.append((_PRIORITY, outcome.urgency))
        references.append(
            sr.SourceImageForMeasurementGroup(str(source.SOPClassUID), str(source.SOPInstanceUID))
        )
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=tracking_uid(str(source.SeriesInstanceUID), outcome.finding.value, identity.pipeline_digest),
            identifier=text(f"{identity.model.id} {outcome.finding.meaning}", 64),
        ),
        # A reader that looks at "Finding" only must not take a negative report for a positive one.
        finding_type=_concept(outcome.finding) if outcome.positive else None,
        finding_sites=[sr.FindingSite(_concept(outcome.site))],
        algorithm_id=_algorithm(outcome, identity),
        measurements=[
            sr.Measurement(
                name=_concept(_PROBABILITY if outcome.calibrated else _CERTAINTY),
                value=round(100.0 * float(outcome.score), 2),
                unit=codes.UCUM.Percent,
            )
        ],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(_concept(name), _concept(value)) for name, value in evaluations
        ],
        source_images=references,
    )
    group[0].ContentSequence.append(sr.TextContentItem(codes.DCM.Comment, NOTICE, "CONTAINS"))
    return group


def _algorithm(outcome: Findings, identity: Identity) -> sr.AlgorithmIdentification:
    """TID 4019: which weights, which operating point, what the score means."""
    model = identity.model
    parameters = [
        f"threshold={100.0 * outcome.threshold:.2f} %",
        f"score={'calibrated probability' if outcome.calibrated else 'uncalibrated, model scale'}",
        f"sha256={model.sha256}",
        *(f"{name}={value}" for name, value in sorted(identity.parameters.items())),
    ]
    return sr.AlgorithmIdentification(
        name=text(model.title, 64),
        version=text(model.version, 64),
        manufacturer=text(model.manufacturer, 64),
        family=_concept(ARTIFICIAL_INTELLIGENCE),
        parameters=[text(parameter, 1024) for parameter in parameters],
    )


def _concept(code: Code) -> sr.CodedConcept:
    return sr.CodedConcept(code.value, code.scheme, code.meaning)
