"""A series is worked on while it arrives: images are enhanced as they come, a finding is told of early."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from tests.support.pacs import StoreScp
from tests.support.processes import wait_until
from tests.support.running import RunningAppliance
from tests.support.scanner import data_set_sha256, send_verbatim
from tests.support.settling import finish, metric, take_in
from tools.simulate.head_series import write_series as write_head

pytestmark = pytest.mark.slow

REPORT = "1.2.840.10008.5.1.4.1.1.88.34"


def enhanced(pacs: StoreScp) -> list[str]:
    """The sources of the enhanced images at the PACS."""
    stored = [dcmread(path, stop_before_pixels=True) for path in pacs.files]
    return [
        str(one.SourceImageSequence[0].ReferencedSOPInstanceUID)
        for one in stored
        if str(one.get("SeriesDescription")).startswith("AI-DN")
    ]


def reports(pacs: StoreScp) -> list[Dataset]:
    """The reports at the PACS."""
    return [one for one in map(dcmread, pacs.files) if one.SOPClassUID == REPORT]


def test_results_leave_before_the_series_is_complete(tmp_path: Path) -> None:
    files = write_head(tmp_path / "bleed", seed=1, bleed=True, slices=16, size=256)
    uids = [str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in files]
    pacs = StoreScp(tmp_path / "pacs").start()
    settings = {"completeness": {"quiet_s": {"default": 20.0, "CT": 20.0}}}
    appliance = RunningAppliance(tmp_path / "edge", pacs_port=pacs.port, settings=settings).start()
    try:
        take_in(appliance, 14, lambda: send_verbatim(files[:14], appliance.port))
        wait_until(lambda: len(reports(pacs)) == 1, 60, "a report of what came so far")
        wait_until(lambda: len(enhanced(pacs)) == 14, 120, "an enhanced image for each that came")
        assert metric(appliance, "appliance_series", 'state="open"') == 1
        take_in(appliance, 2, lambda: send_verbatim(files[14:], appliance.port))
        finish(appliance)
        early, final = sorted(reports(pacs), key=lambda one: "PredecessorDocumentsSequence" in one)
        assert sorted(enhanced(pacs)) == sorted(uids)
        originals = {data_set_sha256(path) for path in pacs.files}
        assert {data_set_sha256(path) for path in files} <= originals
        rows = {(row["model"], row["outcome"], row["reason"]) for row in appliance.status()["outcomes"]}
    finally:
        appliance.stop()
        pacs.stop()
    assert str(early.SeriesDescription).endswith(" early")
    assert "images that had arrived" in early.to_json()
    assert early.SeriesInstanceUID != final.SeriesInstanceUID
    assert early.SOPInstanceUID in str(final.PredecessorDocumentsSequence[0])
    assert {("ct-denoise", "enhanced", ""), ("head-ct-triage", "positive", "")} == rows
