"""Training slices of `head-ct-triage`: one head slice in HU with its label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tools.simulate.head_anatomy import Level, begin, draw_brain, settle
from tools.simulate.head_benign import (
    draw_calcifications,
    draw_dense_tissue,
    draw_scars_and_artefacts,
    draw_skull,
)
from tools.simulate.head_haemorrhage import displace, draw_lesions, plan
from tools.simulate.head_membranes import draw_membranes
from tools.simulate.head_shapes import Array, chance


@dataclass(frozen=True)
class HeadSlice:
    """A slice before any scanner saw it: `hu` and `blood` (share of each pixel, 0..1), (GRID, GRID)."""

    hu: Array
    blood: Array
    kind: str
    level: Level


def draw_slice(rng: np.random.Generator, *, bleed: bool | None = None) -> HeadSlice:
    """Draw a head slice; half of them bleed unless `bleed` says which."""
    canvas = begin(rng)
    lesions = plan(canvas, bleed=chance(rng, 0.5) if bleed is None else bleed)
    displace(canvas, lesions)
    settle(canvas)
    draw_brain(canvas)
    draw_dense_tissue(canvas)
    draw_membranes(canvas)
    draw_lesions(canvas, lesions)
    draw_calcifications(canvas)
    draw_skull(canvas)
    draw_scars_and_artefacts(canvas)
    return HeadSlice(
        hu=canvas.hu.astype(np.float32),
        blood=(canvas.blood * canvas.inside).astype(np.float32),
        kind=lesions.kind,
        level=canvas.level,
    )
