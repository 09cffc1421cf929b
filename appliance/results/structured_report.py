"""The answer of a triage model as a Comprehensive 3D SR or, for those who refuse it, a Comprehensive SR.

TID 1500, positive, negative or not analysed.

Always COMPLETE, PRELIMINARY and UNVERIFIED. A score never stands without its threshold.
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom import sr
from pydicom import Dataset
from pydicom.sr.codedict import codes

from appliance.dicom.codes import NOTICE, NOTICE_SHORT
from appliance.dicom.outcome import Code, EarlierReport, Findings, Identity, NotAnalysed, Subject
from appliance.dicom.uids import result_series_uid, result_uid
from appliance.dicom.volume import Volume
from appliance.results.attributes import (
    copy_patient_and_study,
    put,
    put_origin,
    quiet,
    reference_to,
    revised_number,
    revised_text,
    source_value,
    text,
)
from appliance.results.content import FAMILY, concept, evidence, observer, tracking

SERIES_NUMBER = 9101

_CT_HEAD = Code("24725-4", "LN", "CT Head")
_HEAD_WORDS = frozenset({"HEAD", "BRAIN", "SKULL"})
_UNSPECIFIED_PROCEDURES = {
    "CT": Code("25045-6", "LN", "CT Unspecified body region"),
    "MR": Code("25056-3", "LN", "MRI Unspecified body region"),
    "US": Code("25061-3", "LN", "US Unspecified body region"),
    "CR": Code("43468-8", "LN", "XR Unspecified body region Views"),
    "DX": Code("43468-8", "LN", "XR Unspecified body region Views"),
}
_IMAGING = Code("363679005", "SCT", "Imaging procedure")
PRESENT = Code("52101004", "SCT", "Present")
ABSENT = Code("272519000", "SCT", "Absent")
UNDETERMINED = Code("373068000", "SCT", "Undetermined")
PRIORITY = Code("260870009", "SCT", "Priority")
SUMMARY = Code("111017", "DCM", "CAD Processing and Findings Summary")
_WITH_FINDINGS = Code("111242", "DCM", "All algorithms succeeded; with findings")
_WITHOUT_FINDINGS = Code("111241", "DCM", "All algorithms succeeded; without findings")
NONE_SUCCEEDED = Code("111245", "DCM", "No algorithms succeeded; without findings")
_CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
_PROBABILITY = Code("122157", "DCM", "Probability")

_PURPOSES = {False: "sr", True: "sr-simpler"}
"""What goes into the UID of a report, and of its simpler form."""

_Group = sr.MeasurementsAndQualitativeEvaluations


def structured_report(
    outcome: Findings, volume: Volume, identity: Identity, *, simpler: bool = False
) -> Dataset:
    """The report; its evidence lists every analysed image, its content only the key image.

    With `simpler`, of the class Comprehensive SR, which more systems take, with the same content.
    """
    source = volume.sources[outcome.key_slice]
    uid = result_uid(
        _PURPOSES[simpler],
        str(source.SeriesInstanceUID),
        volume.pixel_sha256,
        identity.pipeline_digest,
        identity.edition,
    )
    make = sr.ComprehensiveSR if simpler else sr.Comprehensive3DSR
    group = _finding_group(outcome, volume, identity)
    return _document(make, group, volume.sources, source, uid, identity)


def unanalysed_report(
    outcome: NotAnalysed,
    subject: Subject,
    sources: Sequence[Dataset],
    identity: Identity,
    *,
    simpler: bool = False,
) -> Dataset:
    """The report that a model gave no answer, and why; its evidence lists every image of the series."""
    uid = result_uid(
        _PURPOSES[simpler],
        str(sources[0].SeriesInstanceUID),
        [str(source.SOPInstanceUID) for source in sources],
        identity.pipeline_digest,
        identity.edition,
    )
    make = sr.ComprehensiveSR if simpler else sr.Comprehensive3DSR
    group = _unanalysed_group(outcome, subject, sources[0], identity)
    return _document(make, group, sources, sources[0], uid, identity)


def _document(
    make: type[sr.ComprehensiveSR | sr.Comprehensive3DSR],
    group: _Group,
    sources: Sequence[Dataset],
    key: Dataset,
    sop_instance_uid: str,
    identity: Identity,
) -> Dataset:
    digest, edition = identity.pipeline_digest, identity.edition
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer(identity.station)),
        procedure_reported=_procedure(key),
        imaging_measurements=[group],
        title=codes.DCM.ImagingMeasurementReport,
    )
    earlier = identity.earlier_report
    with quiet():
        report = make(
            evidence=evidence(sources),
            content=content[0],
            series_instance_uid=result_series_uid("sr", str(key.SeriesInstanceUID), digest, edition),
            series_number=revised_number(SERIES_NUMBER, identity.revision),
            sop_instance_uid=sop_instance_uid,
            instance_number=1,
            is_complete=True,
            is_final=False,
            is_verified=False,
            series_description=revised_text(NOTICE_SHORT, identity),
            content_qualification="RESEARCH",
            specific_character_set=None,
            previous_versions=None if earlier is None else [_predecessor(earlier)],
        )
        copy_patient_and_study(key, report)
        put_origin(report, key, identity)
        _separate(report)
    return report


def _separate(container: Dataset) -> None:
    """Let viewers show each item with its name (PS3.3 C.17.3.2.1).

    Where the content may be read as sentences, they leave the names out: "Absent", but not what is absent.
    """
    put(container, "ContinuityOfContent", "SEPARATE")
    for item in container.ContentSequence:
        if item.ValueType == "CONTAINER":
            _separate(item)


def _predecessor(earlier: EarlierReport) -> Dataset:
    reference = Dataset()
    reference.SOPClassUID, reference.SOPInstanceUID = earlier.sop_class_uid, earlier.sop_instance_uid
    reference.StudyInstanceUID = earlier.study_instance_uid
    reference.SeriesInstanceUID = earlier.series_instance_uid
    return reference


def _procedure(source: Dataset) -> sr.CodedConcept:
    """The imaging procedure: as the source codes it, else what can be said of any of its modality."""
    for item in source_value(source, "ProcedureCodeSequence") or ():
        value, scheme, meaning = (
            str(source_value(item, keyword) or "")
            for keyword in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
        )
        if value and scheme and meaning:
            return sr.CodedConcept(value, scheme, meaning)
    modality = str(source_value(source, "Modality") or "")
    if modality == "CT" and str(source_value(source, "BodyPartExamined") or "").upper() in _HEAD_WORDS:
        return concept(_CT_HEAD)
    return concept(_UNSPECIFIED_PROCEDURES.get(modality, _IMAGING))


def _finding_group(outcome: Findings, volume: Volume, identity: Identity) -> _Group:
    source = volume.sources[outcome.key_slice]
    evaluations = [
        (outcome.finding, PRESENT if outcome.positive else ABSENT),
        (SUMMARY, _WITH_FINDINGS if outcome.positive else _WITHOUT_FINDINGS),
    ]
    references = []
    if outcome.positive:
        evaluations.append((PRIORITY, outcome.urgency))
        key = reference_to(volume, outcome.key_slice)
        references.append(
            sr.SourceImageForMeasurementGroup(
                str(key.ReferencedSOPClassUID),
                str(key.ReferencedSOPInstanceUID),
                [int(key.ReferencedFrameNumber)] if "ReferencedFrameNumber" in key else None,
            )
        )
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(outcome.finding, source, identity),
        # A reader that looks at "Finding" only must not take a negative report for a positive one.
        finding_type=concept(outcome.finding) if outcome.positive else None,
        finding_sites=[sr.FindingSite(concept(outcome.site))],
        algorithm_id=_algorithm(_operating_point(outcome), identity),
        measurements=[
            sr.Measurement(
                name=concept(_PROBABILITY if outcome.calibrated else _CERTAINTY),
                value=round(100.0 * float(outcome.score), 2),
                unit=codes.UCUM.Percent,
            )
        ],
        qualitative_evaluations=_evaluations(evaluations),
        source_images=references,
    )
    return _with_comments(group, [*_earliness(volume, identity), NOTICE])


def _earliness(volume: Volume, identity: Identity) -> list[str]:
    if not identity.early:
        return []
    images = len({str(source.SOPInstanceUID) for source in volume.sources})
    return [f"Early result on the {images} images that had arrived. A report on all images takes its place."]


def _unanalysed_group(outcome: NotAnalysed, subject: Subject, source: Dataset, identity: Identity) -> _Group:
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(subject.finding, source, identity),
        finding_sites=[sr.FindingSite(concept(subject.site))],
        algorithm_id=_algorithm([], identity),
        qualitative_evaluations=_evaluations([(subject.finding, UNDETERMINED), (SUMMARY, NONE_SUCCEEDED)]),
    )
    why = text(f"Not analysed ({outcome.reason}): {outcome.detail}", 1024)
    return _with_comments(group, [why, NOTICE])


def _with_comments(group: _Group, comments: Sequence[str]) -> _Group:
    for comment in comments:
        group[0].ContentSequence.append(sr.TextContentItem(codes.DCM.Comment, comment, "CONTAINS"))
    return group


def _evaluations(pairs: Sequence[tuple[Code, Code]]) -> list[sr.QualitativeEvaluation]:
    return [sr.QualitativeEvaluation(concept(name), concept(value)) for name, value in pairs]


def _tracking(finding: Code, source: Dataset, identity: Identity) -> sr.TrackingIdentifier:
    uid, identifier = tracking(finding, source, identity)
    return sr.TrackingIdentifier(uid=uid, identifier=identifier)


def _operating_point(outcome: Findings) -> list[str]:
    return [
        f"threshold={100.0 * outcome.threshold:.2f} %",
        f"score={'calibrated probability' if outcome.calibrated else 'uncalibrated, model scale'}",
    ]


def _algorithm(operating_point: Sequence[str], identity: Identity) -> sr.AlgorithmIdentification:
    """TID 4019: which weights, which operating point, what the score means."""
    model = identity.model
    named = [f"{name}={value}" for name, value in sorted(identity.parameters.items()) if name != "threshold"]
    ran = [f"runtime={one}" for one in model.ran]
    parameters = [*operating_point, f"sha256={model.sha256}", *named, *ran]
    return sr.AlgorithmIdentification(
        name=text(model.title, 64),
        version=text(model.version, 64),
        manufacturer=text(model.manufacturer, 64),
        family=concept(FAMILY),
        parameters=[text(parameter, 1024) for parameter in parameters],
    )
