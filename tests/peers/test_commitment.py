"""Storage commitment with real peers: Orthanc in both roles."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dicom_samples import CtSeries, write_series
from tests.support.pacs import Orthanc
from tests.support.processes import free_port, wait_until
from tests.support.running import RunningAppliance
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
