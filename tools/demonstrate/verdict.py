"""Whether everything that should have arrived has: one row for each series, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pynetdicom.dsutils import split_dataset

from tools.demonstrate.evidence import Arrived, Evidence
from tools.demonstrate.inputs import Series

JOBS_FINISHED = "appliance_jobs_finished_total"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    `seconds` run from the first image sent to the last object at the PACS, `triage_seconds` to the first
    report.
    """

    series: Series
    forwarded: int
    enhanced: int
    triage: str
    seconds: float | None
    triage_seconds: float | None
    problems: tuple[str, ...]

    def as_json(self) -> dict[str, str | int | float | bool | list[str] | None]:
        """The row for `tools/demo --json`."""
        return {
            "series": self.series.name,
            "series_instance_uid": self.series.uid,
            "bleed": self.series.bleed,
            "images_in": len(self.series.images),
            "forwarded": self.forwarded,
            "enhanced": self.enhanced,
            "triage": self.triage,
            "seconds": self.seconds,
            "triage_seconds": self.triage_seconds,
            "problems": list(self.problems),
        }


def rows(evidence: Evidence, first_sent: Mapping[str, float]) -> list[Row]:
    """One row for each series that was to be sent; `first_sent` holds wall-clock times by series UID."""
    return [_row(arrived, first_sent.get(uid)) for uid, arrived in evidence.arrived.items()]


def general_problems(evidence: Evidence, counted: Mapping[tuple[str, ...], float]) -> list[str]:
    """What is wrong beyond single series. `counted` are the appliance's finished jobs by (model, outcome).

    A result that the appliance counts but the PACS does not have is lost; the other way round it is a
    result that nobody accounts for.
    """
    outcomes: dict[str, int] = {}
    for (_, outcome), count in counted.items():
        outcomes[outcome] = outcomes.get(outcome, 0) + round(count)
    arrived = evidence.arrived.values()
    reports = [report for one in arrived for report in one.reports]
    at_pacs = {
        "enhanced": sum(bool(one.derived) for one in arrived),
        "positive": sum(report.positive for report in reports),
        "negative": sum(not report.positive for report in reports),
    }
    problems = list(evidence.strangers)
    for outcome, count in at_pacs.items():
        if outcomes.get(outcome, 0) != count:
            problems.append(
                f"{outcome}: the appliance counts {outcomes.get(outcome, 0)}, the PACS has {count}"
            )
    if outcomes.get("failed", 0):
        problems.append(f"{outcomes['failed']} jobs failed")
    return problems


def _row(arrived: Arrived, first_sent: float | None) -> Row:
    problems = [*_originals(arrived), *_enhanced(arrived), *_triage(arrived)]
    return Row(
        series=arrived.series,
        forwarded=len(arrived.originals),
        enhanced=len(arrived.derived),
        triage=_outcome(arrived),
        seconds=_seconds(first_sent, arrived.files),
        triage_seconds=_seconds(first_sent, [report.path for report in arrived.early or arrived.reports]),
        problems=tuple(problems),
    )


def _seconds(first_sent: float | None, files: list[Path]) -> float | None:
    """From the first image sent to the arrival of the last of `files`."""
    if first_sent is None or not files:
        return None
    return round(max(0.0, max(path.stat().st_mtime for path in files) - first_sent), 1)


def _outcome(arrived: Arrived) -> str:
    if not arrived.reports:
        return "not analysed"
    report = arrived.reports[0]
    word = "positive" if report.positive else "negative"
    return f"{word}, {report.score:.1f} % (threshold {report.threshold:.1f} %)"


def _originals(arrived: Arrived) -> list[str]:
    missing = len(arrived.series.images) - len(arrived.originals)
    problems = [f"{missing} of {len(arrived.series.images)} originals did not arrive"] if missing else []
    changed = 0
    for image in arrived.series.images:
        path = arrived.originals.get(image.sop_instance_uid)
        if path is not None and dataset_bytes(path) != dataset_bytes(image.path):
            changed += 1
    if changed:
        problems.append(f"{changed} originals arrived changed")
    return problems


def dataset_bytes(path: Path) -> bytes:
    """The data set in a DICOM file, without preamble and file meta information."""
    _, offset = split_dataset(path)
    return path.read_bytes()[offset:]


def _enhanced(arrived: Arrived) -> list[str]:
    """All images of a series are enhanced, or none; of a simulated head all."""
    sources = [derived.source_uid for derived in arrived.derived]
    expected = len(arrived.series.images)
    if not sources:
        return [] if arrived.series.bleed is None else ["no enhanced series arrived"]
    problems = []
    if sorted(sources) != sorted(arrived.series.sop_instance_uids):
        problems.append(f"{len(sources)} enhanced images arrived for {expected}")
    same = 0
    for derived in arrived.derived:
        original = arrived.originals.get(derived.source_uid)
        if original is not None:
            same += dcmread(derived.path).PixelData == dcmread(original).PixelData
    if same:
        problems.append(f"{same} enhanced images have the pixels of their source")
    return problems


def _triage(arrived: Arrived) -> list[str]:
    """A report for every triage, a card for every positive; the simulated heads must come out right."""
    problems = []
    positives = sum(report.positive for report in arrived.reports)
    if len(arrived.reports) > 1:
        problems.append(f"{len(arrived.reports)} triage reports arrived for one series")
    if len(arrived.early) > positives:
        problems.append(f"{len(arrived.early)} early reports, {positives} positive reports on all images")
    if len(arrived.cards) != positives:
        problems.append(f"{len(arrived.cards)} heat-map cards for {positives} positive reports")
    if arrived.series.bleed is not None:
        if not arrived.reports:
            problems.append("no triage report arrived")
        elif arrived.series.bleed and not positives:
            problems.append("the bleed was not flagged")
        elif positives and not arrived.series.bleed:
            problems.append("flagged, but there is no bleed")
    return problems
