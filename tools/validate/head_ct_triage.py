"""Measure the committed `head-ct-triage` on the held-out phantom family and, where there are, on real images.

    python -m tools.validate.head_ct_triage [--json FILE] [--phantoms N]

Prints slice- and series-level AUC with bootstrap intervals that resample phantoms, figures at the frozen
operating point, an unlearned baseline, and the outcome on real series. Exit status 1 if the slice-level
AUC is below 0.9 or a real series that is no living head is flagged. No figure here is a clinical one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import rankdata

from appliance.dicom.outcome import Findings, NotAnalysed
from appliance.models.manifest import Manifest, TriageTask, load_manifest
from appliance.models.tasks import triage
from appliance.models.tasks.head_alignment import AlignedHead
from appliance.runtime.base import Runner
from appliance.runtime.onnx import OnnxRunner
from tools.validate.head_ct_triage_cases import (
    REAL_SERIES,
    Case,
    held_out_cases,
    labelled_pictures,
    real_volume,
)

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "engines" / "head-ct-triage"
SMALLEST_MM2 = 60.0
"""A slab with some blood, but less than this, counts in `slices_with_any_blood` only."""
GOAL = 0.9
RESAMPLES = 2000

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Model:
    """The committed package, loaded."""

    manifest: Manifest
    task: TriageTask
    runner: Runner


@dataclass(frozen=True)
class Scores:
    """Labels and scores, and the phantom that each belongs to."""

    bleeds: NDArray[np.bool_]
    score: Floats
    group: NDArray[np.int64]


def load_model() -> Model:
    """The committed package on ONNX Runtime with one thread."""
    manifest = load_manifest(PACKAGE)
    if not isinstance(manifest.task, TriageTask):
        raise TypeError(f"{PACKAGE} is not a triage model")
    return Model(manifest, manifest.task, OnnxRunner(PACKAGE / manifest.weights.file, threads=1))


def probabilities(model: Model, heads: list[AlignedHead]) -> Floats:
    """The probability of each aligned slice."""
    parts: list[Floats] = [
        model.runner.run(triage.inputs_of(heads[first : first + triage.BATCH]))["probability"][:, 0]
        for first in range(0, len(heads), triage.BATCH)
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def mirror_difference(head: AlignedHead) -> float:
    """The unlearned baseline: the 99.5th percentile of how much brighter a side is than the other."""
    levels = head.levels
    above = np.clip((head.hu - levels.median) / max(levels.high - levels.median, 12), -1, 1.1) * head.hull
    calm = ndimage.gaussian_filter(above, 2.0)
    inside = ndimage.binary_erosion(head.hull > 0.5, iterations=9)
    difference = (calm - calm[:, ::-1])[inside]
    return float(np.percentile(difference, 99.5)) if difference.size else 0.0


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


def _with_interval(scores: Scores) -> dict[str, Any]:
    return {
        "n": len(scores.bleeds),
        "positive": int(scores.bleeds.sum()),
        "auc": round(auc(scores.bleeds, scores.score), 4),
        "interval": [round(value, 4) for value in interval(scores)],
    }


def held_out(model: Model, phantoms: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Slice- and series-level figures on the held-out phantom family."""
    slabs: list[tuple[float, float, float, int]] = []
    series: list[tuple[bool, float, int]] = []
    flagged: dict[str, list[bool]] = defaultdict(list)
    skipped = 0
    for index, case in enumerate(held_out_cases(phantoms)):
        outcome = triage.run(case.volume, model.manifest, model.task, model.task.threshold, model.runner)
        kind = "none" if case.bleed is None else case.bleed.value
        if isinstance(outcome, Findings):
            series.append((case.bleed is not None, outcome.score, index))
            flagged[kind].append(outcome.positive)
        else:
            skipped += 1
        prepared = triage.prepare_aligned_head(case.volume)
        scores = probabilities(model, [slab.head for slab in prepared.slabs])
        for slab, score in zip(prepared.slabs, scores, strict=True):
            slabs.append((_blood_mm2(case, slab), float(score), mirror_difference(slab.head), index))
        if index % 10 == 9:
            say(f"{index + 1} of {phantoms} phantoms")
    area, score, mirror, group = (np.array(column) for column in zip(*slabs, strict=True))
    clear_cut = (area == 0) | (area >= SMALLEST_MM2)
    every = np.full(area.shape, True)
    truth, whole, phantom = (np.array(column) for column in zip(*series, strict=True))
    return {
        "title": "simulated, held-out phantom family",
        "phantoms": phantoms,
        "not_analysed": skipped,
        "slices": _slices(area, score, group, clear_cut),
        "slices_mirror_difference": _slices(area, mirror, group, clear_cut),
        "slices_with_any_blood": _slices(area, score, group, every),
        "series": _with_interval(Scores(truth, whole, phantom)),
        "flagged_at_threshold": {
            kind: {
                "flagged": sum(hits),
                "of": len(hits),
                "interval": [round(value, 3) for value in wilson(sum(hits), len(hits))],
            }
            for kind, hits in sorted(flagged.items())
        },
    }


def _slices(
    area: Floats, score: Floats, group: NDArray[np.int64], which: NDArray[np.bool_]
) -> dict[str, Any]:
    return _with_interval(Scores(area[which] > 0, score[which], group[which]))


def _blood_mm2(case: Case, slab: triage.Slab) -> float:
    """The area of blood in a slab; 0 only where there is none at all."""
    share = case.blood[slab.first : slab.last].mean(axis=0)
    pixel = case.volume.spacing[1] * case.volume.spacing[2]
    area = float((share > 0.5).sum() * pixel)
    return area if area or share.max() < 0.05 else 1e-3


def real_pictures(model: Model, folder: Path) -> dict[str, Any]:
    """AUC on the labelled pictures beside an unlearned feature and plain shortcuts."""
    pictures = labelled_pictures(folder)
    found = [picture for picture in pictures if picture.head is not None]
    heads = [picture.head for picture in found if picture.head is not None]
    bleeds = np.array([picture.bleeds for picture in found])
    every = np.arange(len(found))
    columns = {
        "model": probabilities(model, heads),
        "mirror_difference": np.array([mirror_difference(head) for head in heads]),
        "shortcut_image_width": np.array([float(picture.width) for picture in found]),
        "shortcut_mean_grey": np.array([picture.mean_grey for picture in found]),
    }
    return {
        "title": f"real, n={len(pictures)}: development pictures, not an evaluation",
        "without_skull": len(pictures) - len(found),
        **{name: _with_interval(Scores(bleeds, score, every)) for name, score in columns.items()},
    }


def real_series(model: Model, data: Path) -> dict[str, Any]:
    """What the model says about real series none of which is a living head."""
    answers: dict[str, Any] = {"title": "real series that are no living head"}
    for name, what in REAL_SERIES.items():
        if not (data / name).exists():
            continue
        volume = real_volume(data / name)
        outcome = triage.run(volume, model.manifest, model.task, model.task.threshold, model.runner)
        if isinstance(outcome, Findings):
            answers[name] = {"what": what, "flagged": outcome.positive, "score": round(outcome.score, 4)}
        elif isinstance(outcome, NotAnalysed):
            answers[name] = {"what": what, "flagged": False, "not_analysed": outcome.detail}
    return answers


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--phantoms", type=int, default=60)
    arguments = parser.parse_args()
    model = load_model()
    data = Path(os.environ.get("APPLIANCE_TEST_DATA") or ROOT.parent / "shared" / "data")
    report: dict[str, Any] = {"model": f"{model.manifest.id} {model.manifest.version}"}
    report["held_out"] = held_out(model, arguments.phantoms, _say)
    if (data / "labelled" / "head-ct").exists():
        report["real_pictures"] = real_pictures(model, data / "labelled" / "head-ct")
    report["real_series"] = real_series(model, data)
    text = json.dumps(report, indent=2)
    sys.stdout.write(text + "\n")
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    flagged = [
        name for name, answer in report["real_series"].items() if name != "title" and answer["flagged"]
    ]
    return 0 if report["held_out"]["slices"]["auc"] >= GOAL and not flagged else 1


if __name__ == "__main__":
    sys.exit(main())
