"""`appliance results`, as an operator types it: an answer is taken back wherever it was told, once."""

from __future__ import annotations

import json
import pwd
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from highdicom.sr import srread
from pydicom import dcmread

from appliance.dicom.codes import NOTICE
from appliance.domain.types import Postponed, Refused, Stored
from appliance.journal import deliveries, messages
from appliance.journal.database import Journal
from appliance.journal.interventions import Intervention, intervene
from appliance.services.administration import retraction
from appliance.services.inference.messenger import is_due
from appliance.services.storage import Storage
from appliance.spool.store import PREAMBLE_BYTES
from tests.message_samples import NEGATIVE, NOTIFICATION
from tests.retraction_site import DESTINATIONS, WHY, Site, values


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield Site(tmp_path)


def test_whoever_was_told_learns_that_it_is_taken_back(site: Site) -> None:
    for name in DESTINATIONS:
        site.send(name)
    answer = site.run("retract", site.report, "--reason", WHY)
    assert answer.exit_code == 0, answer.output
    assert "5 corrections" in answer.output and " keeps " not in answer.output

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

    (delivery,) = site.waiting("worklist")
    request = dcmread(site.file(delivery))
    workitem = next(one.artifact.sop_instance_uid for one in site.told if one.destination == "worklist")
    assert request.file_meta.MediaStorageSOPInstanceUID == workitem != delivery.sop_instance_uid
    assert request.ReasonForCancellation == f"Retracted: {WHY}"


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


def test_what_was_dropped_in_doubt_is_corrected_as_well(site: Site) -> None:
    site.send("ris", Postponed("no response"))
    with site.journal.write() as connection:
        connection.execute("UPDATE deliveries SET due_s = 0")
        (row,) = connection.execute("SELECT id FROM deliveries WHERE destination = 'ris'").fetchall()
        intervene(connection, Intervention.DROP, row["id"], "the interface is broken")
    site.send("old", Refused("not wanted", 0xC000))
    with site.journal.write() as connection:
        (row,) = connection.execute("SELECT id FROM deliveries WHERE destination = 'old'").fetchall()
        intervene(connection, Intervention.DROP, row["id"], "they do not want it")
    report = {row["destination"]: row for row in site.retract()["destinations"]}
    assert (report["ris"]["has"], report["ris"]["may_have"], report["ris"]["told"]) == (0, 1, ["correction"])
    assert (report["old"]["may_have"], report["old"]["dropped"], report["old"]["told"]) == (0, 1, [])
    assert len(site.waiting("ris")) == 1 and site.waiting("old") == []


def test_what_is_being_sent_is_waited_for(site: Site) -> None:
    with site.journal.write() as connection:
        (original,) = deliveries.claim(connection, "pacs", limit=1)
        deliveries.settle(connection, original, Stored(0), delay_s=0)
        (sending,) = deliveries.claim(connection, "pacs", limit=1)

    def arrive() -> None:
        journal = Journal(site.config.journal_path)
        with closing(journal), journal.write() as connection:
            deliveries.settle(connection, sending, Stored(0), delay_s=0)

    timer = threading.Timer(0.5, arrive)
    timer.start()
    done = site.retract()
    timer.join()
    report = {(row["destination"], row["kind"]): row for row in done["destinations"]}
    sent = report["pacs", "sr"]
    assert (sent["has"], sent["dropped"], sent["told"]) == (1, 0, ["superseding report"])
    assert report["pacs", "sc"]["dropped"] == 1
    assert site.states("pacs") == ["stored", "dropped", "pending"]


def test_an_answer_is_taken_back_once_and_only_if_nothing_moves(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retraction, "_PATIENCE_S", 0.0)
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
