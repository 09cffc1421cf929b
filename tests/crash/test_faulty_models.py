"""Whatever a model does, images flow, each series ends where people see it, and the other models go on."""

from __future__ import annotations

import json
import platform
import shutil
import sqlite3
import statistics
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support import faulty_models
from tests.support.processes import ROOT, program, wait_until
from tools.campaigns.crash import SIZE, SLICES
from tools.campaigns.journal_view import Decided, JournalView
from tools.campaigns.pacs import Pacs
from tools.campaigns.scanner import Scanner, Series, new_series
from tools.campaigns.tree import Tree
from tools.simulate.head_series import write_series

SOUND = "ct-denoise"
REPORT = "1.2.840.10008.5.1.4.1.1.88.34"  # Comprehensive 3D SR
PIPELINE = {"destinations": ["pacs"], "results": {"sr": ["positive", "negative", "not_analysed"]}}
LAG_S = 5.0
"""More than an image needs from its acknowledgement to the PACS on a machine that does much else."""

# What CUDA's driver says on a machine whose GPU is gone (cuInit, CUDA_ERROR_NO_DEVICE).
NO_DEVICE = """
class Error(Exception): pass
def init(): raise Error("cuInit failed: no CUDA-capable device is detected")
"""
FAULTS = {
    "not-finite": (faulty_models.not_finite, "done", "non_finite_output"),
    "wrong-shape": (faulty_models.wrong_shape, "done", "wrong_output_shape"),
    "needs-memory": (faulty_models.needs_memory, "failed", "error"),
    "hangs": (faulty_models.hangs, "failed", "crashed"),
    "crashes": (faulty_models.crashes, "failed", "crashed"),
    "crashes-at-load": (faulty_models.crashes_at_load, "done", "model_out_of_service"),
}
if platform.machine() != "x86_64":  # other processors do not trap
    del FAULTS["crashes"], FAULTS["crashes-at-load"]


class Site:
    """The appliance between a scanner and a PACS, with the model packages in `engines`."""

    def __init__(self, folder: Path, models: list[str], inference: Mapping[str, Any]) -> None:
        self.folder = folder
        self.pacs = Pacs(folder / "pacs")
        self.pacs.start()
        pipelines = [{"model": model, **PIPELINE} for model in models]
        settings = {
            "pipelines": [*pipelines, {"model": SOUND, "destinations": ["pacs"]}],
            "engines": {"path": str(folder / "engines")},
            "inference": {"threads": 1, **inference},
        }
        shutil.copytree(ROOT / "engines" / SOUND, folder / "engines" / SOUND)
        driver = folder / "fakes" / "pycuda" / "driver.py"
        driver.parent.mkdir(parents=True)
        driver.write_text(NO_DEVICE)
        environment = {"PYTHONPATH": f"{ROOT}:{folder / 'fakes'}"}
        self.tree = Tree(folder / "appliance", self.pacs.port, settings, environment)
        self.journal = JournalView(self.tree.storage)
        self._template = write_series(folder / "template", seed=1, bleed=False, slices=SLICES, size=SIZE)

    def send(self, name: str) -> Series:
        """Send a new series and wait until all of it is acknowledged, in one association."""
        series = new_series(self._template, self.folder / name)
        scanner = Scanner(self.tree.port, series, patience_s=30)
        scanner.start()
        scanner.join()
        assert (scanner.is_done, scanner.associations) == (True, 1)
        return series

    def end_of(self, series: Series, seconds: float = 120) -> dict[str, Decided]:
        """What each model's job ended as, once everything about the series has come to its end."""
        wait_until(lambda: not self.journal.pending(series), seconds, "all has come to its end")
        decisions = {one.model: one for one in self.journal.decisions(series)}
        self.assert_originals(series)
        return decisions

    def assert_originals(self, series: Series) -> None:
        """All images of the series are at the PACS."""
        assert set(series.images) <= set(self.pacs.arrived(series.study_instance_uid))

    def lags(self, series: Series) -> list[float]:
        """Seconds from the acknowledgement of each image to its delivery."""
        with closing(sqlite3.connect(self.tree.storage / "journal.sqlite")) as connection:
            rows = connection.execute(
                "SELECT i.received_at, d.stored_at FROM instances i JOIN deliveries d USING (spool_key)"
                " WHERE i.series_instance_uid = ?",
                (series.series_instance_uid,),
            ).fetchall()
        assert len(rows) == len(series.images)
        return [
            (datetime.fromisoformat(stored) - datetime.fromisoformat(received)).total_seconds()
            for received, stored in rows
        ]

    def reports(self, series: Series) -> int:
        """How many reports on the series the PACS has."""
        arrived = self.pacs.arrived(series.study_instance_uid)
        return sum(str(copies[0].dataset.SOPClassUID) == REPORT for copies in arrived.values())

    def models(self) -> dict[str, str]:
        """What `appliance models` says of each model's service."""
        answer = subprocess.run(
            self.tree.command("models", "--json"),
            env=self.tree.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return {row["id"]: row["service"] for row in json.loads(answer.stdout)}


@contextmanager
def running(site: Site) -> Iterator[None]:
    """The appliance starts, and at the end it stops as it should."""
    try:
        site.tree.start()
        yield
        assert site.tree.stop() == 0
    finally:
        site.tree.stop()
        site.pacs.stop()


def runs(site: Site, series: Series, model: str) -> bool:
    return any((one.model, one.state) == (model, "running") for one in site.journal.decisions(series))


@pytest.mark.slow
def test_no_fault_of_a_model_reaches_the_images_or_the_other_models(tmp_path: Path) -> None:
    program("/usr/bin/storescp", "dcmtk")
    for model, (graph, _, _) in FAULTS.items():
        faulty_models.write_package(tmp_path / "engines", model, graph)
    inference = {"attempts": 2, "step_s": 8.0, "failures_in_a_row": 1, "retest_s": 3600.0}
    site = Site(tmp_path, list(FAULTS), inference)
    engines = site.tree.storage / "engines"
    engines.mkdir(parents=True, mode=0o700)
    (engines / "hangs-0123456789abcdef.engine").write_bytes(b"not built here")
    with running(site):
        first = site.send("first")
        wait_until(partial(runs, site, first, "hangs"), 60, "the model that hangs has its turn")
        second = site.send("second")
        wait_until(
            lambda: len(site.pacs.arrived(second.study_instance_uid)) >= len(second.images),
            10,
            "they are sent",
        )
        assert runs(site, first, "hangs")
        met = site.end_of(first)
        spared = site.end_of(second)
        undisturbed = site.send("undisturbed")
        site.end_of(undisturbed)
        told = site.models()

    for model, (_, state, reason) in FAULTS.items():
        ended = met[model]
        assert (ended.state, ended.outcome, ended.reason) == (state, "not_analysed", reason), model
        avoided = spared[model]
        assert (avoided.state, avoided.reason) == ("done", "model_out_of_service"), model
        assert avoided.outcome == "not_analysed"
        assert told[model].startswith("out of service since "), model
    assert met["crashes"].attempts == met["hangs"].attempts == 2
    assert told[SOUND] == "in service"
    assert {met[SOUND].outcome, spared[SOUND].outcome} == {"enhanced"}
    # People are told of each series that was given to no model, or to one that answered nothing.
    assert site.reports(second) == len(FAULTS)
    assert site.reports(first) == sum(state == "done" for _, state, _ in FAULTS.values())
    disturbed_s, quiet_s = site.lags(first) + site.lags(second), site.lags(undisturbed)
    assert max(disturbed_s) < LAG_S
    assert statistics.median(disturbed_s) < statistics.median(quiet_s) + 1.0


@pytest.mark.slow
def test_a_model_with_a_damaged_file_is_back_once_the_file_is(tmp_path: Path) -> None:
    """The appliance starts without it, and tests it again and again."""
    program("/usr/bin/storescp", "dcmtk")
    package = faulty_models.write_package(tmp_path / "engines", "restored", faulty_models.sound)
    weights = (package / "model.onnx").read_bytes()
    (package / "model.onnx").write_bytes(weights[:-1])
    site = Site(tmp_path, ["restored"], {"retest_s": 1.0})
    with running(site):
        without = site.end_of(site.send("without"))
        told = site.models()["restored"]
        (package / "model.onnx").write_bytes(weights)
        wait_until(lambda: site.models()["restored"] == "in service", 60, "the model is back")
        answered = site.end_of(site.send("with"))

    assert (without["restored"].outcome, without["restored"].reason) == (
        "not_analysed",
        "model_out_of_service",
    )
    assert "has the SHA-256" in told
    assert {without[SOUND].outcome, answered[SOUND].outcome} == {"enhanced"}
    assert answered["restored"].outcome == "negative"
