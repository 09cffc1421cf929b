"""Rules, titles and operators' decisions, with real PACS: who gets what over the wire."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.dicom_samples import CtSeries, write_series
from tests.support.pacs import StoreScp, send
from tests.support.processes import free_port, wait_until
from tests.support.running import RunningAppliance
from tests.support.scanner import associate, data_set_sha256, refusal
from tests.support.settling import metric, waiting_deliveries

pytestmark = pytest.mark.slow

EVENTS = "appliance_originals_unrouted_total"


def test_a_destination_gets_what_its_rules_let_through(tmp_path: Path) -> None:
    clinical, research = StoreScp(tmp_path / "clinical").start(), StoreScp(tmp_path / "research").start()
    called = {"clinical": "EDGE", "research": "EDGE_STUDY"}
    destinations = {
        name: {
            "ae_title": "PACS",
            "host": "127.0.0.1",
            "port": pacs.port,
            "only": {"called_ae_title": [called[name]]},
        }
        for name, pacs in (("clinical", clinical), ("research", research))
    }
    settings = {
        "station": {"ae_title": "EDGE", "other_ae_titles": ["EDGE_STUDY", "EDGE_NOWHERE"]},
        "pipelines": [],
        "destinations": destinations,
    }
    appliance = RunningAppliance(tmp_path / "edge", pacs_port=clinical.port, settings=settings).start()
    try:
        series = {
            name: write_series(tmp_path / name, CtSeries(slices=2, series=name))
            for name in ("EDGE", "EDGE_STUDY", "EDGE_NOWHERE")
        }
        for name, files in series.items():
            send(files, appliance.port, called=name)
        assert refusal(associate(appliance.port, called="OTHER")) == (1, 1, 7)
        wait_until(lambda: len(clinical.files) == len(research.files) == 2, 30, "each gets its images")
        wait_until(lambda: metric(appliance, EVENTS) == 2, 30, "what nobody gets is counted")
        assert waiting_deliveries(appliance) == 0
        for pacs, name in ((clinical, "EDGE"), (research, "EDGE_STUDY")):
            assert {data_set_sha256(path) for path in pacs.files} == set(map(data_set_sha256, series[name]))
        assert "sent to EDGE_STUDY" in appliance.command("check").stdout
    finally:
        appliance.stop()
        clinical.stop()
        research.stop()


def test_an_operator_sees_that_the_pacs_is_away_and_what_waits(tmp_path: Path) -> None:
    pacs = StoreScp(tmp_path / "pacs", port=free_port())
    appliance = RunningAppliance(tmp_path / "edge", pacs_port=pacs.port, settings={"pipelines": []}).start()
    try:
        files = write_series(tmp_path / "sent", CtSeries(slices=3, series="waits"))
        send(files, appliance.port)
        away = 'destination="pacs",state="open"'
        wait_until(
            lambda: metric(appliance, "appliance_destination_circuit_state", away) == 1,
            30,
            "the circuit is open",
        )
        assert appliance.get("/readyz").startswith("ready\ndestination pacs does not work since ")
        assert [row["circuit"] for row in appliance.status()["destinations"]] == ["open"]
        assert "pacs" in appliance.command("status").stdout
        rows = json.loads(_deliveries(appliance, "list", "--json"))
        assert [row["state"] for row in rows] == ["pending"] * 3
        _deliveries(appliance, "drop", str(rows[0]["id"]), "--reason", "a test image")
        pacs.start()
        wait_until(lambda: len(pacs.files) == 2, 30, "the others arrive")
        _deliveries(appliance, "release", str(rows[0]["id"]), "--reason", "it was none")
        wait_until(lambda: len(pacs.files) == 3, 30, "what was released arrives")
        wait_until(lambda: appliance.get("/readyz") == "ready\n", 30, "the destination works again")
    finally:
        appliance.stop()
        pacs.stop()


def _deliveries(appliance: RunningAppliance, command: str, *arguments: str) -> str:
    answer = appliance.command("deliveries", command, *arguments)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout
