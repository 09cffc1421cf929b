"""A result that fails the gate is set aside with its report; the answer stands and the others go."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from appliance.config.load import load
from appliance.dicom.outcome import Enhanced, Findings
from appliance.domain.types import Job
from appliance.journal.database import Journal
from appliance.observe.metrics import REGISTRY
from appliance.results import Produced
from appliance.services.inference.recording import Recorder
from appliance.services.inference.step import Step, word
from appliance.services.storage import Storage
from tests.dicom_samples import CtSeries
from tests.journal_samples import claimed_job, open_journal, planned_job
from tests.result_samples import enhanced, findings, produce, sample_volume

MODEL = "withholding"


class Site:
    """One job that is running, and what records its steps."""

    def __init__(self, folder: Path) -> None:
        path = folder / "site.yaml"
        pacs = {"ae_title": "PACS", "host": "127.0.0.1", "port": 104}
        path.write_text(
            yaml.safe_dump(
                {
                    "station": {"ae_title": "EDGE"},
                    "storage": {"path": "./var", "durability": "os"},
                    "destinations": {"pacs": pacs},
                }
            )
        )
        self.config = load(path)
        self.config.storage.path.mkdir()
        self.journal: Journal = open_journal(self.config.storage.path)
        planned_job(self.journal, model=MODEL)
        self.job: Job = claimed_job(self.journal)
        self.volume = sample_volume(folder / "series", CtSeries(slices=3, rows=16, columns=16))
        self.quarantine = self.config.storage.path / "spool" / "quarantine"

    def finish(self, outcome: Enhanced | Findings, spoil: Callable[[Produced], None]) -> None:
        """End the job with the results of an outcome, each after `spoil`."""

        def spoilt() -> Iterator[Produced]:
            for one in produce(outcome, self.volume):
                spoil(one)
                yield one

        storage = Storage(self.config)
        with closing(storage.journal):
            recorder = Recorder(self.config, storage, lambda: None)
            step = Step(word(outcome), sources=self.volume.sources, produced=spoilt())
            recorder.record(self.job, step, ["pacs"], "sha", time.monotonic())

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with self.journal.read() as connection:
            return [tuple(row) for row in connection.execute(query)]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def _spoil_report(produced: Produced) -> None:
    if produced.kind == "sr":
        del produced.dataset.CompletionFlag


def test_a_faulty_report_is_set_aside_and_the_card_still_goes(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    labels = {"model": MODEL, "kind": "sr"}
    with caplog.at_level(logging.ERROR):
        site.finish(findings(site.volume, positive=True), _spoil_report)
    assert site.rows("SELECT kind FROM artifacts") == [("sc",)]
    assert site.rows("SELECT count(*) FROM deliveries WHERE spool = 'results'") == [(1,)]
    ((outcome, reason, detail),) = site.rows("SELECT outcome, reason, detail FROM jobs")
    assert (outcome, reason) == ("positive", "withheld")
    assert detail == "1 sr not sent: CompletionFlag: missing"
    ((report, content),) = [(path, path.with_suffix(".dcm")) for path in site.quarantine.rglob("*.json")]
    assert content.stat().st_size > 1000
    told = json.loads(report.read_text())
    assert told["kind"] == "sr"
    assert {"where": "CompletionFlag", "problem": "missing"} in told["violations"]
    assert REGISTRY.get_sample_value("appliance_results_withheld_total", labels) == 1
    (record,) = [one for one in caplog.records if one.message == "result_withheld"]
    assert "CompletionFlag: missing" in record.__dict__["violations"]
    assert "SYNTHETIC" not in str(record.__dict__) + report.read_text()


def test_of_a_derived_series_all_images_go_or_none(site: Site) -> None:
    def spoil_one(produced: Produced) -> None:
        if produced.dataset.InstanceNumber == 2:
            produced.dataset.PatientID = "ANOTHER"

    site.finish(enhanced(site.volume.voxels + 1), spoil_one)
    assert site.rows("SELECT kind FROM artifacts") == []
    assert site.rows("SELECT outcome, reason FROM jobs") == [("enhanced", "withheld")]
    assert len(list(site.quarantine.rglob("*.json"))) == 1


def test_what_cannot_be_written_is_withheld_too(site: Site) -> None:
    def spoil(produced: Produced) -> None:
        if produced.kind == "sc":
            produced.dataset["Rows"]._value = "many"

    site.finish(findings(site.volume, positive=True), spoil)
    assert site.rows("SELECT kind FROM artifacts") == [("sr",)]
    assert site.rows("SELECT outcome, reason FROM jobs") == [("positive", "withheld")]


def test_nothing_is_withheld_of_what_conforms(site: Site) -> None:
    site.finish(findings(site.volume, positive=True), lambda _: None)
    assert sorted(site.rows("SELECT kind FROM artifacts")) == [("sc",), ("sr",)]
    assert site.rows("SELECT outcome, reason FROM jobs") == [("positive", None)]
