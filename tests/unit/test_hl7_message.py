"""ORU^R01 from a template file, read back by python-hl7."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import hl7
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config.destinations import Hl7Destination
from appliance.dicom.codes import NOTICE
from appliance.domain.errors import Misconfigured
from appliance.results.hl7_message import (
    PLACEHOLDERS,
    Parties,
    control_id,
    escape,
    load_template,
    oru_message,
    person_name,
)
from appliance.results.notification import Notification, Patient
from tests.message_samples import NEGATIVE, NOTIFICATION

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ROOT / "config" / "hl7" / "oru_r01.template"
PARTIES = Parties("EDGEINFER", "SITE", "RIS", "HOSPITAL", "HD")
HEADER = "MSH|^~\\&|A|B|C|D|{message_time}||ORU^R01|{message_control_id}|P|2.5.1|||AL|NE||UNICODE UTF-8"
UID = "2.25.4711"


def rendered(told: Notification = NOTIFICATION, parties: Parties = PARTIES) -> hl7.Message:
    """The default message as python-hl7 reads it."""
    content = oru_message(told, UID, parties, load_template("template", DEFAULT))
    return hl7.parse(content.decode("utf-8"))


def field(message: hl7.Message, segment: str, index: int) -> str:
    """A field as it was sent."""
    return str(message.segment(segment)[index])


def unescaped(message: hl7.Message, value: str) -> str:
    """What a receiver makes of an escaped value; python-hl7 reads a hexadecimal escape as Latin-1."""
    plain: str = message.unescape(value)
    return plain


def problems(folder: Path, text: str) -> list[str]:
    path = folder / "site.template"
    path.write_text(text)
    with pytest.raises(Misconfigured) as caught:
        load_template("destinations.ris.template", path)
    return caught.value.problems


def test_the_default_message_says_what_was_found_in_which_study() -> None:
    message = rendered()
    assert [str(segment[0]) for segment in message] == [
        *("MSH", "PID", "PV1", "ORC", "OBR", "TQ1", "OBX", "OBX", "OBX", "NTE", "NTE")
    ]
    assert field(message, "MSH", 9) == "ORU^R01^ORU_R01"
    assert field(message, "MSH", 7) == "20260102113015.250+0100"
    assert field(message, "MSH", 18) == "UNICODE UTF-8"
    assert field(message, "PID", 3) == "SYNTHETIC-1^^^SITE^MR"
    assert field(message, "PID", 5) == "Sample^Synthetic^Middle^Jr^Dr"
    assert field(message, "PID", 7) == "19700101"
    assert field(message, "OBR", 2) == "PLACER1"
    assert field(message, "OBR", 3) == "FILLER1"
    assert field(message, "OBR", 4) == "CTHEAD^CT of the head^99SITE"
    assert field(message, "OBR", 18) == "ACC1"
    assert field(message, "OBR", 19) == "RP1"
    assert field(message, "OBR", 25) == "P"
    assert field(message, "TQ1", 9) == "S^STAT^HL70485"
    study, finding, score = message.segments("OBX")
    assert [str(study[2]), str(study[5]), str(study[11])] == ["HD", "1.2.3", "O"]
    assert str(finding[5]) == "1386000^Intracranial hemorrhage^SCT"
    assert str(finding[8]) == "AA^Very abnormal^HL70078"
    assert str(finding[15]) == "RID49480^ACR Category 1 Actionable Finding^RADLEX"
    assert [str(score[3]), str(score[5]), str(score[7])] == [
        "111012^Certainty of Finding^DCM",
        "93.1",
        "<62.0",
    ]
    assert {str(finding[11]), str(score[11])} == {"P"}
    assert str(message.segments("NTE")[0][3]) == NOTICE


def test_nothing_of_a_negative_message_can_be_taken_for_the_finding() -> None:
    message = rendered(NEGATIVE)
    finding = message.segments("OBX")[1]
    assert str(finding[5]) == "^Intracranial hemorrhage: absent"
    assert str(finding[8]) == "N^Normal^HL70078"
    assert str(finding[15]) == ""
    assert field(message, "TQ1", 9) == "R^Routine^HL70485"
    assert "1386000" not in str(message)


def test_the_value_type_of_the_study_is_as_configured() -> None:
    message = rendered(parties=replace(PARTIES, study_uid_type="ST"))
    assert str(message.segments("OBX")[0][2]) == "ST"


def test_a_time_zone_with_minutes_and_an_order_without_a_filler_number() -> None:
    kolkata = datetime(2026, 1, 2, 11, 30, 15, 999999, tzinfo=ZoneInfo("Asia/Kolkata"))
    order = replace(NOTIFICATION.order, filler_number="")
    message = rendered(replace(NOTIFICATION, created=kolkata, order=order))
    assert field(message, "MSH", 7) == "20260102113015.999+0530"
    assert field(message, "OBR", 3) == "ACC1"


def test_control_ids_are_short_stable_and_different() -> None:
    ids = {control_id(f"2.25.{number}") for number in range(500)}
    assert len(ids) == 500
    assert {len(one) for one in ids} == {20}
    assert control_id("2.25.1") == control_id("2.25.1")
    assert field(rendered(), "MSH", 10) == control_id(UID)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada^Tarou"),
        ("=山田^太郎", "山田^太郎"),
        ("Müller^Jürgen^^Dr.^M.D.", "Müller^Jürgen^^M.D.^Dr."),
        ("Adams^John", "Adams^John"),
        ("Smith", "Smith"),
        ("O|Neil^A&B", "O\\F\\Neil^A\\T\\B"),
        ("a^b^c^d^e^f^g", "a^b^c^e^d"),
        ("", ""),
        ("^^=", ""),
    ],
)
def test_person_names(name: str, expected: str) -> None:
    assert person_name(name) == expected


texts = st.text(st.characters(codec="utf-8"), max_size=40)


@given(texts)
def test_escaped_text_holds_no_separator_and_comes_back(value: str) -> None:
    escaped = escape(value)
    assert not set(escaped) & set("|^~&\r\n\x0b\x1c\x00")
    back = re.sub(
        r"\\(?:([FSTRE])|X([0-9A-F]+))\\",
        lambda match: (
            {"F": "|", "S": "^", "T": "&", "R": "~", "E": "\\"}[match[1]]
            if match[1]
            else bytes.fromhex(match[2]).decode()
        ),
        escaped,
    )
    assert back == value


@given(patient=st.builds(Patient, texts, texts, texts, texts, texts), accession=texts, meaning=texts)
def test_no_value_moves_a_field(patient: Patient, accession: str, meaning: str) -> None:
    order = replace(NOTIFICATION.order, accession_number=accession)
    finding = replace(NOTIFICATION.finding, meaning=meaning)
    content = oru_message(
        replace(NOTIFICATION, patient=patient, order=order, finding=finding),
        UID,
        PARTIES,
        load_template("template", DEFAULT),
    )
    assert not set(content) & {0x0B, 0x1C}
    message = hl7.parse(content.decode("utf-8"))
    plain = rendered()
    assert [str(segment[0]) for segment in message] == [str(segment[0]) for segment in plain]
    for segment, same in zip(message, plain, strict=True):
        assert len(segment) == len(same)
    if accession.isprintable():
        assert unescaped(message, field(message, "OBR", 18)) == accession


def test_the_default_template_is_the_default() -> None:
    settings = Hl7Destination(kind="hl7", host="ris", port=2575)
    assert settings.template == DEFAULT
    used = set(re.findall(r"\{([a-z_]+)\}", DEFAULT.read_text()))
    assert used <= set(PLACEHOLDERS)


def test_the_documentation_lists_every_placeholder() -> None:
    documented = dict(
        re.findall(r"^\| `\{([a-z_]+)\}` \| (.+) \|$", (ROOT / "docs/messages.md").read_text(), re.M)
    )
    assert documented == PLACEHOLDERS


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("OBX|1|ST|{findng}", "{findng} is not known; did you mean {finding}?"),
        ("OBX|1|ST|{Finding}", "has a brace without a name"),
        ("OBX|1|ST|}", "has a brace without a name"),
        ("OB|1", "is no segment: three characters and | are expected"),
        ("OBX|1|ST|a||b||||||F", "OBX-11 must not be F: a result that nobody reviewed is never final"),
        ("OBR" + 25 * "|" + "F", "OBR-25 must not be F: a result that nobody reviewed is never final"),
        ("OBX|1|ST|\t", "has a control character"),
    ],
)
def test_a_template_with_a_mistake_is_refused_with_its_line(tmp_path: Path, line: str, problem: str) -> None:
    text = f"# a comment\n{HEADER}\nNTE|1||{{notice}}\n\n{line}|x\n"
    assert problems(tmp_path, text) == [f"destinations.ris.template: site.template line 5: {problem}"]


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("PID|1", "the first segment must begin with MSH|^~\\&|"),
        (HEADER.replace("{message_control_id}", "1"), "MSH-10 must be {message_control_id}"),
        (HEADER.replace("UNICODE UTF-8", "8859/1"), "MSH-18 must be UNICODE UTF-8"),
    ],
)
def test_a_template_has_the_header_that_acknowledgement_and_characters_need(
    tmp_path: Path, header: str, problem: str
) -> None:
    found = problems(tmp_path, f"{header}\nNTE|1||{{notice}}\n")
    assert found == [f"destinations.ris.template: site.template line 1: {problem}"]


def test_a_template_without_the_notice_or_without_anything_is_refused(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, HEADER)
    assert "no segment has {notice}" in problem
    assert len(problems(tmp_path, "")) == 2
