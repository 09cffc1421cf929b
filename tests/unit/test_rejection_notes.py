"""What an archive is told of result objects that are taken back, and what is left to a person."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from highdicom.ko import KeyObjectSelectionDocument
from pydicom import dcmread

from appliance.dicom.codes import NOTICE
from appliance.domain.types import Delivery
from appliance.journal import files
from appliance.services.storage import Storage
from appliance.spool.store import PREAMBLE_BYTES
from tests.dicom_samples import CtSeries
from tests.journal_samples import planned_job
from tests.message_samples import NOTIFICATION
from tests.result_samples import enhanced, produce, revised, sample_volume
from tests.retraction_site import MODEL, WHY, Site, values

WANTED = {"rejection_notes": True}
NOTE = "1.2.840.10008.5.1.4.1.1.88.59"


def by_destination(done: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of a report by destination and kind."""
    return {(row["destination"], row["kind"]): row for row in done["destinations"]}


def note_of(site: Site, sent: list[Delivery]) -> Any:
    """The rejection note among what is sent."""
    (note,) = [one for one in sent if one.sop_class_uid == NOTE]
    assert note.priority == 1
    return KeyObjectSelectionDocument.from_dataset(dcmread(site.file(note)))


def named(note: Any) -> set[str]:
    """The SOP Instance UIDs in the evidence of a note, all of which its content refers to."""
    (study,) = note.CurrentRequestedProcedureEvidenceSequence
    listed = {
        str(one.ReferencedSOPInstanceUID)
        for series in study.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }
    assert {str(one.referenced_sop_instance_uid) for one in note.content.get_references()} == listed
    return listed


def test_a_note_names_all_that_an_archive_has(tmp_path: Path) -> None:
    site = Site(tmp_path, settings={"pacs": WANTED, "old": WANTED})
    site.send("pacs")
    site.send("old")
    done = by_destination(site.retract())
    assert done["pacs", "sr"]["told"] == ["superseding report", "rejection note"]
    assert done["old", "sc"]["told"] == ["card that withdraws it", "rejection note"]
    assert not [row for row in done.values() if row["left"]]
    uids = {one.kind: one.sop_instance_uid for one in site.made}

    sent = site.waiting("pacs")
    note = note_of(site, sent)
    assert named(note) == {uids["sr"], uids["sc"]}
    assert note.ConceptNameCodeSequence[0].CodeValue == "113037"
    told = values(note)
    assert any(WHY in one and NOTICE in one for one in told)
    source = dcmread(site.file(sent[0]))
    assert (note.PatientID, note.StudyInstanceUID) == (source.PatientID, source.StudyInstanceUID)
    assert note.InstanceCreatorUID == note.DeviceUID and note.StationName == "EDGE"
    assert note.SeriesInstanceUID not in {one.series_instance_uid for one in site.made}
    # The card alone went there.
    assert named(note_of(site, site.waiting("old"))) == {uids["sc"]}


@pytest.mark.parametrize(
    ("option", "value", "status"),
    [("quality", "113001", "C"), ("worklist-entry", "113038", "W"), ("patient-safety", "113037", "C")],
)
def test_the_title_says_why_and_the_ris_if_it_was_the_wrong_patient(
    tmp_path: Path, option: str, value: str, status: str
) -> None:
    site = Site(tmp_path, settings={"pacs": WANTED})
    site.send("pacs")
    site.send("ris")
    site.retract("--rejected-for", option)
    assert note_of(site, site.waiting("pacs")).ConceptNameCodeSequence[0].CodeValue == value
    (correction,) = site.waiting("ris")
    message = site.file(correction).read_bytes()[PREAMBLE_BYTES:].decode()
    results = [line.split("|") for line in message.split("\r") if line.startswith("OBX")]
    assert [fields[11] for fields in results] == ["O", status, status]


def test_an_enhanced_series_is_taken_back_by_a_note(tmp_path: Path) -> None:
    site = Site(tmp_path, "enhanced", {"pacs": WANTED})
    site.send("pacs")
    done = site.retract()
    assert done["corrections"] == 1
    (row,) = done["destinations"]
    assert (row["has"], row["told"], row["left"]) == (3, ["rejection note"], "")
    note = note_of(site, site.waiting("pacs"))
    assert named(note) == {one.sop_instance_uid for one in site.made}
    assert {str(one.value_type.value) for one in note.content.get_references()} == {"IMAGE"}


def test_without_notes_an_enhanced_series_is_left_to_a_person(tmp_path: Path) -> None:
    site = Site(tmp_path, "enhanced")
    site.send("pacs")
    answer = site.run("retract", str(site.job.id), "--reason", WHY, "--identifiers")
    assert answer.exit_code == 0
    series = site.made[0].series_instance_uid
    assert f"pacs keeps enhanced {series}: no rejection notes are sent there" in answer.output
    assert "0 corrections" in answer.output
    assert site.waiting("pacs") == []
    assert site.states("pacs") == ["stored"] * 3


def test_an_enhanced_series_that_waits_is_dropped(tmp_path: Path) -> None:
    site = Site(tmp_path, "enhanced", {"pacs": WANTED})
    done = site.retract()
    assert done["corrections"] == 0
    (row,) = done["destinations"]
    assert (row["has"], row["may_have"], row["dropped"], row["left"]) == (0, 0, 3, "")
    assert site.states("pacs") == ["dropped"] * 3


def test_images_that_joined_a_series_later_are_taken_back_with_it(tmp_path: Path) -> None:
    site = Site(tmp_path, "enhanced", {"pacs": WANTED})
    first = [one.sop_instance_uid for one in site.made]
    planned_job(site.journal, uid=NOTIFICATION.series_instance_uid, model=MODEL, number=1)
    whole = sample_volume(tmp_path / "whole", CtSeries(slices=4, rows=16, columns=16))
    late = [
        one
        for one in produce(enhanced(whole.voxels + 1), whole, revised(2))
        if one.sop_instance_uid not in first
    ]
    assert len(late) == 1
    site.answer("enhanced", late)
    site.send("pacs")
    planned_job(site.journal, uid=NOTIFICATION.series_instance_uid, model=MODEL, number=2)
    done = site.retract()
    assert done["jobs"] == [1, 2]
    assert done["unfinished"] == [3], "what is made of still later images is sent"
    assert named(note_of(site, site.waiting("pacs"))) == {*first, late[0].sop_instance_uid}
    again = site.run("retract", "1", "--reason", WHY)
    assert again.exit_code == 1 and "before" in again.output


def test_that_there_is_no_answer_is_taken_back_too(tmp_path: Path) -> None:
    site = Site(tmp_path, "not_analysed")
    site.send("pacs")
    done = by_destination(site.retract())
    assert done["pacs", "sr"]["told"] == ["superseding report"]
    report, card = site.waiting("pacs")
    told = values(dcmread(site.file(report)))
    assert f"Retracted: {WHY}" in told and NOTICE in told
    assert "Not analysed (cut_off): cut off" not in told
    assert "RETRACTED" in dcmread(site.file(card)).SeriesDescription


def test_what_no_configured_destination_has_is_left_to_a_person(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.send("pacs")
    site.send("ris")
    site.configure("ris")
    done = by_destination(site.retract())
    assert done["ris", "hl7"]["left"] == "the configuration does not name this destination any more"
    assert done["ris", "hl7"]["told"] == [] and done["pacs", "sr"]["left"] == ""
    assert site.waiting("ris") == []


def test_without_the_files_a_workitem_is_still_cancelled_and_the_rest_is_left(tmp_path: Path) -> None:
    site = Site(tmp_path, settings={"pacs": WANTED})
    for name in ("pacs", "ris", "worklist"):
        site.send(name)
    storage = Storage(site.config)
    with closing(storage.journal), storage.journal.write() as connection:
        connection.execute("UPDATE files SET look_s = 0")
        for file in files.due(connection, limit=100):
            if file.spool == "results":
                files.purge(connection, file)
                storage.results.remove(file.spool_key)
    done = by_destination(site.retract())
    for place in (("pacs", "sr"), ("pacs", "sc"), ("ris", "hl7")):
        assert "keep_results_h" in done[place]["left"]
    assert done["worklist", "ups"]["told"] == ["request to cancel"]
    assert len(site.waiting("worklist")) == 1 and site.waiting("pacs") == []
