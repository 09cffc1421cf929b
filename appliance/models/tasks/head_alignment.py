"""Find the head in a CT slice and lay it upright on a small grid.

The steps are those that did most of the work before any learning: hull of the skull, midline, scale,
robust levels. They use nothing but the slice itself, so training and the appliance share them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

Image = NDArray[np.float32]
_Array = NDArray[np.floating[Any]]

GRID = 128
WINDOW_HU = (0.0, 100.0)
_FILL = 0.96
_MARGIN = 6.5
"""How far inside the hull, in grid pixels, the levels are measured: clear of the skull."""
_RIM = 10
_SECTORS = 36


@dataclass(frozen=True)
class Levels:
    """Grey levels of a slice, in clipped HU: range, and centre and spread of the tissue in the skull."""

    low: float
    high: float
    median: float
    spread: float


@dataclass(frozen=True)
class AlignedHead:
    """A head on the grid of (GRID, GRID) pixels, nose up, its midline on the middle columns.

    `hu` is clipped to `WINDOW_HU`, `hull` is 1 in the convex hull of the skull. A grid position g (row,
    column) lies at `matrix @ g + offset` in the source image. `objection` says why the slice should not
    be scored, and is None for a slice through brain.
    """

    hu: Image
    hull: Image
    levels: Levels
    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]
    objection: str | None


@dataclass(frozen=True)
class _Hull:
    """A convex polygon: `equations` rows (n_row, n_column, b) with n.p + b <= 0 inside; pixel units."""

    vertices: NDArray[np.float64]
    equations: NDArray[np.float64]
    area: float
    filled: float


@dataclass(frozen=True)
class _Seen:
    """What tells a slice through the brain from others.

    Length and width of the hull in mm, its asymmetry, the share of its inside that is neither air nor
    bone, the share of directions in which bone rims it, and the median and the noise in HU inside.
    """

    sizes_mm: tuple[float, ...]
    asymmetry: float
    tissue: float
    ring: float
    median: float
    noise: float


def align_head(hu: Image, pixel_mm: tuple[float, float]) -> AlignedHead | None:
    """Align one slice.

    `hu` has shape (rows, columns); `pixel_mm` is the distance of rows and of columns. None means that
    there is nothing like a skull in the slice. Never raises for finite input.
    """
    step = max(1, round(0.9 / min(pixel_mm)))
    clipped = np.clip(hu, *WINDOW_HU).astype(np.float32)
    image = _shrink(clipped, step)
    spacing = (pixel_mm[0] * step, pixel_mm[1] * step)
    if min(image.shape) < 32:
        return None
    low, high = (float(value) for value in np.percentile(image, (1, 99)))
    coarse = max(1, round(1.8 / min(spacing)))
    hull = _find_skull(_shrink(image, coarse), low, high)
    if hull is None:
        return None
    points = (hull.vertices + 0.5) * coarse - 0.5
    outline = ConvexHull(points * spacing)  # from here on in millimetres, so that pixels need not be square
    turn, asymmetry = _midline(outline)
    along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    lengths = outline.points @ along, outline.points @ across
    sizes = tuple(float(np.ptp(length)) for length in lengths)
    grid_mm = max(sizes) / (_FILL * GRID)
    centre = along * _middle(lengths[0]) + across * _middle(lengths[1])
    matrix_mm = np.stack([along, across], axis=1) * grid_mm
    offset_mm = centre - matrix_mm @ np.full(2, (GRID - 1) / 2)
    scale = np.array(spacing)
    matrix, offset = matrix_mm / scale[:, None], offset_mm / scale
    smooth = ndimage.gaussian_filter(image, 0.4 * max(grid_mm / min(spacing) - 0.5, 0.01))
    aligned = ndimage.affine_transform(
        smooth, matrix, offset, output_shape=(GRID, GRID), order=1, mode="constant", cval=low
    )
    depth = _depth_on_grid(outline.equations, matrix_mm, offset_mm) / grid_mm
    levels, tissue, noise = _levels(aligned, depth > _MARGIN, low, high)
    seen = _Seen(sizes, asymmetry, tissue, _closed_ring(aligned, depth, low, high), levels.median, noise)
    return AlignedHead(
        hu=aligned,
        hull=np.clip(depth + 0.5, 0, 1).astype(np.float32),
        levels=levels,
        matrix=matrix * step,
        offset=(offset + 0.5) * step - 0.5,
        objection=_objection(seen),
    )


def to_grid(image: Image, head: AlignedHead) -> Image:
    """Resample an image of the source slice (rows, columns) to the grid."""
    on_grid: Image = ndimage.affine_transform(
        image, head.matrix, head.offset, output_shape=(GRID, GRID), order=1, mode="constant"
    )
    return on_grid


def to_source(image: Image, head: AlignedHead, shape: tuple[int, int]) -> Image:
    """Resample an image of the grid (GRID, GRID) to the source slice of the given shape."""
    inverse = np.linalg.inv(head.matrix)
    in_source: Image = ndimage.affine_transform(
        image, inverse, -inverse @ head.offset, output_shape=shape, order=1, mode="constant"
    )
    return in_source


def _shrink(image: Image, step: int) -> Image:
    """Average blocks of step x step pixels."""
    rows, columns = (size // step * step for size in image.shape)
    blocks = image[:rows, :columns].reshape(rows // step, step, columns // step, step)
    small: Image = blocks.mean(axis=(1, 3))
    return small


def _find_skull(image: Image, low: float, high: float) -> _Hull | None:
    """The hull of the skull: the largest bright shape that encloses tissue and not air.

    Lower thresholds are tried too, because a bleed may be brighter than a skull that a window greyed.
    """
    if high - low < 10:
        return None
    found: list[_Hull] = []
    for fraction in (0.85, 0.7, 0.55):
        bright = np.pad(image > low + fraction * (high - low), 4)
        closed = ndimage.binary_closing(bright, np.ones((3, 3)))[4:-4, 4:-4]
        labels, _ = ndimage.label(closed, np.ones((3, 3)))
        boxes = ndimage.find_objects(labels)
        areas = [(box[0].stop - box[0].start) * (box[1].stop - box[1].start) for box in boxes]
        hulls = []
        for index in np.argsort(areas)[::-1][:4]:
            if areas[index] < 0.04 * image.size:
                break
            hull = _enclose(labels == index + 1, image > low + 0.06 * (high - low))
            if hull is not None:
                hulls.append(hull)
        if hulls:
            solid = [hull for hull in hulls if hull.filled >= 0.75]
            found.append(
                max(solid, key=lambda hull: hull.area) if solid else max(hulls, key=lambda hull: hull.filled)
            )
            if solid and found[0].area > 0.3 * image.size:
                break
    if not found:
        return None
    largest = max(hull.area for hull in found)
    return next(hull for hull in found if hull.area >= 0.8 * largest)


def _enclose(component: NDArray[np.bool_], tissue: NDArray[np.bool_]) -> _Hull | None:
    points = np.argwhere(component & ~ndimage.binary_erosion(component)).astype(np.float64)
    try:
        hull = ConvexHull(points)
    except (QhullError, ValueError):  # all pixels on one line, or too few
        return None
    rows, columns = (np.arange(0, size, 2, dtype=np.float32) for size in component.shape)
    inside = _depth(hull.equations, rows, columns) >= -0.5
    filled = float(tissue[::2, ::2][inside].mean()) if inside.any() else 0.0
    return _Hull(points[hull.vertices], hull.equations, float(hull.volume), filled)


def _midline(outline: ConvexHull) -> tuple[float, float]:
    """The turn (radians, within 27 degrees) about which the outline is most symmetric, and its asymmetry.

    Asymmetry is the mean difference of squared radii to both sides, as a share of the mean square.
    """
    corners = outline.points[outline.vertices]
    following = np.roll(corners, -1, axis=0)
    cross = corners[:, 0] * following[:, 1] - following[:, 0] * corners[:, 1]
    centre = ((corners + following) * cross[:, None]).sum(axis=0) / (3 * cross.sum())
    angles = np.radians(np.arange(360))
    directions = np.stack([np.cos(angles), np.sin(angles)])
    facing = outline.equations[:, :2] @ directions
    gaps = -(outline.equations[:, :2] @ centre + outline.equations[:, 2])
    radii = np.where(facing > 1e-6, gaps[:, None] / np.maximum(facing, 1e-6), np.inf).min(axis=0)
    square = radii**2 / (radii**2).mean()
    best, turn, asymmetry = np.inf, 0, 0.0
    offsets = np.arange(1, 180)
    for degrees in range(-27, 28):
        difference = float(
            np.abs(square[(degrees + offsets) % 360] - square[(degrees - offsets) % 360]).mean()
        )
        if difference + 0.0006 * abs(degrees) < best:
            best, turn, asymmetry = difference + 0.0006 * abs(degrees), degrees, difference
    return float(np.radians(turn)), asymmetry


def _middle(values: NDArray[np.float64]) -> float:
    return float((values.min() + values.max()) / 2)


def _depth(equations: NDArray[np.float64], rows: _Array, columns: _Array) -> _Array:
    """The depth under a convex outline at every combination of rows and columns."""
    depth = np.full((len(rows), len(columns)), np.inf, np.float32)
    for normal_row, normal_column, distance in equations.astype(np.float32):
        np.minimum(depth, -(normal_row * rows + distance)[:, None] - normal_column * columns, out=depth)
    return depth


def _depth_on_grid(
    equations: NDArray[np.float64], matrix: NDArray[np.float64], offset: NDArray[np.float64]
) -> _Array:
    """The depth of every grid pixel under the outline, in the units of `matrix`."""
    turned = np.column_stack([equations[:, :2] @ matrix, equations[:, :2] @ offset + equations[:, 2]])
    index = np.arange(GRID, dtype=np.float32)
    return _depth(turned, index, index)


def _closed_ring(image: Image, depth: _Array, low: float, high: float) -> float:
    """In which share of directions the hull is rimmed by something as bright as bone."""
    row, column = np.nonzero((depth > 0) & (depth < _RIM))
    bright = image[row, column] > low + 0.8 * (high - low)
    middle = (GRID - 1) / 2
    sector = ((np.arctan2(row - middle, column - middle) / (2 * np.pi) + 0.5) * _SECTORS).astype(
        int
    ) % _SECTORS
    return len(np.unique(sector[bright])) / _SECTORS


def _levels(image: Image, within: NDArray[np.bool_], low: float, high: float) -> tuple[Levels, float, float]:
    """The levels, which share of the inside of the skull is neither air nor bone, and the noise in HU."""
    smooth = ndimage.gaussian_filter(image, 1.0)
    rough = np.abs(image - smooth)[within]
    smooth = smooth[within]
    if smooth.size == 0:
        return Levels(low, high, low, 0.0), 0.0, 0.0
    between = smooth[(smooth < low + 0.93 * (high - low)) & (smooth > low + 0.06 * (high - low))]
    values = between if between.size > 200 else smooth
    median = float(np.median(values))
    spread = 1.48 * float(np.median(np.abs(values - median)))
    return Levels(low, high, median, spread), between.size / smooth.size, 1.48 * float(np.median(rough))


def _objection(seen: _Seen) -> str | None:
    """Why a slice is not one through the brain, if so."""
    length, width = max(seen.sizes_mm), min(seen.sizes_mm)
    objections = (
        ("size", not (120 <= length <= 240 and width >= 90)),
        ("shape", width / length < 0.6),
        ("midline", seen.asymmetry > 0.15),
        ("tissue", seen.tissue < 0.6),
        ("skull", seen.ring < 0.8),
        ("density", not 12 <= seen.median <= 52),
        ("noise", seen.noise > 12),
    )
    return next((name for name, holds in objections if holds), None)
