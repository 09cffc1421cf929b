"""Figures about scores of cases with and without a bleed, and how sure they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

RESAMPLES = 2000

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Scores:
    """Labels and scores, and the phantom that each belongs to."""

    bleeds: NDArray[np.bool_]
    score: Floats
    group: NDArray[np.int64]


def auc(bleeds: NDArray[np.bool_], score: Floats) -> float:
    """The area under the ROC curve, ties counted half."""
    positives = int(bleeds.sum())
    ranks = rankdata(score)
    pairs = positives * (len(bleeds) - positives)
    return float((ranks[bleeds].sum() - positives * (positives + 1) / 2) / pairs) if pairs else float("nan")


def interval(scores: Scores, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of the AUC; whole phantoms are drawn, so slices of one stay together."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(scores.group == group) for group in np.unique(scores.group)]
    values = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([members[index] for index in rng.integers(len(members), size=len(members))])
        values.append(auc(scores.bleeds[rows], scores.score[rows]))
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a share."""
    if not count:
        return float("nan"), float("nan")
    z, share = 1.96, hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def cut_at(clear: Floats, specificity: float) -> float:
    """The lowest threshold that leaves at least this share of the scores without a bleed below it."""
    ascending = np.sort(clear)
    below = int(np.ceil(specificity * len(ascending)))
    return float(np.nextafter(ascending[below - 1], np.inf))


def area_with_interval(scores: Scores) -> dict[str, Any]:
    """The AUC and its interval, for a report."""
    return {
        "n": len(scores.bleeds),
        "positive": int(scores.bleeds.sum()),
        "auc": round(auc(scores.bleeds, scores.score), 4),
        "interval": [round(value, 4) for value in interval(scores)],
    }


def share(flags: Iterable[bool]) -> dict[str, Any]:
    """How many are flagged, of how many, with the interval of the share, for a report."""
    all_flags = list(flags)
    hits, count = sum(all_flags), len(all_flags)
    return {"flagged": hits, "of": count, "interval": [round(value, 3) for value in wilson(hits, count)]}
