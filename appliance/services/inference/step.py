"""What one step of a job found, on its way from the models to the journal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pydicom import Dataset

from appliance.dicom.outcome import Enhanced, Findings, NotAnalysed, Outcome
from appliance.domain.types import EarlyFlag
from appliance.results import Produced
from appliance.results.notification import Notification

UNTIL_COMPLETE = 2**31
"""More images than any series has: the next step waits for the whole series."""


@dataclass(frozen=True)
class Step:
    """The result objects that a step makes, and what messages about them need.

    `outcome` is a word of the `jobs.outcome` column, None while the job goes on: then it rests until there
    are `images_due` images, if the series still arrives. `sources` are the headers of the images looked at;
    `kinds` are the kinds of results that the pipeline makes of such an outcome. `images`, `pipeline_digest`
    and `flag` are those of `journal.jobs.Yield`.
    """

    outcome: str | None
    reason: str | None = None
    detail: str | None = None
    images_due: int = 0
    sources: Sequence[Dataset] = ()
    produced: Iterable[Produced] = ()
    told: Notification | None = None
    kinds: frozenset[str] = frozenset()
    images: Mapping[int, str | None] = field(default_factory=dict)
    pipeline_digest: str = ""
    flag: EarlyFlag | None = None


def ended(outcome: NotAnalysed) -> Step:
    """The end of a job without an answer of which nobody is told in DICOM."""
    return Step(word(outcome), outcome.reason, outcome.detail)


def resting(images_due: int) -> Step:
    """Nothing to be done before there are so many images."""
    return Step(None, images_due=images_due)


def word(outcome: Outcome) -> str:
    """The word of the `jobs.outcome` column."""
    match outcome:
        case Enhanced():
            return "enhanced"
        case Findings(positive=positive):
            return "positive" if positive else "negative"
        case NotAnalysed():
            return "not_analysed"
