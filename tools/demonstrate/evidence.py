"""What has arrived at the PACS, and which of the images sent each object belongs to.

Everything here is read from the files that the PACS wrote; the appliance is not asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage

from tools.demonstrate.inputs import Series

SUMMARY = "111017"  # CAD Processing and Findings Summary
WITH_FINDINGS = "111242"  # All algorithms succeeded; with findings
WITHOUT_FINDINGS = "111241"
CERTAINTIES = ("111012", "122157")  # Certainty of Finding; Probability
PARAMETERS = "111002"  # Algorithm Parameters
THRESHOLD = re.compile(r"threshold=([0-9.]+) %")


@dataclass(frozen=True)
class Derived:
    """An enhanced image: its file and the SOP Instance UID of its source."""

    path: Path
    source_uid: str


@dataclass(frozen=True)
class Report:
    """A triage report. `score` and `threshold` are percentages."""

    path: Path
    positive: bool
    score: float
    threshold: float


@dataclass
class Arrived:
    """What the PACS has of one series and of the results about it.

    `early` reports came before the series was complete; one of `reports` takes the place of each.
    """

    series: Series
    originals: dict[str, Path] = field(default_factory=dict)
    derived: list[Derived] = field(default_factory=list)
    early: list[Report] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    cards: list[Derived] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        """Everything, originals first."""
        images = [derived.path for derived in (*self.derived, *self.cards)]
        return [*self.originals.values(), *images, *(report.path for report in (*self.early, *self.reports))]


class Evidence:
    """The folder of the PACS, read as it fills. `strangers` are objects that belong to nothing sent."""

    def __init__(self, folder: Path, all_series: Iterable[Series]) -> None:
        self._folder = folder
        self.arrived = {series.uid: Arrived(series) for series in all_series}
        self._series_of = {
            uid: arrived for arrived in self.arrived.values() for uid in arrived.series.sop_instance_uids
        }
        self._known: set[str] = set()
        self.strangers: list[str] = []

    def refresh(self) -> None:
        """Read the files that have come since the last time."""
        for path in sorted(self._folder.glob("*.dcm")):
            if path.name not in self._known:
                self._known.add(path.name)
                self._file(path, dcmread(path, stop_before_pixels=True))

    def _file(self, path: Path, header: Dataset) -> None:
        uid = str(header.file_meta.MediaStorageSOPInstanceUID)
        if path.stem != uid:
            self.strangers.append(f"{uid} arrived more than once")
        elif uid in self._series_of:
            self._series_of[uid].originals[uid] = path
        elif header.get("SOPClassUID") == Comprehensive3DSRStorage:
            self._file_report(path, header)
        elif "SourceImageSequence" in header:
            source = str(header.SourceImageSequence[0].ReferencedSOPInstanceUID)
            arrived = self._series_of.get(source)
            if arrived is None:
                self.strangers.append(f"{uid} names a source that was never sent")
            elif header.SOPClassUID == SecondaryCaptureImageStorage:
                arrived.cards.append(Derived(path, source))
            else:
                arrived.derived.append(Derived(path, source))
        else:
            self.strangers.append(f"{uid} was never sent and names no source")

    def _file_report(self, path: Path, header: Dataset) -> None:
        study = header.CurrentRequestedProcedureEvidenceSequence[0]
        arrived = self.arrived.get(str(study.ReferencedSeriesSequence[0].SeriesInstanceUID))
        report = read_report(path, header)
        if arrived is None or report is None:
            self.strangers.append(f"{path.stem} is a report without an outcome or about another series")
        elif str(header.SeriesDescription).endswith(" early"):
            arrived.early.append(report)
        else:
            arrived.reports.append(report)

    @property
    def originals(self) -> int:
        """Originals that have arrived."""
        return sum(len(arrived.originals) for arrived in self.arrived.values())

    @property
    def derived(self) -> int:
        """Enhanced images that have arrived."""
        return sum(len(arrived.derived) for arrived in self.arrived.values())

    @property
    def reports(self) -> int:
        """Triage reports that have arrived."""
        return sum(len(arrived.reports) for arrived in self.arrived.values())


def read_report(path: Path, header: Dataset) -> Report | None:
    """Outcome, score and threshold of a triage report (TID 1500), or None if it lacks one of them."""
    positive = score = threshold = None
    for item in _items(header):
        name = item.ConceptNameCodeSequence[0].CodeValue if "ConceptNameCodeSequence" in item else None
        if name == SUMMARY:
            code = item.ConceptCodeSequence[0].CodeValue
            positive = {WITH_FINDINGS: True, WITHOUT_FINDINGS: False}.get(code)
        elif name in CERTAINTIES:
            score = float(item.MeasuredValueSequence[0].NumericValue)
        elif name == PARAMETERS and (found := THRESHOLD.fullmatch(str(item.TextValue))):
            threshold = float(found[1])
    if positive is None or score is None or threshold is None:
        return None
    return Report(path, positive, score, threshold)


def _items(item: Dataset) -> Iterable[Dataset]:
    for child in item.get("ContentSequence") or ():
        yield child
        yield from _items(child)
