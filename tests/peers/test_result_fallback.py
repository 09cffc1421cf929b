"""A PACS that takes no 3D reports gets simpler ones, or cards, also of negative answers, or else nothing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.support.pacs import StoreScp
from tests.support.running import RunningAppliance
from tests.support.scanner import send_verbatim
from tests.support.settling import finish, take_in
from tests.validators import report_text
from tools.simulate.head_series import write_series as write_head

pytestmark = pytest.mark.slow

TOLD = ("sent_instead", "nothing_to_send")
SIMPLER_REPORT = "1.2.840.10008.5.1.4.1.1.88.33"
CAPTURE, REPORT = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.88.34"


def results_in(pacs: StoreScp, sources: list[Path]) -> Counter[str]:
    """SOP classes of what has arrived beside the originals."""
    originals = {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in sources}
    arrived = pacs.datasets()
    return Counter(str(image.SOPClassUID) for uid, image in arrived.items() if uid not in originals)


def test_each_destination_gets_what_it_can_use(tmp_path: Path, clear: list[Path]) -> None:
    picky = StoreScp(tmp_path / "picky", only=("CTImageStorage", "SecondaryCaptureImageStorage")).start()
    plain = StoreScp(tmp_path / "plain", only=("CTImageStorage", "ComprehensiveSRStorage")).start()
    modern, old, bare = (StoreScp(tmp_path / name).start() for name in ("modern", "old", "bare"))
    takes = {"pacs": None, "plain": None, "modern": None, "old": ["sc"], "bare": ["enhanced"]}
    nodes = zip(takes, (picky, plain, modern, old, bare), strict=True)
    destinations = {
        name: {"ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port}
        | ({} if takes[name] is None else {"takes": takes[name]})
        for name, pacs in nodes
    }
    pipelines = [{"model": "head-ct-triage", "destinations": list(takes)}]
    settings = {"destinations": destinations, "pipelines": pipelines, "originals": ["modern"]}
    appliance = RunningAppliance(tmp_path / "edge", pacs_port=picky.port, settings=settings).start()
    try:
        take_in(appliance, len(clear), lambda: send_verbatim(clear, appliance.port))
        finish(appliance)
    finally:
        appliance.stop()
        for pacs in (picky, plain, modern, old, bare):
            pacs.stop()
    assert results_in(picky, clear) == {CAPTURE: 1}
    assert results_in(plain, clear) == {SIMPLER_REPORT: 1}
    assert results_in(modern, clear) == {REPORT: 1}
    assert results_in(old, clear) == {CAPTURE: 1}
    assert results_in(bare, clear) == {}
    log = [json.loads(line) for line in appliance.log.read_text().splitlines() if line.startswith("{")]
    told = {(line["message"], line["destination"]) for line in log if line["message"] in TOLD}
    assert told == {("sent_instead", "pacs"), ("sent_instead", "plain"), ("nothing_to_send", "bare")}


def test_a_series_that_cannot_be_analysed_is_reported_where_asked(tmp_path: Path) -> None:
    images = write_head(tmp_path / "head", seed=1, bleed=True, slices=16, size=256)
    damaged = dcmread(images[7])
    damaged.PixelData = damaged.PixelData[:1000]
    damaged.save_as(images[7])
    pacs = StoreScp(tmp_path / "pacs").start()
    results = {"sr": ["positive", "negative", "not_analysed"], "sc": ["not_analysed"]}
    pipelines = [{"model": "head-ct-triage", "destinations": ["pacs"], "results": results}]
    settings = {"pipelines": pipelines}
    appliance = RunningAppliance(tmp_path / "edge", pacs_port=pacs.port, settings=settings).start()
    try:
        take_in(appliance, len(images), lambda: send_verbatim(images, appliance.port))
        finish(appliance)
    finally:
        appliance.stop()
        pacs.stop()
    assert results_in(pacs, images) == {REPORT: 1, CAPTURE: 1}
    (path,) = (path for path in pacs.files if dcmread(path).SOPClassUID == REPORT)
    report, text = dcmread(path), report_text(path)
    assert "111245,DCM" in text
    assert "Not analysed (truncated_pixel_data)" in text
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert len(evidence.ReferencedSOPSequence) == len(images)
