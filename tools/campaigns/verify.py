"""What must hold of a series once everything about it has come to its end, crash or not."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage

from tools.campaigns.journal_view import Decided, JournalView, Made
from tools.campaigns.pacs import Arrived, Pacs
from tools.campaigns.raw_sender import data_set_bytes
from tools.campaigns.scanner import Series

ENHANCED = "enhanced"
"""Kind of the objects of which there is one for each image; of every other kind, one for each series."""


@dataclass(frozen=True)
class Reference:
    """What an undisturbed run made of a template.

    `pixels`: SHA-256 of each derived image's PixelData by Instance Number; `kinds`: how many objects
    of each kind; `outcomes`: what each model answered.
    """

    pixels: Mapping[int, str]
    kinds: Mapping[str, int]
    outcomes: Mapping[str, str]


def reference(journal: JournalView, pacs: Pacs, series: Series) -> Reference:
    """Take what has arrived for `series` as what other copies of its template must give."""
    made = journal.made(series)
    arrived = pacs.arrived(series.study_instance_uid)
    derived = [arrived[uid][0].dataset for uid, one in made.items() if one.kind == ENHANCED]
    return Reference(
        {int(image.InstanceNumber): _pixels(image) for image in derived},
        Counter(one.kind for one in made.values()),
        {one.model: str(one.outcome) for one in journal.decisions(series)},
    )


def problems(
    journal: JournalView, pacs: Pacs, series: Series, acknowledged: Iterable[str], expected: Reference
) -> list[str]:
    """Everything that is lost, changed, twice or unfinished, in words; empty if all is well."""
    arrived = pacs.arrived(series.study_instance_uid)
    made = journal.made(series)
    revision = journal.revision(series)
    return [
        *_originals(arrived, series, acknowledged),
        *_strangers(arrived, series, made),
        *_results(arrived, made),
        *_derived(arrived, series, made, expected, revision),
        *_once_per_series(made, expected, revision),
        *_decisions(journal.decisions(series), expected, revision),
        *([f"{count} deliveries rejected"] if (count := journal.rejected(series)) else []),
    ]


def _originals(
    arrived: Mapping[str, list[Arrived]], series: Series, acknowledged: Iterable[str]
) -> Iterable[str]:
    for uid in acknowledged:
        if uid not in arrived:
            yield "LOST: an acknowledged image is not at the PACS"
        elif any(data_set_bytes(copy.path) != data_set_bytes(series.images[uid]) for copy in arrived[uid]):
            yield "CHANGED: an image arrived with other bytes"


def _strangers(
    arrived: Mapping[str, list[Arrived]], series: Series, made: Mapping[str, Made]
) -> Iterable[str]:
    strangers = set(arrived) - set(series.images) - set(made)
    if strangers:
        yield f"TWICE: {len(strangers)} objects at the PACS under UIDs that the journal does not know"


def _results(arrived: Mapping[str, list[Arrived]], made: Mapping[str, Made]) -> Iterable[str]:
    for uid, one in made.items():
        if uid not in arrived:
            yield f"LOST: a result ({one.kind}) is not at the PACS"
        elif any(data_set_bytes(copy.path) != data_set_bytes(one.path) for copy in arrived[uid]):
            yield f"CHANGED: a result ({one.kind}) arrived with other bytes than were journaled"


def _derived(
    arrived: Mapping[str, list[Arrived]],
    series: Series,
    made: Mapping[str, Made],
    expected: Reference,
    revision: int,
) -> Iterable[str]:
    """Judged by what is at the PACS alone: every CT image that is no original."""
    images = [
        copies[0].dataset
        for uid, copies in arrived.items()
        if uid not in series.images and copies[0].dataset.SOPClassUID == CTImageStorage
    ]
    sources = Counter(
        str(item.ReferencedSOPInstanceUID) for image in images for item in image.SourceImageSequence
    )
    if set(sources) != set(series.images):
        yield f"INCOMPLETE: {len(sources)} of {len(series.images)} images have a derived image"
    if any(count > 1 for count in sources.values()):
        yield "TWICE: one image has two derived images"
    if len({image.SeriesInstanceUID for image in images}) > 1:
        yield "TWICE: the derived images are in more than one series"
    # A series that was taken as complete while half of it had arrived has images with other neighbours.
    if revision == 1 and {int(image.InstanceNumber): _pixels(image) for image in images} != expected.pixels:
        yield "CHANGED: the pixels of derived images differ from those of an undisturbed run"


def _once_per_series(made: Mapping[str, Made], expected: Reference, revision: int) -> Iterable[str]:
    """One object of each other kind for each revision; `_results` has shown that they are at the PACS.

    A report may have come early as well, before the series was complete.
    """
    others = [one for one in made.values() if one.kind != ENHANCED]
    early = [one for one in others if _is_early(one)]
    counts = Counter((one.kind, one.revision) for one in others if one not in early)
    if len({one.revision for one in early}) < len(early):
        yield "TWICE: two early reports about one revision of the series"
    if any(count > 1 for count in counts.values()):
        yield "TWICE: two reports about one revision of the series"
    for kind in expected.kinds:
        if kind != ENHANCED and not counts[kind, revision]:
            yield f"INCOMPLETE: no {kind} about the whole series"


def _is_early(one: Made) -> bool:
    header = dcmread(one.path, stop_before_pixels=True, specific_tags=["SeriesDescription"])
    return str(header.get("SeriesDescription")).endswith(" early")


def _decisions(decisions: list[Decided], expected: Reference, revision: int) -> Iterable[str]:
    last = {one.model: str(one.outcome) for one in decisions if one.revision == revision}
    if last != expected.outcomes:
        yield f"CHANGED: the models answered {last}, undisturbed {dict(expected.outcomes)}"


def _pixels(image: Dataset) -> str:
    return hashlib.sha256(image.PixelData).hexdigest()
