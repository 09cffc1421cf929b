"""What takes an answer back: made of the very report or message that told it, whose images may be gone.

A report is superseded by one that says the same of patient, study, images and algorithm, and of the finding
that nothing is known. Its name is a function of the other's, so that nothing is taken back twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from highdicom import sr
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes

from appliance.dicom.codes import NOTICE, code_item
from appliance.dicom.uids import retraction_uid
from appliance.domain.errors import GiveUp
from appliance.results import Numbering, Produced
from appliance.results.attributes import local_time, put, put_moment, quiet, text
from appliance.results.card import Card, draw_card
from appliance.results.card_design import Tone, design_of
from appliance.results.hl7_message import control_id, escape, time_stamp
from appliance.results.secondary_capture import CARD_TITLE
from appliance.results.secondary_capture import SERIES_NUMBER as CARD_SERIES_NUMBER
from appliance.results.structured_report import (
    ABSENT,
    NONE_SUCCEEDED,
    PRESENT,
    PRIORITY,
    SERIES_NUMBER,
    SUMMARY,
    UNDETERMINED,
)

DESCRIPTION = "AI RETRACTED - NOT FOR DIAGNOSIS"

_GROUP, _FINDING, _COMMENT = "125007", "121071", "121106"  # DCM: containers and items of TID 1501
_TOLD = frozenset({PRESENT.value, ABSENT.value, UNDETERMINED.value})
_COLLECTIONS = ("SeriesInstanceUID", "SOPInstanceUID")
# Fields of OBX and OBR (HL7 v2.5.1 sections 7.4.1 and 7.4.2).
_VALUE_TYPE, _VALUE, _RANGE, _FLAGS, _STATUS, _OBSERVED_AT, _PRODUCER = 2, 5, 7, 8, 11, 14, 15
_OBR_REPORTED_AT, _OBR_STATUS = 22, 25
_TQ1_PRIORITY = 9
_ORDER_DETAIL = "O"  # table 0085: says which study it is, no result
_CORRECTED, _POSTED_AS_WRONG = "C", "W"
_NOTHING = '""'


def retracting_report(
    file: Path, moment: datetime, reason: str, numbering: Numbering, ae_title: str
) -> Produced:
    """The report that takes the place of the one in a Part-10 file; complete, preliminary and unverified.

    Raises:
        GiveUp: the file is no report of ours.
        OSError: it cannot be read.
    """
    with quiet():
        try:
            report = dcmread(file)
            earlier = _reference(report)
            _rename(report, moment, numbering, SERIES_NUMBER)
            put(report, "PredecessorDocumentsSequence", [earlier])
            groups = list(_groups(report))
            for group in groups:
                _take_back(group, reason)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise GiveUp(f"the report cannot be superseded: {type(error).__name__}") from None
    if not groups:
        raise GiveUp("the report cannot be superseded: it has no finding")
    return Produced("sr", True, report, ae_title)


def retracting_card(
    file: Path, moment: datetime, reason: str, numbering: Numbering, ae_title: str
) -> Produced:
    """The card that says that the one in a Part-10 file does not hold any more.

    Raises:
        GiveUp: the file is no card of ours.
        OSError: it cannot be read.
    """
    with quiet():
        try:
            capture = dcmread(file)
            at = _rename(capture, moment, numbering, CARD_SERIES_NUMBER)
            put(capture, "DateOfSecondaryCapture", at.strftime("%Y%m%d"))
            put(capture, "TimeOfSecondaryCapture", at.strftime("%H%M%S.%f"))
            put(capture, "DerivationDescription", f"Retracted: {capture.DerivationDescription}"[:1024])
            model = capture.ContributingEquipmentSequence[-1]
            version, checksum = model.SoftwareVersions[:2]
            card = Card(
                heading=str(capture.DerivationDescription).replace(CARD_TITLE, ""),
                remark="Withdrawn. Nobody is to act on the earlier card.",
                tone=Tone.UNKNOWN,
                pictures=(),
                score=None,
                reason=f"Reason: {text(reason, 600)}",
                model=f"{model.ContributionDescription} {version}",
                checksum=checksum.removeprefix("sha256:"),
                time=at.strftime("%Y-%m-%d %H:%M:%S %z").strip(),
            )
            capture["PixelData"].value = draw_card(card, design_of(capture.pixel_array)).tobytes()
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise GiveUp(f"the card cannot be withdrawn: {type(error).__name__}") from None
    return Produced("sc", True, capture, ae_title)


def _rename(dataset: Dataset, moment: datetime, numbering: Numbering, wanted: int) -> datetime:
    """Make another object of a result, in a series of its own; the moment in its time zone."""
    at = local_time(dataset, moment)
    for keyword in _COLLECTIONS:
        put(dataset, keyword, retraction_uid(str(dataset[keyword].value)))
    number = numbering(str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID), wanted)
    put(dataset, "SeriesNumber", number)
    put(dataset, "SeriesDescription", DESCRIPTION)
    for name in ("Series", "Content", "InstanceCreation"):
        put_moment(dataset, name, at)
    return at


def _reference(report: Dataset) -> Dataset:
    """Hierarchical SOP Instance Reference (PS3.3 table C.17-3)."""
    instance, series, study = Dataset(), Dataset(), Dataset()
    put(instance, "ReferencedSOPClassUID", str(report.SOPClassUID))
    put(instance, "ReferencedSOPInstanceUID", str(report.SOPInstanceUID))
    put(series, "SeriesInstanceUID", str(report.SeriesInstanceUID))
    put(series, "ReferencedSOPSequence", [instance])
    put(study, "StudyInstanceUID", str(report.StudyInstanceUID))
    put(study, "ReferencedSeriesSequence", [series])
    return study


def _groups(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence") or ():
        if _name(child) == _GROUP:
            yield child
        yield from _groups(child)


def _name(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeValue) if names else ""


def _take_back(group: Dataset, reason: str) -> None:
    """Leave of a measurement group what it is about; finding, score, urgency and comments go."""
    kept = []
    for item in group.ContentSequence:
        if item.ValueType == "NUM" or _name(item) in (_FINDING, _COMMENT, PRIORITY.value):
            continue
        if item.ValueType == "CODE" and item.ConceptCodeSequence[0].CodeValue in _TOLD:
            item.ConceptCodeSequence = [code_item(UNDETERMINED)]
        elif _name(item) == SUMMARY.value:
            item.ConceptCodeSequence = [code_item(NONE_SUCCEEDED)]
        kept.append(item)
    for comment in (text(f"Retracted: {reason}", 1024), "Nobody is to act on the earlier report.", NOTICE):
        kept.append(sr.TextContentItem(codes.DCM.Comment, comment, "CONTAINS"))
    group.ContentSequence = kept


def retracting_message(content: bytes, moment: datetime, reason: str, uid: str, *, wrong: bool) -> bytes:
    """The HL7 message that corrects the one in `content`, whatever template it was made of.

    Results become corrected ones (OBR-25 and OBX-11 `C`) without a value, a flag or a category; OBX-11 is
    `W` if they were told of the `wrong` patient or study (HL7 table 0085).
    """
    at = time_stamp(moment)
    segments = []
    notes = 0
    for segment in content.decode("utf-8").rstrip("\r").split("\r"):
        fields = segment.split("|")
        match fields[0]:
            case "MSH":
                fields[6], fields[9] = at, control_id(uid)
            case "OBR":
                _set(fields, _OBR_REPORTED_AT, at)
                _set(fields, _OBR_STATUS, _CORRECTED)
            case "TQ1":
                _set(fields, _TQ1_PRIORITY, "R^Routine^HL70485")
            case "OBX":
                _correct(fields, at, _POSTED_AS_WRONG if wrong else _CORRECTED)
            case "NTE":
                if escape(NOTICE) not in segment:  # the others may repeat the score
                    continue
                notes += 1
        segments.append("|".join(fields))
    segments.append(f"NTE|{notes + 1}||{escape(f'Retracted: {reason}')}")
    return "".join(f"{segment}\r" for segment in segments).encode()


def _correct(fields: list[str], at: str, status: str) -> None:
    fields += [""] * (_STATUS + 1 - len(fields))
    if fields[_STATUS] in ("", _ORDER_DETAIL):
        return
    was = next((part for part in fields[_VALUE].split("^")[1:2] if part), "result")
    coded = fields[_VALUE_TYPE] in ("CE", "CWE")
    fields[_VALUE] = f"^Retracted: {was}" if coded else _NOTHING
    fields[_STATUS] = status
    for index in (_RANGE, _FLAGS, _PRODUCER):
        _set(fields, index, "")
    _set(fields, _OBSERVED_AT, at)


def _set(fields: list[str], index: int, value: str) -> None:
    if index < len(fields):
        fields[index] = value


def retracting_document(content: bytes, moment: datetime, reason: str, uid: str) -> bytes:
    """The JSON document that takes back the one in `content`: with the outcome `retracted`."""
    document = json.loads(content)
    document |= {
        "id": uid,
        "created": moment.isoformat(timespec="milliseconds"),
        "outcome": "retracted",
        "category": None,
        "act_within": None,
        "retracts": document["id"],
        "reason": reason,
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
