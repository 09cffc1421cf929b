"""A finding as an HL7 v2 message (ORU^R01), made from a template file: sites place things differently."""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path

from appliance.dicom.codes import NOTICE
from appliance.dicom.outcome import Code
from appliance.domain.errors import Misconfigured
from appliance.results.notification import Notification

CHARACTER_SET = "UNICODE UTF-8"
"""MSH-18 (HL7 table 0211) of every message."""

_ENCODING_CHARACTERS = r"MSH|^~\&|"
_PLACEHOLDER = re.compile(r"\{([a-z0-9_]+)\}")
_SEGMENT = re.compile(r"[A-Z][A-Z0-9]{2}\|")
# HL7 v2.5.1 section 2.7.1.
_ESCAPES = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}
_PRIORITIES = {"minutes": "S^STAT^HL70485", "hours": "A^ASAP^HL70485"}
_ABNORMAL = {
    "minutes": "AA^Very abnormal^HL70078",
    "hours": "A^Abnormal^HL70078",
    "days": "A^Abnormal^HL70078",
}
# The field of each kind of result that says how final it is.
_STATUS_FIELDS = {"OBR": 25, "OBX": 11}


@dataclass(frozen=True)
class Parties:
    """Who speaks to whom, MSH-3 to MSH-6, and the value type of the Study Instance UID: HD or ST."""

    sending_application: str
    sending_facility: str
    receiving_application: str
    receiving_facility: str
    study_uid_type: str


@dataclass(frozen=True)
class Template:
    """The segments of a message, with names in braces where something is to be filled in."""

    segments: tuple[str, ...]


PLACEHOLDERS: Mapping[str, str] = {
    "sending_application": "the setting of this name",
    "sending_facility": "the setting of this name",
    "receiving_application": "the setting of this name",
    "receiving_facility": "the setting of this name",
    "study_uid_type": "the setting of this name",
    "message_time": "when the result was made, with the time zone",
    "message_control_id": "20 characters, the same whenever this message is sent again",
    "patient_id": "Patient ID (0010,0020)",
    "patient_id_issuer": "Issuer of Patient ID (0010,0021)",
    "patient_name": "Patient's Name (0010,0010), its alphabetic group, as XPN",
    "patient_birth_date": "Patient's Birth Date (0010,0030)",
    "patient_sex": "Patient's Sex (0010,0040): M, F or O",
    "placer_order_number": "Placer Order Number (0040,2016)",
    "filler_order_number": "Filler Order Number (0040,2017), else the accession number, the filler's",
    "accession_number": "Accession Number (0008,0050)",
    "requested_procedure_id": "Requested Procedure ID (0040,1001)",
    "procedure": "what was done, as CE: coded where the source codes it",
    "priority": "S^STAT, A^ASAP or R^Routine of HL7 table 0485, by the category",
    "study_instance_uid": "Study Instance UID (0020,000D)",
    "series_instance_uid": "Series Instance UID (0020,000E) of the series that was analysed",
    "key_sop_instance_uid": "SOP Instance UID (0008,0018) of the image that shows the finding best",
    "report_sop_instance_uid": "SOP Instance UID of the structured report, empty where none is made",
    "finding": "the finding as CWE; for a negative result only the words that it is absent",
    "abnormal_flag": "AA, A or N of HL7 table 0078, by the category",
    "category": "ACR category as CWE; empty for a negative result",
    "score_name": "what the score is: Certainty of Finding or, of a calibrated model, Probability",
    "score": "score in percent",
    "threshold": "threshold in percent, at and above which a result is positive",
    "model": "title and version of the model",
    "notice": "that no physician has reviewed this",
}
"""What a template may hold, and what it stands for."""


def load_template(setting: str, path: Path) -> Template:
    """The template in a file. `setting` is where the file is named, for the message.

    Raises:
        Misconfigured: with a sentence for every mistake, which names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured([f"{setting}: {path} cannot be read: {type(error).__name__}"]) from error
    lines = [
        (number, line.rstrip())
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.startswith("#")
    ]
    problems = [f"{setting}: {path.name} line {number}: {problem}" for number, problem in _problems(lines)]
    if problems:
        raise Misconfigured(problems)
    return Template(tuple(line for _, line in lines))


def _problems(lines: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    number, header = lines[0] if lines else (1, "")
    fields = header.split("|")
    if not header.startswith(_ENCODING_CHARACTERS):
        yield number, f"the first segment must begin with {_ENCODING_CHARACTERS}"
    elif _field(fields, 9) != "{message_control_id}":
        yield number, "MSH-10 must be {message_control_id}"
    elif _field(fields, 17) != CHARACTER_SET:
        yield number, f"MSH-18 must be {CHARACTER_SET}"
    for number, line in lines:
        yield from ((number, problem) for problem in _problems_of(line))
    if not any("{notice}" in line for _, line in lines):
        yield number, "no segment has {notice}: whoever reads a result must learn that nobody reviewed it"


def _problems_of(line: str) -> Iterator[str]:
    if not _SEGMENT.match(line):
        yield "is no segment: three characters and | are expected"
    if any(unicodedata.category(character) == "Cc" for character in line):
        yield "has a control character"
    for name in _PLACEHOLDER.findall(line):
        if name not in PLACEHOLDERS:
            similar = get_close_matches(name, PLACEHOLDERS, n=1)
            yield f"{{{name}}} is not known" + (f"; did you mean {{{similar[0]}}}?" if similar else "")
    if re.search(r"[{}]", _PLACEHOLDER.sub("", line)):
        yield "has a brace without a name"
    fields = line.split("|")
    status = _STATUS_FIELDS.get(fields[0])
    if status is not None and _field(fields, status) == "F":
        yield f"{fields[0]}-{status} must not be F: a result that nobody reviewed is never final"


def _field(fields: list[str], index: int) -> str:
    return fields[index] if index < len(fields) else ""


def oru_message(told: Notification, message_uid: str, parties: Parties, template: Template) -> bytes:
    """The message, its segments ended by carriage returns, without the framing of MLLP."""
    values = _values(told, message_uid, parties)
    segments = (_PLACEHOLDER.sub(lambda match: values[match[1]], line) for line in template.segments)
    return "".join(f"{segment}\r" for segment in segments).encode("utf-8", "replace")


def control_id(message_uid: str) -> str:
    """MSH-10: 20 characters, as many as every version of HL7 takes."""
    return base64.b32encode(hashlib.sha256(message_uid.encode()).digest())[:20].decode()


def escape(value: str) -> str:
    """Text that is data: none of its characters separates anything."""
    return "".join(map(_escaped, value))


def _escaped(character: str) -> str:
    if unicodedata.category(character) == "Cc":
        return f"\\X{character.encode().hex().upper()}\\"
    return _ESCAPES.get(character, character)


def _values(told: Notification, message_uid: str, parties: Parties) -> dict[str, str]:
    patient, order, when = told.patient, told.order, told.acts_within
    texts = {
        "sending_application": parties.sending_application,
        "sending_facility": parties.sending_facility,
        "receiving_application": parties.receiving_application,
        "receiving_facility": parties.receiving_facility,
        "study_uid_type": parties.study_uid_type,
        "message_time": time_stamp(told.created),
        "message_control_id": control_id(message_uid),
        "patient_id": patient.id,
        "patient_id_issuer": patient.issuer,
        "patient_birth_date": patient.birth_date,
        "patient_sex": patient.sex,
        "placer_order_number": order.placer_number,
        "filler_order_number": order.filler_number or order.accession_number,
        "accession_number": order.accession_number,
        "requested_procedure_id": order.procedure_id,
        "study_instance_uid": told.study_instance_uid,
        "series_instance_uid": told.series_instance_uid,
        "key_sop_instance_uid": told.key_image.sop_instance_uid,
        "report_sop_instance_uid": told.uid if told.report_series_instance_uid else "",
        "score": f"{100.0 * told.score:.1f}",
        "threshold": f"{100.0 * told.threshold:.1f}",
        "model": f"{told.model.title} {told.model.version}",
        "notice": NOTICE,
    }
    return {
        **{name: escape(value) for name, value in texts.items()},
        "patient_name": person_name(patient.name),
        "procedure": _coded(order.procedure),
        "priority": _PRIORITIES.get(when or "", "R^Routine^HL70485"),
        # Without a code: whoever looks for the code of the finding must not take a negative result for one.
        "finding": _coded(told.finding) if told.positive else f"^{escape(f'{told.finding.meaning}: absent')}",
        "abnormal_flag": _ABNORMAL[when] if when else "N^Normal^HL70078",
        "category": _coded(told.urgency) if told.positive else "",
        "score_name": "122157^Probability^DCM" if told.calibrated else "111012^Certainty of Finding^DCM",
    }


def person_name(name: str) -> str:
    """XPN of a DICOM person name: its alphabetic group, with prefix and suffix in the other order.

    PS3.5 section 6.2 has family, given, middle, prefix, suffix; HL7 v2.5.1 section 2.A.88 has family, given,
    middle, suffix, prefix. A name without an alphabetic group gives its first one.
    """
    group = next((group for group in name.split("=") if group.strip("^ ")), "")
    family, given, middle, prefix, suffix, *_ = [*(part.strip() for part in group.split("^")), *[""] * 5]
    return "^".join(map(escape, (family, given, middle, suffix, prefix))).rstrip("^")


def _coded(code: Code) -> str:
    return "^".join(map(escape, (code.value, code.meaning, code.scheme))).rstrip("^")


def time_stamp(moment: datetime) -> str:
    """A moment as TS."""
    # HL7 v2.5.1 section 2.A.22: milliseconds, and the zone in hours and minutes.
    return f"{moment:%Y%m%d%H%M%S}.{moment.microsecond // 1000:03d}{moment:%z}"[:23]
