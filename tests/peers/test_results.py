"""From the scanner through the models to the PACS: what comes out, and in which order."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from tests.dicom_samples import CtSeries, write_series
from tests.support.pacs import Orthanc, StoreScp
from tests.support.processes import wait_until
from tests.support.running import RunningAppliance
from tests.support.scanner import data_set_sha256, send_verbatim
from tests.support.settling import finish, metric, take_in
from tests.validators import DCENTVFY, DCIODVFY, dcentvfy_problems, dciodvfy_errors

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (DCIODVFY.exists() and DCENTVFY.exists()), reason="needs the Debian package dicom3tools"
    ),
]

REPORT = "1.2.840.10008.5.1.4.1.1.88.34"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SAME_AS_SOURCE = (
    *("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID", "Modality", "SOPClassUID"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PhotometricInterpretation"),
    *("RescaleSlope", "RescaleIntercept"),
)


class Site:
    """An appliance with both models between a test's scanner and DCMTK's storescp."""

    def __init__(self, folder: Path) -> None:
        self.pacs = StoreScp(folder / "pacs").start()
        self.appliance = RunningAppliance(folder / "edge", pacs_port=self.pacs.port).start()
        self._sent: set[str] = set()

    def close(self) -> None:
        self.appliance.stop()
        self.pacs.stop()

    def run(self, files: list[Path]) -> None:
        """Send the files and wait for all that comes of them."""
        self._sent |= set(uids_of(files))
        take_in(self.appliance, len(files), lambda: send_verbatim(files, self.appliance.port))
        finish(self.appliance)

    def results_of(self, files: list[Path]) -> Results:
        """What the PACS holds about the series of `files`, or about its study where no source is named."""
        study, sources = dcmread(files[0], stop_before_pixels=True).StudyInstanceUID, set(uids_of(files))
        results = Results(files)
        for path in self.pacs.files:
            image = dcmread(path)
            if image.StudyInstanceUID != study or image.SOPInstanceUID in self._sent:
                continue
            kind = {REPORT: "report", CAPTURE: "capture"}.get(image.SOPClassUID, "derived")
            if is_early(image):
                results.early.append(str(image.SOPInstanceUID))
                kind = "early"
            if kind != "derived" or image.SourceImageSequence[0].ReferencedSOPInstanceUID in sources:
                results.files[kind].append(path)
                results.datasets[kind].append(image)
        return results

    def decisions(self) -> set[tuple[str, str]]:
        """Model and reason of every skip so far."""
        return {(skip["model"], skip["reason"]) for skip in self.appliance.status()["skips"]}


class Results:
    """The result objects about one series, by kind."""

    def __init__(self, sources: list[Path]) -> None:
        self.sources = sources
        self.files: dict[str, list[Path]] = defaultdict(list)
        self.datasets: dict[str, list[Dataset]] = defaultdict(list)
        self.early: list[str] = []

    @property
    def uids(self) -> set[str]:
        return {str(image.SOPInstanceUID) for images in self.datasets.values() for image in images}

    @property
    def all_files(self) -> list[Path]:
        return [path for paths in self.files.values() for path in paths]


def is_early(image: Dataset) -> bool:
    """Whether a report came while its series still arrived: that depends on time, unlike all others."""
    return str(image.get("SeriesDescription")).endswith(" early")


def uids_of(files: Iterable[Path]) -> list[str]:
    return [str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in files]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    try:
        yield site
    finally:
        site.close()


@pytest.fixture(scope="module")
def positive(site: Site, bleed: list[Path]) -> Results:
    """What came of the head with the bleed."""
    site.run(bleed)
    return site.results_of(bleed)


def hounsfield(image: Dataset) -> np.ndarray[Any, np.dtype[np.float64]]:
    values: np.ndarray[Any, np.dtype[np.float64]] = image.pixel_array.astype(np.float64)
    return values * float(image.RescaleSlope) + float(image.RescaleIntercept)


def assert_originals_arrived(site: Site, files: list[Path]) -> None:
    missing = Counter(map(data_set_sha256, files)) - Counter(map(data_set_sha256, site.pacs.files))
    assert not missing


def assert_derived_series_fits(results: Results) -> None:
    """One derived image for each source, on its grid and in its units, in one new series."""
    derived = results.datasets["derived"]
    assert len(derived) == len(results.sources)
    assert len({image.SeriesInstanceUID for image in derived}) == 1
    by_source = {image.SourceImageSequence[0].ReferencedSOPInstanceUID: image for image in derived}
    for path in results.sources:
        source = dcmread(path)
        image = by_source[source.SOPInstanceUID]
        assert image.SeriesInstanceUID != source.SeriesInstanceUID
        assert image.ImageType[0] == "DERIVED"
        for keyword in SAME_AS_SOURCE:
            assert image.get(keyword) == source.get(keyword), keyword
        before, after = hounsfield(source), hounsfield(image)
        assert abs(float(after.mean() - before.mean())) < 1.0
        assert not np.array_equal(before, after)


def assert_valid(results: Results) -> None:
    inherited = {error for path in results.sources for error in dciodvfy_errors(path)}
    for path in results.all_files:
        assert set(dciodvfy_errors(path)) <= inherited, path.name
    before = set(dcentvfy_problems(results.sources))
    assert set(dcentvfy_problems([*results.sources, *results.all_files])) <= before


def test_originals_of_a_bleed_arrive_as_they_were_sent(
    site: Site, bleed: list[Path], positive: Results
) -> None:
    assert_originals_arrived(site, bleed)


def test_a_bleed_is_reported_and_shown(site: Site, positive: Results) -> None:
    (report,) = positive.datasets["report"]
    (capture,) = positive.datasets["capture"]
    assert "Intracranial hemorrhage" in str(report)
    assert capture.SeriesInstanceUID != report.SeriesInstanceUID
    outcomes = {(row["model"], row["outcome"]): row["count"] for row in site.appliance.status()["outcomes"]}
    assert outcomes["head-ct-triage", "positive"] == 1


def test_the_derived_series_fits_its_source(positive: Results) -> None:
    assert_derived_series_fits(positive)


def test_results_of_a_bleed_are_valid(positive: Results) -> None:
    assert_valid(positive)


def test_results_that_come_back_are_neither_forwarded_nor_processed(site: Site, positive: Results) -> None:
    before = site.appliance.status()
    spooled = len(list(site.appliance.folder.glob("var/spool/originals/??/*.dcm")))
    take_in(
        site.appliance,
        len(positive.all_files),
        lambda: send_verbatim(positive.all_files, site.appliance.port),
    )
    finish(site.appliance)
    after = site.appliance.status()
    assert after["series"] == before["series"]
    assert after["deliveries"] == before["deliveries"]
    assert after["jobs"] == before["jobs"]
    assert metric(site.appliance, "appliance_instances_received_total", 'outcome="loop"') == len(
        positive.all_files
    )
    wait_until(
        lambda: len(list(site.appliance.folder.glob("var/spool/originals/??/*.dcm"))) == spooled,
        10,
        "what came back is not kept",
    )


def test_a_late_slice_joins_the_derived_series_and_is_reported_anew(site: Site, clear: list[Path]) -> None:
    site.run(clear[:-1])
    first = site.results_of(clear)
    assert len(first.datasets["derived"]) == len(clear) - 1
    assert len(first.datasets["report"]) == 1
    site.run(clear[-1:])
    results = site.results_of(clear)
    assert first.uids < results.uids
    assert_originals_arrived(site, clear)
    assert_derived_series_fits(results)
    reports = results.datasets["report"]
    assert len({report.SeriesInstanceUID for report in reports}) == 2
    (later,) = (report for report in reports if report.SOPInstanceUID not in first.uids)
    (predecessor,) = later.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert predecessor.ReferencedSOPInstanceUID == first.datasets["report"][0].SOPInstanceUID
    assert results.datasets["capture"] == [], "nothing to show of a negative answer"
    assert_valid(results)


def test_real_scans_of_a_phantom_and_of_a_chest(site: Site, real_data: Callable[[str], Path]) -> None:
    phantom = sorted(real_data("ct/philips-skull-phantom/std-5mm").iterdir())
    chest = sorted(real_data("ct/human-lung").iterdir())[10:16]
    others = [*real_data("ct/philips-skull-phantom/scout").iterdir(), *real_data("mr/philips-epi").iterdir()]
    others += real_data("ct/philips-skull-phantom/exam-summary-sc").iterdir()
    site.run([*others, *phantom, *chest])
    for files in (phantom, chest, others):
        assert_originals_arrived(site, files)
    for files in (phantom, chest):
        results = site.results_of(files)
        assert_derived_series_fits(results)
        assert results.datasets["capture"] == [], "flagged"
        assert_valid(results)
    assert site.results_of(chest).datasets["report"] == []
    reasons = site.decisions()
    for model in ("ct-denoise", "head-ct-triage"):
        assert {(model, "localizer"), (model, "sop_class"), (model, "modality")} <= reasons
    assert ("head-ct-triage", "body_part") in reasons


def test_truncated_pixels_are_forwarded_and_left_out(site: Site, tmp_path: Path) -> None:
    files = write_series(tmp_path, CtSeries(slices=3, study="truncated"))
    files[1].write_bytes(files[1].read_bytes()[:-2000])
    site.run(files)
    assert_originals_arrived(site, files)
    derived = site.results_of(files).datasets["derived"]
    sources = {image.SourceImageSequence[0].ReferencedSOPInstanceUID for image in derived}
    assert sources == set(uids_of([files[0], files[2]]))
    outcomes = {(row["model"], row["outcome"], row["reason"]) for row in site.appliance.status()["outcomes"]}
    assert ("ct-denoise", "enhanced", "partial") in outcomes


def test_one_uid_with_two_contents_holds_the_models(site: Site, tmp_path: Path) -> None:
    first = write_series(tmp_path / "first", CtSeries(slices=3, study="changed", seed=1))
    second = write_series(tmp_path / "second", CtSeries(slices=1, study="changed", seed=2))
    before = metric(site.appliance, "appliance_outbox_deliveries", 'state="stored"')
    site.run([*first, *second])
    assert metric(site.appliance, "appliance_outbox_deliveries", 'state="stored"') - before == 4
    assert site.results_of(first).uids == set()
    assert {("ct-denoise", "changed_content"), ("head-ct-triage", "changed_content")} <= site.decisions()


def acknowledged(appliance: RunningAppliance) -> list[int]:
    """The priorities of the deliveries in the order in which the PACS took them."""
    with closing(sqlite3.connect(appliance.folder / "var" / "journal.sqlite")) as journal:
        rows = journal.execute(
            "SELECT priority FROM history JOIN deliveries ON deliveries.id = aggregate_id"
            " WHERE aggregate = 'delivery' AND event = 'ack' ORDER BY history.id"
        )
        return [row[0] for row in rows]


def test_a_stop_in_the_middle_and_a_pacs_that_is_away(
    bleed: list[Path], positive: Results, tmp_path: Path
) -> None:
    """The same series on a new disk: the same UIDs, after a restart, the urgent results first."""
    orthanc = Orthanc(tmp_path / "orthanc")
    # Two associations would send originals and urgent results side by side.
    delivery = {"retry_minimum_s": 0.5, "retry_maximum_s": 2.0, "associations": 1}
    settings = {"delivery": delivery}
    appliance = RunningAppliance(tmp_path / "edge", pacs_port=orthanc.port, settings=settings).start()
    running = 'state="running"'
    take_in(appliance, len(bleed), lambda: send_verbatim(bleed, appliance.port))
    wait_until(lambda: metric(appliance, "appliance_jobs", running) > 0, 30, "a model runs")
    begin = time.monotonic()
    appliance.stop()
    assert time.monotonic() - begin < 30
    appliance.start()
    ended = lambda: metric(appliance, "appliance_jobs", 'state="done"') == 2  # noqa: E731
    wait_until(ended, 120, "both models have answered")
    try:
        orthanc.start()
        finish(appliance)
        order = acknowledged(appliance)
        stored = orthanc.save_all(tmp_path / "stored")
    finally:
        appliance.stop()
        orthanc.stop()
    # The key images, report and card, perhaps an early report, the other originals, the derived series.
    assert order == sorted(order)
    assert (order.count(0) + order.count(2), order.count(3)) == (len(bleed), len(bleed))
    assert order.count(0) >= 1
    assert order.count(1) in (2, 3)
    final = [path for path in stored if not is_early(dcmread(path, stop_before_pixels=True))]
    assert set(uids_of(final)) == positive.uids - set(positive.early) | set(uids_of(bleed))
    assert not Counter(map(data_set_sha256, bleed)) - Counter(map(data_set_sha256, stored))
