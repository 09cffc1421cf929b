"""What scanners, and people who export pictures, do to a head slice: all of it independent of the label."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from tools.simulate.head_anatomy import GRID
from tools.simulate.head_shapes import Array, chance, log_uniform

PIXEL_MM = 1.4
"""What a pixel of a training slice stands for: a head is then about 190 mm long."""
PICTURE_WINDOW_HU = (0.0, 80.0)
"""An 8-bit picture of unknown window is read as if it showed these HU."""


def render(hu: Array, blood: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Scan a slice: (HU, blood), both float32 (GRID, GRID), moved alike.

    Two in five come back from an 8-bit picture with a random window, so that the model also meets
    images whose HU calibration is lost.
    """
    hu, blood = _move(hu, blood, rng)
    if chance(rng, 0.5):
        hu = _put_head_holder(hu, rng)
    hu = _acquire(np.clip(hu, -200, 400), rng)
    if chance(rng, 0.4):
        return _picture(hu, rng), blood
    return (hu + np.float32(rng.normal(0, 1.5))).astype(np.float32), blood


def _move(hu: Array, blood: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    draw = rng.uniform
    turn = np.radians(rng.normal(0, 7) if chance(rng, 0.9) else draw(-35, 35))
    scale = draw(0.95, 1.2) if chance(rng, 0.7) else draw(0.75, 1.4)
    aspect, flip = draw(0.9, 1.1), rng.choice([-1, 1])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = rotation @ np.array([[aspect, 0], [draw(-0.08, 0.08), flip / aspect]]) / scale
    centre = np.full(2, (GRID - 1) / 2)
    offset = centre - matrix @ centre + rng.normal(0, 5, 2)
    moved = ndimage.affine_transform(hu, matrix, offset, order=1, mode="constant", cval=-200)
    return moved, ndimage.affine_transform(blood, matrix, offset, order=1, mode="constant")


def _put_head_holder(hu: Array, rng: np.random.Generator) -> Array:
    draw = rng.uniform
    row, column = np.ogrid[:GRID, :GRID]
    centre, height = GRID / 2 + draw(-12, 12), GRID / 2 + draw(-5, 20)
    radius, stretch, width = draw(0.5, 0.75) * GRID, draw(0.9, 1.2), draw(0.5, 1.5)
    away = np.abs(np.hypot(column - centre, (row - height) / stretch) - radius)
    arc = np.clip(width + 0.5 - away, 0, 1) * (row > height) * (hu < -30)
    held: Array = hu * (1 - arc) + draw(0, 500) * arc
    return held


def _acquire(hu: Array, rng: np.random.Generator) -> Array:
    """Blur, correlated and uneven noise, sharpening, coarse matrices."""
    draw = rng.uniform
    hu = ndimage.gaussian_filter(hu, log_uniform(rng, 0.3, 1.4))
    noise = rng.standard_normal((GRID, GRID), dtype=np.float32)
    grain = draw(0, 1.6)
    if grain > 0.3:
        noise = ndimage.gaussian_filter(noise, grain)
        noise /= noise.std()
    uneven = 1 + 0.3 * np.sin(np.linspace(0, np.pi, GRID, dtype=np.float32))[:, None] * draw(-1, 1)
    hu = hu + noise * np.float32(log_uniform(rng, 0.3, 7)) * uneven
    if chance(rng, 0.25):
        hu = hu + draw(0.3, 1.5) * (hu - ndimage.gaussian_filter(hu, draw(0.8, 2)))
    if chance(rng, 0.3):
        size = int(draw(80, 150))
        coarse = ndimage.zoom(hu, size / GRID, order=1, grid_mode=True, mode="nearest")
        hu = ndimage.zoom(coarse, GRID / size, order=1, grid_mode=True, mode="nearest")
    return hu


def _picture(hu: Array, rng: np.random.Generator) -> Array:
    """Show the slice in some window, store 8 bits, perhaps as JPEG, and read HU back by guessing."""
    draw = rng.uniform
    width = draw(60, 130) if chance(rng, 0.7) else draw(120, 230)
    level = draw(22, 48) + (width - 80) * draw(-0.05, 0.2)
    grey = np.clip((hu - (level - width / 2)) / width, 0, 1)
    if chance(rng, 0.5):
        grey = grey ** log_uniform(rng, 0.65, 1.5)
    if chance(rng, 0.35):
        grey = draw(0, 0.25) + grey * draw(0.65, 0.9)
    if chance(rng, 0.3):
        grey = grey * (1 + draw(-0.1, 0.1) * np.linspace(-1, 1, GRID, dtype=np.float32))
    stored = (np.clip(grey, 0, 1) * 255).astype(np.uint8)
    if chance(rng, 0.4):
        file = io.BytesIO()
        Image.fromarray(stored).save(file, "JPEG", quality=int(draw(15, 90)))
        stored = np.asarray(Image.open(file))
    return picture_to_hu(stored)


def picture_to_hu(stored: NDArray[np.uint8]) -> Array:
    """Approximate HU of an 8-bit picture, as if it had been shown in `PICTURE_WINDOW_HU`."""
    low, high = PICTURE_WINDOW_HU
    hu: Array = low + stored.astype(np.float32) * np.float32((high - low) / 255)
    return hu
