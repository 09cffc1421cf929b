"""Measure the committed `head-ct-triage` on the held-out phantom family and, where there are, on real images.

    python -m tools.validate.head_ct_triage [--json FILE] [--report DIR] [--phantoms N] [--each N]

Prints slice- and series-level AUC with bootstrap intervals that resample phantoms, figures at the frozen
operating point, sensitivity for each kind of bleed, an unlearned baseline, and the outcome on real series.
`--report` keeps pictures of the failures. Exit status 1 if the slice-level AUC is below 0.9 or a real
series that is no living head is flagged. No figure here is a clinical one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from appliance.dicom.outcome import Findings, NotAnalysed
from appliance.models.manifest import Manifest, TriageTask, load_manifest
from appliance.models.tasks import triage
from appliance.models.tasks.head_alignment import AlignedHead
from appliance.runtime.base import Runner
from appliance.runtime.onnx import OnnxRunner
from tools.simulate.head_series import simulate_series
from tools.validate.head_ct_triage_cases import (
    FIRST_SEED,
    REAL_SERIES,
    Case,
    cases_of_kinds,
    held_out_cases,
    labelled_pictures,
    real_volume,
    volume_of,
)
from tools.validate.head_ct_triage_failures import Gallery
from tools.validate.head_ct_triage_figures import Floats, Scores, area_with_interval, cut_at, share

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "engines" / "head-ct-triage"
SMALLEST_MM2 = 60.0
"""A slab with some blood, but less than this, counts in `slices_with_any_blood` only."""
GOAL = 0.9
SPECIFICITY = 0.95
CLEAR = "none"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Model:
    """The committed package, loaded."""

    manifest: Manifest
    task: TriageTask
    runner: Runner


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


@dataclass(frozen=True)
class Looked:
    """What the model says about one simulated series, and about each of its slabs.

    `kind` is "none" without a bleed; `score` and `flagged` are None where the series was not analysed.
    """

    kind: str
    score: float | None
    flagged: bool | None
    blood_mm2: tuple[float, ...]
    probability: tuple[float, ...]
    mirror: tuple[float, ...]

    @property
    def bleeds(self) -> bool:
        return self.kind != CLEAR


def look(model: Model, cases: Iterable[Case], say: Say, gallery: Gallery | None) -> list[Looked]:
    """Run the model on simulated series; failures go into the gallery, where there is one."""
    looked = []
    for case in cases:
        outcome = triage.run(case.volume, model.manifest, model.task, model.task.threshold, model.runner)
        found = outcome if isinstance(outcome, Findings) else None
        if gallery is not None and found is not None:
            gallery.add_case(case, found)
        prepared = triage.prepare_aligned_head(case.volume)
        heads = [slab.head for slab in prepared.slabs]
        looked.append(
            Looked(
                kind=CLEAR if case.bleed is None else case.bleed.value,
                score=None if found is None else found.score,
                flagged=None if found is None else found.positive,
                blood_mm2=tuple(_blood_mm2(case, slab) for slab in prepared.slabs),
                probability=tuple(float(value) for value in probabilities(model, heads)),
                mirror=tuple(mirror_difference(head) for head in heads),
            )
        )
        if len(looked) % 10 == 0:
            say(f"{len(looked)} phantoms")
    return looked


def held_out(looked: list[Looked]) -> dict[str, Any]:
    """Slice- and series-level figures on the held-out phantom family, bleeds as they are drawn."""
    slabs = [
        (*row, index)
        for index, series in enumerate(looked)
        for row in zip(series.blood_mm2, series.probability, series.mirror, strict=True)
    ]
    area, score, mirror, group = (np.array(column) for column in zip(*slabs, strict=True))
    clear_cut = (area == 0) | (area >= SMALLEST_MM2)
    every = np.full(area.shape, True)
    return {
        "title": "simulated, held-out phantom family",
        "phantoms": len(looked),
        "not_analysed": sum(series.score is None for series in looked),
        "slices": _slices(area, score, group, clear_cut),
        "slices_mirror_difference": _slices(area, mirror, group, clear_cut),
        "slices_with_any_blood": _slices(area, score, group, every),
        "series": _series(looked),
        "flagged_at_threshold": _flagged(looked),
    }


def by_kind(looked: list[Looked]) -> dict[str, Any]:
    """Sensitivity for each kind of bleed, at the frozen threshold and at that of 95 % specificity.

    The latter is what the clear heads among `looked` allow, so it is known only as well as they are many.
    """
    clear = np.array([series.score for series in looked if not series.bleeds and series.score is not None])
    cut = cut_at(clear, SPECIFICITY)
    scores: dict[str, list[float]] = defaultdict(list)
    for series in looked:
        if series.score is not None:
            scores[series.kind].append(series.score)
    return {
        "title": "simulated, held-out phantom family, kind by kind",
        "not_analysed": sum(series.score is None for series in looked),
        "series": _series(looked),
        "threshold_at_95_percent_specificity": round(cut, 4),
        "flagged_at_95_percent_specificity": {
            kind: share(score >= cut for score in values) for kind, values in sorted(scores.items())
        },
        "flagged_at_threshold": _flagged(looked),
    }


def _series(looked: list[Looked]) -> dict[str, Any]:
    rows = [(series.bleeds, series.score) for series in looked if series.score is not None]
    bleeds, score = (np.array(column) for column in zip(*rows, strict=True))
    return area_with_interval(Scores(bleeds, score, np.arange(len(rows))))


def _flagged(looked: list[Looked]) -> dict[str, Any]:
    flags: dict[str, list[bool]] = defaultdict(list)
    for series in looked:
        if series.flagged is not None:
            flags[series.kind].append(series.flagged)
    return {kind: share(values) for kind, values in sorted(flags.items())}


def _slices(
    area: Floats, score: Floats, group: NDArray[np.int64], which: NDArray[np.bool_]
) -> dict[str, Any]:
    return area_with_interval(Scores(area[which] > 0, score[which], group[which]))


def _blood_mm2(case: Case, slab: triage.Slab) -> float:
    """The area of blood in a slab; 0 only where there is none at all."""
    part = case.blood[slab.first : slab.last].mean(axis=0)
    pixel = case.volume.spacing[1] * case.volume.spacing[2]
    area = float((part > 0.5).sum() * pixel)
    return area if area or part.max() < 0.05 else 1e-3


def real_pictures(model: Model, folder: Path, gallery: Gallery | None) -> dict[str, Any]:
    """AUC on the labelled pictures beside an unlearned feature and plain shortcuts."""
    pictures = labelled_pictures(folder)
    found = [(picture, picture.head) for picture in pictures if picture.head is not None]
    heads = [head for _, head in found]
    bleeds = np.array([picture.bleeds for picture, _ in found])
    every = np.arange(len(found))
    score = probabilities(model, heads)
    positive = score >= model.task.threshold
    if gallery is not None:
        for (picture, head), value, flag in zip(found, score, positive, strict=True):
            heat = model.runner.run(triage.inputs_of([head]))["heat"][0, 0]
            gallery.add_picture(picture, head, heat, float(value), positive=bool(flag))
    columns = {
        "model": score,
        "mirror_difference": np.array([mirror_difference(head) for head in heads]),
        "shortcut_image_width": np.array([float(picture.width) for picture, _ in found]),
        "shortcut_mean_grey": np.array([picture.mean_grey for picture, _ in found]),
    }
    return {
        "title": f"real, n={len(pictures)}: development pictures, not an evaluation",
        "without_skull": len(pictures) - len(found),
        "flagged_at_threshold": {
            "hemorrhage": share(bool(flag) for flag in positive[bleeds]),
            "normal": share(bool(flag) for flag in positive[~bleeds]),
        },
        **{name: area_with_interval(Scores(bleeds, values, every)) for name, values in columns.items()},
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


def latency(model: Model, size: int = 512, slices: int = 8) -> dict[str, Any]:
    """Milliseconds for a slice of a series of `size` x `size` pixels, preparation included, one thread."""
    series = simulate_series(seed=FIRST_SEED, bleed=True, slices=slices, size=size, slice_mm=5.0)
    volume = volume_of(series)
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        triage.run(volume, model.manifest, model.task, model.task.threshold, model.runner)
        times.append(1000 * (time.perf_counter() - begun) / slices)
    return {
        "title": f"milliseconds for a slice of {size} x {size} pixels, one thread",
        "median": round(float(np.median(times)), 1),
        "worst": round(max(times), 1),
    }


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def report_on(model: Model, phantoms: int, each: int, gallery: Gallery | None) -> dict[str, Any]:
    """Everything that is measured."""
    data = Path(os.environ.get("APPLIANCE_TEST_DATA") or ROOT.parent / "shared" / "data")
    report: dict[str, Any] = {
        "model": model.manifest.id,
        "version": model.manifest.version,
        "sha256": model.manifest.weights.sha256,
        "threshold": model.task.threshold,
        "held_out": held_out(look(model, held_out_cases(phantoms), _say, gallery)),
        "kinds": by_kind(look(model, cases_of_kinds(each), _say, gallery)),
    }
    if (data / "labelled" / "head-ct").exists():
        report["real_pictures"] = real_pictures(model, data / "labelled" / "head-ct", gallery)
    report["real_series"] = real_series(model, data)
    report["latency"] = latency(model)
    return report


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--phantoms", type=int, default=60)
    parser.add_argument("--each", type=int, default=20, help="phantoms of each kind of bleed")
    parser.add_argument("--report", type=Path, help="folder for pictures of the failures")
    arguments = parser.parse_args()
    gallery = None
    if arguments.report:
        arguments.report.mkdir(parents=True, exist_ok=True)
        gallery = Gallery(arguments.report)
    report = report_on(load_model(), arguments.phantoms, arguments.each, gallery)
    if gallery is not None:
        gallery.close()
    text = json.dumps(report, indent=2)
    sys.stdout.write(text + "\n")
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    answers = (answer for name, answer in report["real_series"].items() if name != "title")
    flagged = any(answer["flagged"] for answer in answers)
    return 0 if report["held_out"]["slices"]["auc"] >= GOAL and not flagged else 1


if __name__ == "__main__":
    sys.exit(main())
