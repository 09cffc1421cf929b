"""`appliance results`, as an operator types it: an answer is taken back wherever it was told, once."""

from __future__ import annotations

import hashlib
import json
import pwd
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from highdicom.sr import srread
from pydicom import Dataset, dcmread
from typer.testing import CliRunner

from appliance.__main__ import app
from appliance.config.load import load
from appliance.dicom.codes import NOTICE
from appliance.domain.types import Artifact, Delivery, Postponed, Refused, Stored
from appliance.journal import deliveries, jobs, messages
from appliance.journal.database import Journal
from appliance.journal.jobs import Result
from appliance.journal.messages import Message
from appliance.results.messages import message_writer
from appliance.services.inference.messenger import is_due
from appliance.services.storage import Storage
from appliance.spool.store import PREAMBLE_BYTES
from tests.dicom_samples import CtSeries
from tests.journal_samples import claimed_job, open_journal, planned_job
from tests.message_samples import NEGATIVE, NOTIFICATION
from tests.result_samples import findings, produce, sample_volume

MODEL = "head-ct-triage"
WHY = "wrong patient | model fault"
DESTINATIONS = ("pacs", "old", "ris", "pager", "worklist")


class Site:
    """A positive answer with a report, a card and a message for each kind of destination, not sent yet."""

    def __init__(self, folder: Path) -> None:
        (folder / "secret").write_bytes(b"0123456789abcdef")
        self.path = folder / "site.yaml"
        peer = {"host": "127.0.0.1", "port": 104}
        self.path.write_text(
            yaml.safe_dump(
                {
                    "station": {"ae_title": "EDGE"},
                    "storage": {"path": "./var", "durability": "os"},
                    "destinations": {
                        "pacs": {"ae_title": "PACS", **peer},
                        "old": {"ae_title": "OLD", "takes": ["sc"], **peer},
                        "ris": {"kind": "hl7", **peer},
                        "pager": {"kind": "webhook", "url": "http://pager/", "secret": "secret"},
                        "worklist": {"kind": "ups", "ae_title": "RIS", "retrieve_ae_title": "PACS", **peer},
                    },
                }
            )
        )
        self.config = load(self.path)
        self.config.storage.path.mkdir()
        self.journal: Journal = open_journal(self.config.storage.path)
        planned_job(self.journal, uid=NOTIFICATION.series_instance_uid, model=MODEL)
        self.job = claimed_job(self.journal)
        volume = sample_volume(folder / "series", CtSeries(slices=3, rows=16, columns=16))
        storage = Storage(self.config)
        with closing(storage.journal):
            artifacts = []
            for made in produce(findings(volume, positive=True), volume):
                content = made.encode()
                artifacts.append(
                    Artifact(
                        made.kind, made.sop_instance_uid, made.sop_class_uid, made.transfer_syntax_uid,
                        made.study_instance_uid, made.series_instance_uid,
                        hashlib.sha256(content).hexdigest(), len(content),
                        storage.results.put((content[PREAMBLE_BYTES:],)), urgent=False,
                    )
                )  # fmt: skip
            told = [self._message(storage, name) for name in ("ris", "pager", "worklist")]
        takes = {"pacs": ("sr", "sc"), "old": ("sc",)}
        with self.journal.write() as connection:
            result = Result("positive", None, None, "sha", 1.0)
            jobs.finish(connection, self.job, result, artifacts, takes, told)
        self.report = next(one.sop_instance_uid for one in artifacts if one.kind == "sr")

    def _message(self, storage: Storage, name: str) -> Message:
        written = message_writer(self.config, name)(NOTIFICATION)
        key = storage.results.put((written.content,))
        artifact = Artifact(
            written.kind, written.uid, written.sop_class_uid, written.transfer_syntax_uid,
            NOTIFICATION.study_instance_uid, NOTIFICATION.series_instance_uid, "sha", len(written.content),
            key, urgent=True,
        )  # fmt: skip
        return Message(artifact, name)

    def send(self, destination: str, result: Stored | Postponed | Refused | None = None) -> None:
        """Send all that waits there."""
        with self.journal.write() as connection:
            while claimed := deliveries.claim(connection, destination, limit=1):
                deliveries.settle(connection, claimed[0], result or Stored(0), delay_s=1000)

    def run(self, *arguments: str) -> Any:
        return CliRunner().invoke(app, ["results", arguments[0], "--config", str(self.path), *arguments[1:]])

    def waiting(self, destination: str) -> list[Delivery]:
        """What waits there, in the order in which it is sent."""
        with self.journal.write() as connection:
            found: list[Delivery] = []
            while claimed := deliveries.claim(connection, destination, limit=1):
                found += claimed
                deliveries.settle(connection, claimed[0], Stored(0), delay_s=0)
            return found

    def file(self, delivery: Delivery) -> Path:
        storage = Storage(self.config)
        with closing(storage.journal):
            return storage.results.path(delivery.spool_key)

    def states(self, destination: str) -> list[str]:
        with self.journal.read() as connection:
            return [
                row["state"]
                for row in connection.execute(
                    "SELECT state FROM deliveries WHERE destination = ? AND spool = 'results' ORDER BY id",
                    (destination,),
                )
            ]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield Site(tmp_path)


def values(report: Dataset) -> list[str]:
    """Code values, numbers and texts of a content tree."""
    found = []

    def walk(item: Dataset) -> None:
        for child in item.get("ContentSequence", ()):
            match child.ValueType:
                case "CODE":
                    found.append(child.ConceptCodeSequence[0].CodeMeaning)
                case "NUM":
                    found.append(f"number {child.MeasuredValueSequence[0].NumericValue}")
                case "TEXT":
                    found.append(child.TextValue)
                case "UIDREF":
                    found.append(child.UID)
            walk(child)

    walk(report)
    return found


def test_whoever_was_told_learns_that_it_is_taken_back(site: Site) -> None:
    for name in DESTINATIONS:
        site.send(name)
    answer = site.run("retract", site.report, "--reason", WHY)
    assert answer.exit_code == 0, answer.output
    assert "4 corrections" in answer.output
    assert "ups stays at worklist" in answer.output and answer.output.count("stays") == 1

    delivery, card = site.waiting("pacs")
    assert delivery.priority == 1
    (other,) = site.waiting("old")
    assert other.sop_instance_uid == card.sop_instance_uid
    capture = dcmread(site.file(card))
    assert capture.DerivationDescription == "Retracted: Summary card: Intracranial hemorrhage"
    assert capture.pixel_array.shape == (768, 1024, 3) and "RETRACTED" in capture.SeriesDescription
    report = srread(site.file(delivery))
    assert (report.CompletionFlag, report.PreliminaryFlag, report.VerificationFlag) == (
        "COMPLETE", "PRELIMINARY", "UNVERIFIED",
    )  # fmt: skip
    assert report.SOPInstanceUID == delivery.sop_instance_uid != site.report
    (study,) = report.PredecessorDocumentsSequence
    assert study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == site.report
    told = values(report)
    assert f"Retracted: {WHY}" in told and NOTICE in told and "Undetermined" in told
    assert not [one for one in told if one.startswith(("number", "Present", "ACR Category"))]
    assert "RETRACTED" in report.SeriesDescription

    (delivery,) = site.waiting("ris")
    segments = [
        line.split("|") for line in site.file(delivery).read_bytes()[PREAMBLE_BYTES:].decode().split("\r")
    ]
    results = {fields[3].split("^")[0]: fields for fields in segments if fields[0] == "OBX"}
    assert results["113014"][11] == "O" and results["113014"][5] == NOTIFICATION.study_instance_uid
    assert results["59776-5"][11] == "C" and results["59776-5"][5].startswith("^Retracted: ")
    assert results["59776-5"][8] == "" and results["59776-5"][15] == ""
    assert results["111012"][5] == '""' and results["111012"][11] == "C"
    assert segments[-2][:3] == ["NTE", "2", ""] and "wrong patient \\F\\ model fault" in segments[-2][3]
    assert next(fields for fields in segments if fields[0] == "OBR")[25] == "C"

    (delivery,) = site.waiting("pager")
    document = json.loads(site.file(delivery).read_bytes()[PREAMBLE_BYTES:])
    assert document["outcome"] == "retracted" and document["reason"] == WHY
    assert document["id"] == delivery.sop_instance_uid != document["retracts"]


def test_the_tracking_uid_stays(site: Site) -> None:
    site.send("pacs")
    with site.journal.read() as connection:
        key = connection.execute("SELECT spool_key FROM artifacts WHERE kind = 'sr'").fetchone()[0]
    storage = Storage(site.config)
    with closing(storage.journal):
        before = dcmread(storage.results.path(key))
    assert site.run("retract", site.report, "--reason", WHY).exit_code == 0
    after = dcmread(site.file(site.waiting("pacs")[0]))
    uids = [value for value in values(before) if value.startswith("2.25.")]
    assert uids and uids == [value for value in values(after) if value.startswith("2.25.")]
    assert after.PatientID == before.PatientID and after.StudyInstanceUID == before.StudyInstanceUID


def test_what_was_not_sent_is_dropped_and_needs_no_correction(site: Site) -> None:
    site.send("old", Refused("not wanted", 0xC000))
    answer = site.run("retract", str(site.job.id), "--reason", WHY)
    assert answer.exit_code == 0 and "0 corrections" in answer.output
    for name in DESTINATIONS:
        assert set(site.states(name)) == {"dropped"}
    with site.journal.read() as connection:
        details = {row[0] for row in connection.execute("SELECT detail FROM history WHERE event = 'drop'")}
        (job,) = connection.execute("SELECT detail FROM history WHERE event = 'retract'").fetchall()
    assert details == {job[0]} and job[0].endswith(f": {WHY}")
    assert job[0].split(": ")[0] in {entry.pw_name for entry in pwd.getpwall()}


def test_what_may_have_arrived_is_corrected(site: Site) -> None:
    site.send("pacs", Postponed("no response"))
    assert site.run("retract", site.report, "--reason", WHY).exit_code == 0
    assert site.states("pacs").count("dropped") == 2
    sent = site.waiting("pacs")
    assert len(sent) == 2 and site.report not in [delivery.sop_instance_uid for delivery in sent]


def test_an_answer_is_taken_back_once_and_only_if_nothing_moves(site: Site) -> None:
    with site.journal.write() as connection:
        (sending,) = deliveries.claim(connection, "ris", limit=1)
    answer = site.run("retract", site.report, "--reason", WHY)
    assert answer.exit_code == 1 and "being sent" in answer.output
    with site.journal.write() as connection:
        deliveries.settle(connection, sending, Stored(0), delay_s=0)
    assert site.run("retract", site.report, "--reason", " ").exit_code == 2
    assert site.run("retract", site.report, "--reason", WHY).exit_code == 0
    answer = site.run("retract", site.report, "--reason", WHY)
    assert answer.exit_code == 1 and "before" in answer.output
    answer = site.run("retract", "1.2.3", "--reason", WHY)
    assert answer.exit_code == 1 and "no finished answer" in answer.output


def test_a_correction_that_does_not_conform_is_set_aside_and_nothing_is_retracted(site: Site) -> None:
    for name in DESTINATIONS:
        site.send(name)
    with site.journal.read() as connection:
        (key,) = connection.execute(
            "SELECT spool_key FROM artifacts WHERE sop_instance_uid = ?", (site.report,)
        ).fetchone()
    storage = Storage(site.config)
    with closing(storage.journal):
        report, quarantine = storage.results.path(key), storage.quarantine.root
    spoiled = dcmread(report)
    del spoiled.PreliminaryFlag
    spoiled.save_as(report)
    answer = site.run("retract", site.report, "--reason", WHY)
    assert answer.exit_code == 1
    assert "PreliminaryFlag" in answer.output and "nothing is retracted" in answer.output
    assert [told["kind"] for told in map(json.loads, map(Path.read_text, quarantine.rglob("*.json")))] == [
        "sr"
    ]
    assert not any(site.waiting(name) for name in DESTINATIONS)
    assert json.loads(site.run("list", "--json").output)[0]["retracted"] == ""


def test_answers_are_listed_without_identifiers(site: Site) -> None:
    listed = site.run("list", "--json")
    assert listed.exit_code == 0 and site.report not in listed.output
    (row,) = json.loads(listed.output)
    assert (row["job"], row["outcome"], row["retracted"]) == (site.job.id, "positive", "")
    site.run("retract", str(row["job"]), "--reason", WHY)
    (row,) = json.loads(site.run("list", "--json", "--identifiers").output)
    assert row["retracted"] == "yes" and row["report"] == site.report


def test_a_later_positive_is_news_again(site: Site) -> None:
    site.send("ris")
    site.run("retract", site.report, "--reason", WHY)
    (uid, _) = site.job.series[0]
    with site.journal.read() as connection:
        last = messages.told(connection, replace(site.job, series=((uid, 2),)), "ris")
    assert last == "retracted"
    assert is_due(NOTIFICATION, True, last) and not is_due(NEGATIVE, False, last)
