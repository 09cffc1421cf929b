"""Enhancement: slices in HU go through the graph, which bounds its own change; the grid stays.

Nothing is changed that is not tissue or air of the patient: padding comes back exactly as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from appliance.dicom.outcome import Code, Enhanced, NotAnalysed, PrivateElement
from appliance.dicom.volume import Volume
from appliance.models.manifest import EnhanceTask, Manifest
from appliance.runtime.answers import CheckedRunner, WrongAnswer
from appliance.runtime.base import Runner, Shape, Tensors, run_each

OUT_OF_DISTRIBUTION = "out_of_distribution"
BATCH = 4
"""Slices per call of the graph: enough to keep it busy, few enough to keep the memory low."""
GRID = 4
"""The graph halves its grid twice."""
AIR_HU = -1000.0
LOWEST_HU = -1500.0
"""No matter has less than -1024 HU; scanners mark what lies outside their circle with far lower values."""

OUTSIDE_CIRCLE = 0.4
"""The corners outside the circle are 21 % of a square image; more than this below LOWEST_HU is no CT."""

_Voxels = NDArray[np.float32]
_Mask = NDArray[np.bool_]


def run(
    volume: Volume,
    manifest: Manifest,
    task: EnhanceTask,
    strength: float,
    runner: Runner,
    progress: Callable[[], None] | None = None,
    *,
    judged: bool = False,
) -> Enhanced | NotAnalysed:
    """Enhance every slice of `volume` at `strength` (0..1).

    `volume` may be a part of a series. Once one part was found to be what the model was trained on, the
    others are `judged`: a few slices alone may hold nothing but air.

    `progress`, where given, is called after each batch. The graph takes `x` (b, 1, h, w) and
    `strength` (b, 1) and returns `y` and `sigma_map`, both (b, 1, h, w).

    Returns `Enhanced`, or `NotAnalysed` where the voxels are not what the model was trained on, or its answer
    is none.

    Raises:
        TryAgain, GiveUp: as the runner does.
    """
    if not np.isfinite(volume.voxels).all():
        return NotAnalysed(OUT_OF_DISTRIBUTION, "some voxels are not finite numbers")
    padding = np.zeros(volume.voxels.shape, np.bool_) if volume.padding is None else volume.padding
    untouched = padding | (volume.voxels < LOWEST_HU)
    problem = None if judged else hounsfield_problem(volume.voxels, padding)
    if problem is not None:
        return NotAnalysed(OUT_OF_DISTRIBUTION, problem)

    checked = CheckedRunner(runner, output_shapes)
    try:
        enhanced, noise = _through_graph(volume.voxels, untouched, strength, checked, progress)
    except WrongAnswer as error:
        return NotAnalysed(error.reason, str(error))
    lowest, highest = task.trained_noise
    if not judged and not lowest <= noise <= highest:
        return NotAnalysed(
            OUT_OF_DISTRIBUTION,
            f"the noise of about {noise:.1f} lies outside the trained range of {lowest:g} to {highest:g}",
        )
    return Enhanced(
        voxels=enhanced,
        description=(
            f"AI noise reduction, strength {strength:g}, by {manifest.id} {manifest.version} "
            f"(sha256:{manifest.weights.sha256[:12]})"
        ),
        prefix=task.prefix,
        codes=tuple(Code(code.value, code.scheme, code.meaning) for code in task.codes),
        private=tuple(
            PrivateElement(entry.creator, entry.group, entry.element) for entry in task.private_elements
        ),
    )


def output_shapes(inputs: Tensors) -> dict[str, Shape]:
    """What the graph has to return for these inputs."""
    shape = inputs["x"].shape
    return {"y": shape, "sigma_map": shape}


def hounsfield_problem(voxels: _Voxels, padding: _Mask) -> str | None:
    """Why `voxels` cannot be Hounsfield units, or None if they can.

    In HU, air lies near -1000 and soft tissue within 200 of 0 (PS3.3 C.11.1.1.2). A series with the
    wrong rescale slope or intercept moves both. A field of view inside the body has no air: there,
    nearly everything must be soft tissue.
    """
    declared = voxels[~padding]
    seen = declared[declared >= LOWEST_HU]
    if seen.size == 0:
        return "all voxels are padding"
    if 1.0 - seen.size / declared.size > OUTSIDE_CIRCLE:
        return f"too many voxels lie below {LOWEST_HU:.0f}, but air has -1000 HU: the rescale may be wrong"
    tissue = float(np.mean(np.abs(seen) <= 200.0))
    dense = float(np.mean(seen > 500.0))
    lowest = float(np.percentile(seen, 0.1))
    has_air = lowest <= AIR_HU + 150.0
    if lowest < AIR_HU - 250.0 or (not has_air and (tissue < 0.7 or dense > 0.15)):
        return f"the lowest values lie near {lowest:.0f}, but air has -1000 HU: the rescale may be wrong"
    if has_air and tissue < 0.02:
        return "hardly any voxel lies within 200 HU of water: the rescale may be wrong"
    return None


def _through_graph(
    voxels: _Voxels, untouched: _Mask, strength: float, runner: Runner, progress: Callable[[], None] | None
) -> tuple[_Voxels, float]:
    """The enhanced voxels, and the noise: the median over slices of the mean estimate in tissue."""
    slices, rows, columns = voxels.shape
    margin = ((0, 0), (0, -rows % GRID), (0, -columns % GRID))
    enhanced = np.empty_like(voxels)
    levels: list[float] = []
    parts = [slice(first, min(first + BATCH, slices)) for first in range(0, slices, BATCH)]

    def batches() -> Iterator[Tensors]:
        for part in parts:
            neutral = np.where(untouched[part], np.float32(AIR_HU), voxels[part])
            padded = np.pad(neutral, margin, mode="reflect")[:, None].astype(np.float32)
            yield {"x": padded, "strength": np.full((len(padded), 1), strength, np.float32)}

    for part, outputs in zip(parts, run_each(runner, batches()), strict=True):
        kept = untouched[part]
        answer = outputs["y"][:, 0, :rows, :columns]
        enhanced[part] = np.where(kept, voxels[part], answer)
        sigma = outputs["sigma_map"][:, 0, :rows, :columns]
        for index, tissue in enumerate(~kept & (voxels[part] > -900.0)):
            if tissue.any():
                levels.append(float(sigma[index][tissue].mean()))
        if progress is not None:
            progress()
    return enhanced, float(np.median(levels)) if levels else 0.0
