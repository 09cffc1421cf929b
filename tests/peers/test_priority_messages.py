"""From the scanner to HL7 listener, worklist manager and webhook: a bleed is told once, whatever happens."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydicom import dcmread

from appliance.dicom.codes import NOTICE
from tests.dicom_samples import sample_uid
from tests.support.message_peers import SILENCE, Hl7Server, UpsManager, WebhookReceiver
from tests.support.pacs import StoreScp
from tests.support.processes import free_port, wait_until
from tests.support.running import RunningAppliance
from tests.support.scanner import send_verbatim
from tests.support.settling import finish, metric, take_in

pytestmark = pytest.mark.slow

SECRET = b"a secret of the pager and of us"
REPORT = "1.2.840.10008.5.1.4.1.1.88.34"
TOLD = ("ris", "worklist", "pager")


class Site:
    """An appliance with a triage model, a PACS, and three systems that are told of findings."""

    def __init__(self, folder: Path) -> None:
        self.pacs = StoreScp(folder / "pacs").start()
        # At first the listener is slow of speech and then has a bad moment.
        self.ris = Hl7Server([SILENCE, "AE", "AA"], port=free_port()).start()
        self.worklist = UpsManager([0x0110, 0x0000]).start()
        self.pager = WebhookReceiver(SECRET, [503, 204]).start()
        edge = folder / "edge"
        edge.mkdir()
        (edge / "secret").write_bytes(SECRET)
        here = {"host": "127.0.0.1", "alarm_after_minutes": 0.05}
        settings = {
            "station": {"ae_title": "EDGE", "timezone": "Asia/Kolkata"},
            "destinations": {
                "pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": self.pacs.port},
                "ris": {**here, "kind": "hl7", "port": self.ris.port, "timeout_s": 1.0, "attempts": 3},
                "worklist": {
                    **{**here, "kind": "ups", "ae_title": "RIS", "port": self.worklist.port},
                    "retrieve_ae_title": "PACS",
                },
                "pager": {
                    **{"kind": "webhook", "url": f"http://127.0.0.1:{self.pager.port}/", "secret": "secret"},
                    "alarm_after_minutes": 0.05,
                },
            },
            "pipelines": [{"model": "head-ct-triage", "destinations": ["pacs", *TOLD]}],
            "delivery": {"retry_minimum_s": 0.2, "retry_maximum_s": 0.5, "dimse_timeout_s": 5.0},
        }
        self.appliance = RunningAppliance(edge, pacs_port=0, settings=settings).start()
        self._running = ExitStack()
        for stop in (self.pacs.stop, self.worklist.stop, self.pager.stop, self.stop_ris, self.appliance.stop):
            self._running.callback(stop)

    def close(self) -> None:
        self._running.close()

    def send(self, files: list[Path]) -> None:
        take_in(self.appliance, len(files), lambda: send_verbatim(files, self.appliance.port))

    def run(self, files: list[Path]) -> None:
        """Send the files and wait for all that comes of them."""
        self.send(files)
        finish(self.appliance)

    def stop_ris(self) -> None:
        if self.ris.is_running:
            self.ris.stop()

    def kill_forwarder(self) -> None:
        """As if it had crashed; the supervisor starts it again."""
        before = self._forwarders()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: bool(self._forwarders()) and not self._forwarders() & before, 30, "another forwarder"
        )

    def _forwarders(self) -> set[int]:
        process = self.appliance.process
        assert process is not None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return {int(pid) for pid in children if b"\0forward\0" in _command_line(pid)}

    def outbox(self) -> dict[tuple[str, str], int]:
        """How many deliveries of the systems that are told are in which state."""
        rows = self.appliance.status()["outbox"]
        return {
            (row["destination"], row["state"]): row["count"] for row in rows if row["destination"] in TOLD
        }


def _command_line(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    try:
        yield site
    finally:
        site.close()


def as_study(files: list[Path], folder: Path, accession_number: str) -> list[Path]:
    """The same images as another study."""
    folder.mkdir()
    for path in files:
        image = dcmread(path)
        image.AccessionNumber = accession_number
        image.PatientName = "Phantom^Bleed^^Dr^Jr"
        image.StudyInstanceUID = sample_uid(accession_number)
        image.SeriesInstanceUID = sample_uid(accession_number, "series")
        image.SOPInstanceUID = sample_uid(accession_number, str(image.SOPInstanceUID))
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.save_as(folder / path.name)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def told(site: Site, bleed: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A bleed of which everybody was told."""
    files = as_study(bleed, tmp_path_factory.mktemp("told") / "A1", "A1")
    site.run(files)
    return files


def test_everybody_is_told_of_a_bleed_in_spite_of_a_bad_moment(site: Site, told: list[Path]) -> None:
    assert site.outbox() == {(name, "stored"): 1 for name in TOLD}
    # Silence, error, success: the same message each time.
    assert len(site.ris.messages) == 3
    assert len({str(message) for message in site.ris.messages}) == 1
    assert site.ris.acknowledged == ["AE", "AA"]
    assert site.worklist.requests == 2
    first, second = site.pager.documents
    assert first == second
    assert site.pager.refused_signatures == 0
    assert metric(site.appliance, "appliance_messages_overdue") == 0


def test_all_messages_say_the_same_as_the_report(site: Site, told: list[Path]) -> None:
    source = dcmread(told[0])
    reports = {
        str(one.SOPInstanceUID): one for one in site.pacs.datasets().values() if one.SOPClassUID == REPORT
    }
    message = site.ris.messages[-1]
    assert str(message.segment("OBR")[18]) == "A1"
    assert str(message.segment("PID")[5]) == "Phantom^Bleed^^Jr^Dr"
    assert str(message.segment("MSH")[7]).endswith("+0530")
    study, finding, _ = message.segments("OBX")
    assert str(study[5]) == source.StudyInstanceUID
    assert str(finding[5]).startswith("1386000^")
    assert str(finding[11]) == "P"
    assert str(message.segments("NTE")[0][3]) == NOTICE
    document = site.pager.documents[0]
    report = reports.pop(document["report_sop_instance_uid"])
    assert document["series"]["early"] == str(report.SeriesDescription).endswith(" early")
    for final in reports.values():  # what was told early is not told again; the final report follows it
        assert final.PredecessorDocumentsSequence[0].StudyInstanceUID == source.StudyInstanceUID
        assert report.SOPInstanceUID in str(final.PredecessorDocumentsSequence[0])
    assert document["study"]["study_instance_uid"] == source.StudyInstanceUID
    assert "patient" not in document
    (item,) = site.worklist.workitems.values()
    images, named = item.InputInformationSequence
    uids = {str(one.ReferencedSOPInstanceUID) for one in images.ReferencedSOPSequence}
    assert uids <= {str(dcmread(path).SOPInstanceUID) for path in told}
    assert named.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == report.SOPInstanceUID


def test_nobody_is_told_of_a_head_without_a_bleed(site: Site, told: list[Path], clear: list[Path]) -> None:
    before = site.outbox()
    site.run(clear)
    assert site.outbox() == before
    outcomes = {row["outcome"]: row["count"] for row in site.appliance.status()["outcomes"]}
    assert outcomes == {"positive": 1, "negative": 1}


def test_an_outage_and_a_killed_forwarder_lose_nothing_and_raise_the_alarm(
    site: Site, told: list[Path], bleed: list[Path], tmp_path: Path
) -> None:
    received = len(site.ris.messages)
    site.ris.stop()
    site.send(as_study(bleed, tmp_path / "A2", "A2"))
    wait_until(lambda: site.outbox().get(("pager", "stored")) == 2, 90, "the others are told")
    overdue = 'destination="ris"'
    wait_until(lambda: metric(site.appliance, "appliance_messages_overdue", overdue) == 1, 60, "the alarm")
    wait_until(lambda: '"message_unacknowledged"' in site.appliance.log.read_text(), 30, "the alarm's log")
    assert "ris has not acknowledged 1 messages in time" in site.appliance.get("/readyz")
    site.kill_forwarder()
    site.ris = Hl7Server(port=site.ris.port).start()
    finish(site.appliance)
    assert [str(message.segment("OBR")[18]) for message in site.ris.messages] == ["A2"]
    assert received == 3
    # What was acknowledged is never sent again, whatever happens to the forwarder.
    site.kill_forwarder()
    finish(site.appliance)
    assert len(site.ris.messages) == 1
    assert site.outbox() == {(name, "stored"): 2 for name in TOLD}
    assert Counter(document["id"] for document in site.pager.documents).most_common()[-1][1] == 1
    assert len(site.worklist.workitems) == 2
    assert metric(site.appliance, "appliance_messages_overdue") == 0


def test_what_is_refused_waits_for_a_person_who_sends_it_again(
    site: Site, told: list[Path], bleed: list[Path], tmp_path: Path
) -> None:
    before = site.outbox()
    site.ris.turns.answers = ["AR"]
    site.worklist.turns.answers = [0x0106]
    site.pager.turns.answers = [403]
    site.run(as_study(bleed, tmp_path / "A3", "A3"))
    assert site.outbox() == {**before, **{(name, "rejected"): 1 for name in TOLD}}
    wait_until(lambda: metric(site.appliance, "appliance_messages_overdue") == 3, 30, "the alarm")
    site.ris.turns.answers = ["AA"]
    site.worklist.turns.answers = [0x0000]
    site.pager.turns.answers = [200]
    for name in TOLD:
        released = site.appliance.command(
            "deliveries", "release", "--destination", name, "--reason", "the interface is mended"
        )
        assert released.returncode == 0, released.stderr
    finish(site.appliance)
    assert site.outbox() == {(name, "stored"): count + 1 for (name, _), count in before.items()}
    assert metric(site.appliance, "appliance_messages_overdue") == 0
    assert len({str(message) for message in site.ris.messages[-4:]}) == 1


def test_without_an_accession_number_hl7_is_withheld_and_seen(
    site: Site, told: list[Path], bleed: list[Path]
) -> None:
    before = len(site.ris.messages)
    site.run(bleed)
    assert len(site.ris.messages) == before
    assert site.outbox()["ris", "rejected"] == 1
    assert metric(site.appliance, "appliance_messages_withheld_total", 'reason="no_accession_number"') == 1
    log = site.appliance.log.read_text()
    assert '"message_withheld"' in log
    assert "PHANTOM" not in log.upper()
