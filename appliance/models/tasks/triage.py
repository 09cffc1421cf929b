"""Triage: does the series show the finding, where, and how sure is the model?

A preparation turns the volume into slabs that the graph can score, and drops what it should not score.
A finding needs two neighbouring slabs that agree, so that one bad slice flags nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.dicom.outcome import Code, Findings, NotAnalysed
from appliance.dicom.volume import Volume
from appliance.models.manifest import CodeEntry, Manifest, TriageTask
from appliance.models.tasks.head_alignment import AlignedHead, align_head, to_source
from appliance.runtime.answers import CheckedRunner, WrongAnswer
from appliance.runtime.base import Runner, Shape, Tensors

OUT_OF_DISTRIBUTION = "out_of_distribution"
SLAB_MM = 5.0
"""Thinner slices are averaged to slabs of about this thickness: less noise, and what training saw."""
FEWEST_SLABS = 3
SHORTEST_MM = 20.0
"""A series that shows less of the head than this is not analysed."""
BATCH = 8

_Array = NDArray[np.float32]


@dataclass(frozen=True)
class Slab:
    """Neighbouring slices [first, last) of the volume, averaged and ready for the graph."""

    first: int
    last: int
    head: AlignedHead


@dataclass(frozen=True)
class Prepared:
    """The slabs to score, ascending, out of `total`; `objections` counts the reasons for the others."""

    slabs: tuple[Slab, ...]
    total: int
    objections: dict[str, int]


def prepare_aligned_head(volume: Volume) -> Prepared:
    """Slabs of brain, each aligned to the midline of its skull."""
    spacing, row_mm, column_mm = volume.spacing
    together = max(1, round(SLAB_MM / spacing))
    slabs: list[Slab] = []
    objections: dict[str, int] = {}
    starts = range(0, len(volume.voxels), together)
    for first in starts:
        last = min(first + together, len(volume.voxels))
        voxels = volume.voxels[first:last]
        if volume.padding is not None:
            voxels = np.where(volume.padding[first:last], np.float32(-1000), voxels)
        head = align_head(voxels.mean(axis=0), (row_mm, column_mm))
        objection = "no skull" if head is None else head.objection
        if head is not None and objection is None:
            slabs.append(Slab(first, last, head))
        elif objection is not None:
            objections[objection] = objections.get(objection, 0) + 1
    return Prepared(tuple(slabs), len(starts), objections)


PREPARATIONS: dict[str, Callable[[Volume], Prepared]] = {"aligned-head": prepare_aligned_head}
"""What a model package may name as its `preparation`."""


def inputs_of(heads: list[AlignedHead]) -> dict[str, _Array]:
    """The tensors of the graph: `hu` and `hull` (b, 1, h, w) and `levels` (b, 4) in HU."""
    levels = [(head.levels.low, head.levels.high, head.levels.median, head.levels.spread) for head in heads]
    return {
        "hu": np.stack([head.hu for head in heads])[:, None].astype(np.float32),
        "hull": np.stack([head.hull for head in heads])[:, None].astype(np.float32),
        "levels": np.array(levels, np.float32),
    }


def run(
    volume: Volume,
    manifest: Manifest,
    task: TriageTask,
    threshold: float,
    runner: Runner,
    progress: Callable[[], None] | None = None,
) -> Findings | NotAnalysed:
    """Look for the finding of `task` in `volume`; positive where the score reaches `threshold`.

    `progress`, where given, is called after each batch. The graph takes what `inputs_of` makes and
    returns `probability` (b, 1), `heat` (b, 1, h, w) and `distance` (b, 1) from the training data.

    Returns `Findings`, or `NotAnalysed` where too little of the series looks like what the model knows, or
    its answer is none.

    Raises:
        TryAgain, GiveUp: as the runner does.
    """
    if not np.isfinite(volume.voxels).all():
        return NotAnalysed(OUT_OF_DISTRIBUTION, "some voxels are not finite numbers")
    prepared = PREPARATIONS[task.preparation](volume)
    if too_little(prepared.slabs, volume):
        reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(prepared.objections.items()))
        return NotAnalysed(
            OUT_OF_DISTRIBUTION,
            f"only {len(prepared.slabs)} of {prepared.total} slabs show a brain in its skull ({reasons})",
        )
    try:
        slabs, probability, heat = _score(prepared, task, CheckedRunner(runner, output_shapes), progress)
    except WrongAnswer as error:
        return NotAnalysed(error.reason, str(error))
    if too_little(slabs, volume):
        return NotAnalysed(
            OUT_OF_DISTRIBUTION,
            f"only {len(slabs)} of {len(prepared.slabs)} slabs of brain resemble the training data",
        )
    score, key = pair_score(slabs, probability)
    return Findings(
        positive=score >= threshold,
        score=score,
        threshold=threshold,
        calibrated=task.calibrated,
        finding=_code(task.finding),
        site=_code(task.site),
        urgency=_code(task.urgency),
        key_slice=(slabs[key].first + slabs[key].last - 1) // 2,
        heat=_heat_on_source(slabs, heat, volume),
    )


def output_shapes(inputs: Tensors) -> dict[str, Shape]:
    """What the graph has to return for these inputs."""
    heat = inputs["hu"].shape
    return {"probability": (heat[0], 1), "heat": heat, "distance": (heat[0], 1)}


def too_little(slabs: tuple[Slab, ...], volume: Volume) -> bool:
    """Whether the slabs are too few, or too near each other, for an answer."""
    extent = sum(slab.last - slab.first for slab in slabs) * volume.spacing[0]
    return len(slabs) < FEWEST_SLABS or extent < SHORTEST_MM


def pair_score(slabs: tuple[Slab, ...], probability: _Array) -> tuple[float, int]:
    """The score of a series, and the index of the slab that shows it best.

    The score is the largest probability that two neighbouring slabs both reach. It does not grow with
    the number of slabs that show the finding.
    """
    best, key = 0.0, int(np.argmax(probability))
    for index in range(len(slabs) - 1):
        if slabs[index].last != slabs[index + 1].first:
            continue
        both = float(min(probability[index], probability[index + 1]))
        if both > best:
            best, key = both, index + int(probability[index + 1] > probability[index])
    return best, key


def _score(
    prepared: Prepared, task: TriageTask, runner: Runner, progress: Callable[[], None] | None
) -> tuple[tuple[Slab, ...], _Array, _Array]:
    """The slabs within the model's distribution, with probability (slabs,) and heat (slabs, h, w)."""
    probability, heat, distance = [], [], []
    for first in range(0, len(prepared.slabs), BATCH):
        outputs = runner.run(inputs_of([slab.head for slab in prepared.slabs[first : first + BATCH]]))
        probability.append(outputs["probability"][:, 0])
        heat.append(outputs["heat"][:, 0])
        distance.append(outputs["distance"][:, 0])
        if progress is not None:
            progress()
    known = np.concatenate(distance) <= task.out_of_distribution
    kept = tuple(slab for slab, keep in zip(prepared.slabs, known, strict=True) if keep)
    return kept, np.concatenate(probability)[known], np.concatenate(heat)[known]


def _heat_on_source(slabs: tuple[Slab, ...], heat: _Array, volume: Volume) -> _Array:
    """Warp the heat of each slab back onto the slices that it came from; 0 elsewhere."""
    whole = np.zeros(volume.voxels.shape, np.float32)
    rows, columns = volume.voxels.shape[1:]
    for slab, image in zip(slabs, heat, strict=True):
        whole[slab.first : slab.last] = to_source(image, slab.head, (rows, columns))
    return whole


def _code(entry: CodeEntry) -> Code:
    return Code(entry.value, entry.scheme, entry.meaning)
