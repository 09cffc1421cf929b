"""What `head-ct-triage` learns from: simulated slices, scanned, aligned and labelled. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from appliance.models.tasks.head_alignment import AlignedHead, align_head, to_grid
from tools.simulate.head_rendering import PIXEL_MM, render
from tools.simulate.head_shapes import Array
from tools.simulate.head_slices import draw_slice

_BONE = 0.93
"""From this share of the range of grey levels on, nobody tells blood from bone."""


@dataclass(frozen=True)
class Training:
    """What defines a training run, together with `Operating`."""

    steps: int = 1000
    batch: int = 24
    fresh_per_step: int = 8
    pool: int = 640
    slices: int = 256
    new_slice: float = 0.5
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    average: float = 0.995
    visible_pixels: int = 25
    visible_contrast: float = 0.1
    seed: int = 1


@dataclass(frozen=True)
class Operating:
    """Where the threshold lies: what this share of bleed-free simulated slices stays below."""

    slices: int = 2400
    specificity: float = 0.97


@dataclass(frozen=True)
class Sample:
    """An aligned slice, where blood can be told from bone, and how much of its label may be learned from.

    `visible` says whether the blood stands out from the brain, `certain` whether so much of it does that
    the slice as a whole must be called one with a bleed. Both hold for slices without.
    """

    head: AlignedHead
    blood: Array
    bleeds: bool
    visible: bool
    certain: bool


class Source:
    """Draws samples; each anatomy is scanned about twice, each time as if by another scanner."""

    def __init__(self, how: Training, seed: int) -> None:
        self._how = how
        self._rng = np.random.default_rng([seed, 77])
        self._slices: list[tuple[Array, Array]] = []

    def sample(self) -> Sample:
        """A fresh scan of a slice."""
        while True:
            hu, blood = render(*self._anatomy(), self._rng)
            head = align_head(hu, (PIXEL_MM, PIXEL_MM))
            if head is not None:
                return labelled(head, to_grid(blood, head), self._how)

    def state(self) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """What the next sample depends on: the slices (n, 2, GRID, GRID; HU, blood), and the generator."""
        slices = np.array(self._slices, np.float32) if self._slices else np.empty((0, 2, 1, 1), np.float32)
        return slices, dict(self._rng.bit_generator.state)

    def restore(self, slices: NDArray[np.float32], generator: dict[str, Any]) -> None:
        """Go on where the source whose `state` this was would have."""
        self._slices = [(hu, blood) for hu, blood in slices]
        self._rng.bit_generator.state = generator

    def _anatomy(self) -> tuple[Array, Array]:
        if len(self._slices) < self._how.slices:
            self._slices.append(self._draw())
            return self._slices[-1]
        index = int(self._rng.integers(len(self._slices)))
        if self._rng.random() < self._how.new_slice:
            self._slices[index] = self._draw()
        return self._slices[index]

    def _draw(self) -> tuple[Array, Array]:
        drawn = draw_slice(self._rng)
        return drawn.hu, drawn.blood


def labelled(head: AlignedHead, blood: Array, how: Training) -> Sample:
    """A bleed that nobody could see must not be taught as one, nor as its absence."""
    if blood.max() <= 0.5:
        return Sample(head, blood, bleeds=False, visible=True, certain=True)
    shown = blood * ~_skull(head) * (head.hull > 0.5)
    seen, levels = shown > 0.5, head.levels
    area, visible = int(seen.sum()), False
    if area:
        contrast = float(head.hu[seen].mean()) - levels.median
        visible = contrast / max(levels.high - levels.median, 12.0) > how.visible_contrast
    certain = visible and area >= how.visible_pixels
    return Sample(head, shown, bleeds=True, visible=visible, certain=certain)


def _skull(head: AlignedHead) -> NDArray[np.bool_]:
    """The largest shape as bright as bone: blood that a window made as bright and that touches it is lost."""
    levels = head.levels
    shapes, count = ndimage.label(head.hu > levels.low + _BONE * (levels.high - levels.low))
    if not count:
        return np.zeros(head.hu.shape, bool)
    skull: NDArray[np.bool_] = shapes == 1 + int(np.argmax(np.bincount(shapes.ravel())[1:]))
    return skull
