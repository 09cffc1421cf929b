"""An answer that Orthanc, a RIS, a worklist manager and a pager were told of is taken back at each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from highdicom.ko import KeyObjectSelectionDocument
from highdicom.sr import srread
from pydicom import Dataset, dcmread

from tests.support.message_peers import Hl7Server, UpsManager, WebhookReceiver
from tests.support.pacs import Orthanc
from tests.support.running import RunningAppliance
from tests.support.scanner import send_verbatim
from tests.support.settling import finish, take_in
from tests.validators import DCENTVFY, DCIODVFY, dcentvfy_problems, dciodvfy_errors, report_text
from tools.simulate.head_series import write_series as write_head

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (DCIODVFY.exists() and DCENTVFY.exists()), reason="needs the Debian package dicom3tools"
    ),
]

REPORT = "1.2.840.10008.5.1.4.1.1.88.34"
SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SECRET = b"a secret of the pager and of us"
WHY = "shown under the wrong patient"
SLICES = 16


class Site:
    """An appliance with both models, and everybody who is told what they say of a bleed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pacs = Orthanc(folder / "orthanc").start()
        self.ris = Hl7Server().start()
        self.worklist = UpsManager().start()
        self.pager = WebhookReceiver(SECRET).start()
        edge = folder / "edge"
        edge.mkdir()
        (edge / "secret").write_bytes(SECRET)
        here = {"host": "127.0.0.1"}
        told = ["ris", "worklist", "pager"]
        settings = {
            "destinations": {
                "pacs": {**here, "ae_title": "PACS", "port": self.pacs.port, "rejection_notes": True},
                "ris": {**here, "kind": "hl7", "port": self.ris.port},
                "worklist": {
                    **{**here, "kind": "ups", "ae_title": "RIS", "port": self.worklist.port},
                    "retrieve_ae_title": "PACS",
                },
                "pager": {
                    **{"kind": "webhook", "url": f"http://127.0.0.1:{self.pager.port}/", "secret": "secret"}
                },
            },
            "pipelines": [
                {"model": "ct-denoise", "destinations": ["pacs"]},
                {
                    "model": "head-ct-triage",
                    "destinations": ["pacs", *told],
                    "results": {"ko": ["positive"]},
                },
            ],
        }
        self.appliance = RunningAppliance(edge, pacs_port=0, settings=settings).start()
        self._running = ExitStack()
        for peer in (self.pacs, self.ris, self.worklist, self.pager, self.appliance):
            self._running.callback(peer.stop)
        self._seen: set[str] = set()

    def close(self) -> None:
        self._running.close()

    def run(self, files: list[Path]) -> None:
        """Send the files and wait for all that comes of them."""
        take_in(self.appliance, len(files), lambda: send_verbatim(files, self.appliance.port))
        finish(self.appliance)

    def new_at_the_pacs(self) -> dict[Path, Dataset]:
        """What has arrived there since the last call."""
        new: dict[Path, Dataset] = {}
        for path in self.pacs.save_all(self.folder / "stored"):
            stored = dcmread(path)
            if stored.SOPInstanceUID not in self._seen:
                new[path] = stored
                self._seen.add(str(stored.SOPInstanceUID))
        return new

    def job(self, outcome: str) -> str:
        """The job with this outcome."""
        listed = self.appliance.command("results", "list", "--json")
        assert listed.returncode == 0, listed.stderr
        (row,) = [row for row in json.loads(listed.stdout) if row["outcome"] == outcome]
        return str(row["job"])

    def retract(self, job: str) -> dict[tuple[str, str], dict[str, Any]]:
        """What the command reports, by destination and kind."""
        done = self.appliance.command("results", "retract", job, "--reason", WHY, "--json")
        assert done.returncode == 0, done.stderr
        rows = json.loads(done.stdout)["destinations"]
        return {(row["destination"], row["kind"]): row for row in rows}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    try:
        yield site
    finally:
        site.close()


@pytest.fixture(scope="module")
def told(site: Site, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Dataset]:
    """What Orthanc has of a bleed that everybody was told of."""
    folder = tmp_path_factory.mktemp("bleed")
    files = write_head(folder / "made", seed=1, bleed=True, slices=SLICES, size=256)
    for path in files:
        image = dcmread(path)
        image.AccessionNumber = "A1"
        image.save_as(path)
    site.run(files)
    return site.new_at_the_pacs()


def uids_named(note: Dataset) -> set[str]:
    selection = KeyObjectSelectionDocument.from_dataset(note)
    return {str(one.referenced_sop_instance_uid) for one in selection.content.get_references()}


def test_everybody_learns_it_after_a_restart(site: Site, told: dict[Path, Dataset]) -> None:
    told_of = {str(one.SOPInstanceUID): one.SOPClassUID for one in told.values()}
    before = {uid for uid, kind in told_of.items() if kind in (REPORT, CAPTURE, SELECTION)}
    reports = {uid for uid in before if told_of[uid] == REPORT}  # an early one, and that on all images
    assert {told_of[uid] for uid in before} == {REPORT, CAPTURE, SELECTION}
    job = site.job("positive")
    # The command writes the journal and the spool; nobody sends until all are back.
    site.appliance.stop()
    site.pacs.stop()
    report = site.retract(job)
    assert not [row for row in report.values() if row["left"]]
    assert report["pacs", "ko"]["told"] == ["rejection note"]
    assert report["worklist", "ups"]["told"] == ["request to cancel"]
    site.appliance.start()
    site.pacs.start()
    finish(site.appliance)

    new = site.new_at_the_pacs()
    paths = {one.SOPClassUID: path for path, one in new.items()}
    assert set(paths) == {REPORT, CAPTURE, SELECTION} and len(new) == 2 + len(reports)
    for path in new:
        assert dciodvfy_errors(path) == []
    assert set(dcentvfy_problems([*told, *new])) <= set(dcentvfy_problems(list(told)))
    superseded = set()
    for path in [path for path, one in new.items() if one.SOPClassUID == REPORT]:
        (study,) = srread(path).PredecessorDocumentsSequence
        (reference,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
        superseded.add(str(reference.ReferencedSOPInstanceUID))
        assert f"Retracted: {WHY}" in report_text(path)
    assert superseded == reports
    note = new[paths[SELECTION]]
    assert uids_named(note) == before
    assert "Rejected for Patient Safety Reasons" in report_text(paths[SELECTION])

    first, correction = site.ris.messages
    assert str(first.segment("OBR")[25]) == "P" and str(correction.segment("OBR")[25]) == "C"
    assert WHY in str(correction.segments("NTE")[-1][3])
    ((workitem, information),) = site.worklist.cancellations
    assert site.worklist.workitems[workitem].ProcedureStepState == "CANCELED"
    assert information.ReasonForCancellation == f"Retracted: {WHY}"
    assert [one["outcome"] for one in site.pager.documents] == ["positive", "retracted"]


def test_an_answer_is_taken_back_once(site: Site, told: dict[Path, Dataset]) -> None:
    again = site.appliance.command("results", "retract", site.job("positive"), "--reason", WHY)
    assert again.returncode == 1 and "was retracted before" in again.stderr
    finish(site.appliance)
    assert site.new_at_the_pacs() == {}
    assert (len(site.ris.messages), len(site.worklist.cancellations), len(site.pager.documents)) == (2, 1, 2)


def test_an_enhanced_series_is_named_to_the_archive(site: Site, told: dict[Path, Dataset]) -> None:
    derived = {
        str(one.SOPInstanceUID)
        for one in told.values()
        if one.SOPClassUID not in (REPORT, CAPTURE, SELECTION) and one.ImageType[0] == "DERIVED"
    }
    assert len(derived) == SLICES
    (row,) = site.retract(site.job("enhanced")).values()
    assert (row["has"], row["told"], row["left"]) == (SLICES, ["rejection note"], "")
    finish(site.appliance)
    ((path, note),) = site.new_at_the_pacs().items()
    assert uids_named(note) == derived
    assert dciodvfy_errors(path) == []
