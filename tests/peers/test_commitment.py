"""Storage commitment over sockets: Orthanc in both roles, and peers that do what a test tells them."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydicom import Dataset, dcmread

from tests.dicom_samples import CtSeries, write_series
from tests.support.commitment import CommitmentScanner, CommittingPacs, Told, information
from tests.support.pacs import Orthanc
from tests.support.processes import free_port, listens, wait_until
from tests.support.running import RunningAppliance
from tests.support.scanner import send_verbatim
from tests.support.settling import metric

pytestmark = pytest.mark.slow


class Site:
    """An Orthanc as scanner, the appliance, and an Orthanc as PACS that is to commit."""

    def __init__(self, folder: Path) -> None:
        scanner_port, pacs_port = free_port(), free_port()
        pacs = {"ae_title": "PACS", "host": "127.0.0.1", "port": pacs_port, "commitment": True}
        self.appliance = RunningAppliance(
            folder / "edge",
            pacs_port=pacs_port,
            settings={
                "pipelines": [],
                "destinations": {"pacs": pacs},
                "commitment": {
                    "gather_s": 0.5,
                    "unknown_s": 2.0,
                    "report_to": {"SCANNER": {"host": "127.0.0.1", "port": scanner_port}},
                },
            },
        )
        knows = {"EDGE": self.appliance.port}
        self.scanner = Orthanc(folder / "scanner", ae_title="SCANNER", knows=knows, port=scanner_port)
        self.pacs = Orthanc(folder / "pacs", knows=knows, port=pacs_port)

    def store(self, files: list[Path]) -> list[str]:
        """Have the scanner store images in the appliance; returns Orthanc's names for them."""
        names = [self.scanner.post("/instances", file.read_bytes())["ID"] for file in files]
        self.scanner.post("/modalities/EDGE/store", json.dumps(names).encode())
        return names

    def ask(self, request: dict[str, Any]) -> str:
        """Have the scanner ask for commitment; returns the path of the transaction."""
        answer = self.scanner.post("/modalities/EDGE/storage-commitment", json.dumps(request).encode())
        return str(answer["Path"])

    def state(self, path: str) -> str:
        """What the scanner knows of a transaction: Pending, Success or Failure."""
        return str(self.scanner.json(path)["Status"])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    try:
        yield site
    finally:
        site.appliance.stop()
        site.scanner.stop()
        site.pacs.stop()


def test_the_scanner_is_told_only_what_the_pacs_has_committed(site: Site, tmp_path: Path) -> None:
    site.scanner.start()
    site.appliance.start()
    files = write_series(tmp_path / "series", CtSeries(slices=3))
    path = site.ask({"Resources": site.store(files)})
    time.sleep(4.0)
    assert site.state(path) == "Pending"
    assert metric(site.appliance, "appliance_commitments", 'role="scp",state="requested"') == 1

    site.pacs.start()
    wait_until(lambda: site.state(path) == "Success", 30, "the scanner is told")
    assert len(site.pacs.json("/instances")) == 3
    assert site.appliance.status()["deliveries"] == {
        "pending": 0, "sending": 0, "stored": 0, "rejected": 0, "committed": 3, "dropped": 0
    }  # fmt: skip


def test_orthanc_is_told_of_instances_that_never_came(site: Site, tmp_path: Path) -> None:
    site.scanner.start()
    site.pacs.start()
    site.appliance.start()
    files = write_series(tmp_path / "series", CtSeries(slices=2))
    (name, _) = [site.scanner.post("/instances", file.read_bytes())["ID"] for file in files]
    site.scanner.post("/modalities/EDGE/store", json.dumps([name]).encode())
    path = site.ask({"Resources": site.scanner.json("/instances")})
    wait_until(lambda: site.state(path) == "Failure", 30, "the scanner is told")
    report = site.scanner.json(path)
    assert len(report["Success"]) == 1
    assert [failure["FailureReason"] for failure in report["Failures"]] == [0x0112], report


class DirectedSite:
    """An appliance between a scanner and a PACS that do what the test tells them."""

    def __init__(self, folder: Path, **commitment: Any) -> None:
        self.scanner, self.pacs = CommitmentScanner(), CommittingPacs()
        pacs = {"ae_title": "PACS", "host": "127.0.0.1", "port": self.pacs.port, "commitment": True}
        self.appliance = RunningAppliance(
            folder / "edge",
            pacs_port=self.pacs.port,
            settings={
                "pipelines": [],
                "destinations": {"pacs": pacs},
                "commitment": {
                    "gather_s": 0.5,
                    "unknown_s": 1.0,
                    "report_port": self.scanner.port,
                    **commitment,
                },
            },
        )
        self.folder = folder

    def start(self) -> DirectedSite:
        self.appliance.start()
        return self

    def close(self) -> None:
        self.appliance.stop()
        self.pacs.stop()
        self.scanner.close()

    def send(self, name: str, slices: int = 2) -> list[str]:
        """Have the scanner send a series; returns its SOP instance UIDs."""
        files = write_series(self.folder / name, CtSeries(slices=slices, study=name))
        send_verbatim(files, self.appliance.port)
        return [str(dcmread(file).SOPInstanceUID) for file in files]

    def asked(self) -> tuple[str, list[str]]:
        """The next request that the PACS gets: transaction UID and SOP instance UIDs, in order."""
        transaction, uids = self.pacs.asked.get(timeout=30)
        return transaction, sorted(uids)

    def report(self, transaction: str, committed: list[str], failures: dict[str, int] | None = None) -> None:
        """Have the PACS report over an association of its own; it must be taken."""
        assert self.pacs.report(self.appliance.port, transaction, committed, failures) == 0x0000

    def kill(self, process: str) -> None:
        """End one process of the appliance with SIGKILL; its supervisor starts it again."""
        command = ["pgrep", "-f", f"appliance {process} --config {self.appliance.config}"]
        (number,) = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        os.kill(int(number), signal.SIGKILL)


@pytest.fixture(scope="module")
def directed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DirectedSite]:
    site = DirectedSite(tmp_path_factory.mktemp("directed"))
    site.pacs.start()
    site.scanner.listen()
    try:
        yield site.start()
    finally:
        site.close()


def test_a_report_on_an_association_of_its_own_leads_to_one_for_the_scanner(directed: DirectedSite) -> None:
    uids = directed.send("plain")
    assert directed.scanner.ask(directed.appliance.port, information("1.2.1", [*uids, "1.2.3.4"])) == 0x0000
    transaction, asked = directed.asked()
    assert asked == sorted(uids)
    with pytest.raises(queue.Empty):
        directed.scanner.told.get(timeout=3)
    directed.report(transaction, uids)
    told = directed.scanner.told.get(timeout=30)
    assert told == Told("1.2.1", 2, frozenset(uids), {"1.2.3.4": 0x0112})


def test_a_report_over_the_association_of_the_request_counts_as_well(directed: DirectedSite) -> None:
    directed.pacs.reports_at_once = True
    try:
        uids = directed.send("at-once")
        directed.asked()
        directed.scanner.ask(directed.appliance.port, information("1.2.2", uids))
        told = directed.scanner.told.get(timeout=30)
    finally:
        directed.pacs.reports_at_once = False
    assert told == Told("1.2.2", 1, frozenset(uids), {})


def test_what_the_pacs_lost_is_sent_again_and_asked_about_under_a_new_name(directed: DirectedSite) -> None:
    uids = directed.send("lost")
    first, _ = directed.asked()
    directed.report(first, uids[:1], {uids[1]: 0x0112})
    second, asked = directed.asked()
    assert asked == uids[1:]
    assert second != first
    assert directed.pacs.stored.count(uids[0]) == 1
    assert directed.pacs.stored.count(uids[1]) == 2
    directed.report(second, asked)
    directed.scanner.ask(directed.appliance.port, information("1.2.3", uids))
    assert directed.scanner.told.get(timeout=30) == Told("1.2.3", 1, frozenset(uids), {})


def test_another_no_is_no_success_and_is_asked_about_again(directed: DirectedSite) -> None:
    uids = directed.send("no")
    first, _ = directed.asked()
    directed.report(first, [], dict.fromkeys(uids, 0x0110))
    second, asked = directed.asked()
    assert asked == sorted(uids)
    assert second != first
    assert all(directed.pacs.stored.count(uid) == 1 for uid in uids)
    uncommitted = {"destination": "pacs", "state": "asked", "count": len(uids)}
    assert directed.appliance.status()["uncommitted"] == [uncommitted]
    directed.report(second, uids)
    status = directed.appliance.status()
    assert status["uncommitted"] == []
    assert {(one["role"], one["state"]) for one in status["commitment"]} >= {("scu", "answered")}
    assert sum(one["count"] for one in status["spool"]) == status["deliveries"]["committed"]


def test_a_pacs_that_cannot_take_the_request_now_is_asked_again(directed: DirectedSite) -> None:
    directed.pacs.status = 0x0213
    try:
        uids = directed.send("busy")
        first, _ = directed.asked()
    finally:
        directed.pacs.status = 0x0000
    second, asked = directed.asked()
    assert asked == sorted(uids)
    assert second != first
    directed.report(second, uids)


def test_a_scanner_that_cannot_take_the_report_now_is_told_again(directed: DirectedSite) -> None:
    directed.scanner.status = 0x0110
    try:
        assert directed.scanner.ask(directed.appliance.port, information("1.2.8", ["1.2.3.4"])) == 0x0000
        first = directed.scanner.told.get(timeout=30)
    finally:
        directed.scanner.status = 0x0000
    assert (
        directed.scanner.told.get(timeout=30) == first == Told("1.2.8", 2, frozenset(), {"1.2.3.4": 0x0112})
    )


@pytest.mark.parametrize(
    ("change", "arguments", "status"),
    [
        ({}, {"action_type": 2}, 0x0123),
        ({}, {"instance": "1.2.840.10008.1.20.1.2"}, 0x0112),
        ({"TransactionUID": None}, {}, 0x0115),
        ({"TransactionUID": ""}, {}, 0x0115),
        ({"ReferencedSOPSequence": None}, {}, 0x0115),
        ({"ReferencedSOPSequence": []}, {}, 0x0115),
        ({"ReferencedSOPSequence": [Dataset()]}, {}, 0x0115),
    ],
)
def test_a_request_that_makes_no_sense_gets_a_status(
    directed: DirectedSite, change: dict[str, Any], arguments: dict[str, Any], status: int
) -> None:
    data = information("1.2.4", ["1.2.3.4"])
    for keyword, value in change.items():
        if value is None:
            delattr(data, keyword)
        else:
            setattr(data, keyword, value)
    assert directed.scanner.ask(directed.appliance.port, data, **arguments) == status


def test_a_name_stands_for_one_request(directed: DirectedSite) -> None:
    port = directed.appliance.port
    assert directed.scanner.ask(port, information("1.2.5", ["1.2.3.4"])) == 0x0000
    assert directed.scanner.ask(port, information("1.2.5", ["1.2.3.4"])) == 0x0000
    assert directed.scanner.ask(port, information("1.2.5", ["1.2.3.5"])) == 0x0115
    assert directed.scanner.told.get(timeout=30).failures == {"1.2.3.4": 0x0112}


def test_reports_come_from_whom_was_asked_and_unknown_ones_do_no_harm(directed: DirectedSite) -> None:
    pacs, port = directed.pacs, directed.appliance.port
    uids = directed.send("strangers")
    transaction, _ = directed.asked()
    assert pacs.report(port, transaction, uids, ae_title="SCANNER") == 0x0124
    assert pacs.report(port, "1.2.3.4", uids) == 0x0000
    assert metric(directed.appliance, "appliance_uncommitted_deliveries", 'state="asked"') == 2
    directed.report(transaction, uids)


def test_neither_dead_processes_nor_a_silent_scanner_lose_a_commitment(tmp_path: Path) -> None:
    site = DirectedSite(tmp_path, report_timeout_h=5 / 3600)
    try:
        site.pacs.start()
        site.start()
        uids = site.send("dead", slices=3)
        assert site.scanner.ask(site.appliance.port, information("1.2.6", uids)) == 0x0000
        site.kill("receive")
        site.kill("forward")
        first, _ = site.asked()
        # The PACS says nothing: it is asked anew, and its late word counts as well.
        second, asked = site.asked()
        assert second != first
        assert asked == sorted(uids)
        wait_until(lambda: listens(site.appliance.port), 30, "the receiver is back")
        site.report(first, uids[:1])
        site.kill("forward")
        site.report(second, uids)
        wait_until(
            lambda: metric(site.appliance, "appliance_commitment_reports_total", 'result="not_told"') > 0,
            30,
            "the scanner is tried",
        )
        site.scanner.listen()
        assert site.scanner.told.get(timeout=30) == Told("1.2.6", 1, frozenset(uids), {})
    finally:
        site.close()


def test_a_pacs_that_does_not_commit_keeps_the_scanner_waiting_until_it_is_told_so(tmp_path: Path) -> None:
    site = DirectedSite(tmp_path, give_up_h=6 / 3600)
    try:
        site.pacs.start(commits=False)
        site.scanner.listen()
        site.start()
        uids = site.send("never")
        assert site.scanner.ask(site.appliance.port, information("1.2.7", uids)) == 0x0000
        wait_until(
            lambda: metric(site.appliance, "appliance_commitment_requests_total", 'answer="refused"') > 0,
            30,
            "the PACS is asked",
        )
        told = site.scanner.told.get(timeout=30)
        assert told == Told("1.2.7", 2, frozenset(), dict.fromkeys(uids, 0x0110))
    finally:
        site.close()


def test_what_is_committed_leaves_the_spool_and_is_known_when_it_comes_again(tmp_path: Path) -> None:
    site = DirectedSite(tmp_path)
    config = yaml.safe_load(site.appliance.config.read_text())
    config["storage"] |= {"keep_originals_h": 1 / 3600}
    site.appliance.config.write_text(yaml.safe_dump(config))
    spool = tmp_path / "edge" / "var" / "spool" / "originals"
    try:
        site.pacs.start()
        site.start()
        uids = site.send("purged")
        transaction, _ = site.asked()
        time.sleep(4.0)
        assert spooled(spool) == 2
        site.report(transaction, uids)
        wait_until(lambda: spooled(spool) == 0, 40, "the spool is empty")
        assert site.send("purged") == uids
        site.kill("receive")
        wait_until(lambda: spooled(spool) == 0, 40, "the duplicates are gone")
        time.sleep(2.0)
        assert all(site.pacs.stored.count(uid) == 1 for uid in uids)
        wait_until(
            lambda: metric(site.appliance, "appliance_purged_files_total", 'spool="originals"') == 2,
            10,
            "the purge is counted",
        )
    finally:
        site.close()


def spooled(spool: Path) -> int:
    """How many files with content a spool has."""
    return sum(1 for path in spool.glob("*/*.dcm") if path.stat().st_size)
