"""Two-dimensional head slices in HU for training: outline, brain, fluid spaces and membranes.

The recipe varies everything that a head, not a bleed, could vary. A slice is drawn on a square grid
whose coordinates run from -1.16 to 1.16; x to the right, y to the back; the head fills about -1..1.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from tools.simulate.head_shapes import Array, Position, blend, capsule, chance, ellipsoid, log_uniform, soft

GRID = 160
EXTENT = 1.16
_AXIS = np.linspace(-EXTENT, EXTENT, GRID, dtype=np.float32)
_ROWS, _COLUMNS = np.meshgrid(_AXIS, _AXIS, indexing="ij")


class Level(enum.IntEnum):
    """Where along the head the slice lies, from the vertex down."""

    VERTEX = 0
    BODIES = 1
    GANGLIA = 2
    SUPRASELLAR = 3
    POSTERIOR_FOSSA = 4


_LEVEL_SHARES = (0.14, 0.24, 0.36, 0.13, 0.13)


@dataclass
class Canvas:
    """A slice while it is being drawn. All arrays have shape (GRID, GRID).

    `place` holds the head coordinates (x, y); `moved` the same after mass effect and small warps, where
    anatomy is drawn; `depth` is the depth under the inner table in head units.
    """

    rng: np.random.Generator
    level: Level
    place: Position
    moved: Position
    angle: Array
    radius: Array
    wall: Array
    depth: Array
    inside: Array
    head: Array
    folds: Array
    swell: Array
    atrophy: float
    lift: float
    ventricles: Array
    spaces: Array
    sylvian: Array
    hu: Array
    blood: Array

    def cover(self, weight: Array, hu: float | Array) -> None:
        """Paint over everything, blood included."""
        self.hu = blend(self.hu, hu, weight)
        self.blood = self.blood * (1 - weight)

    def paint(self, weight: Array, hu: float | Array) -> None:
        """Paint tissue, which leaves the label alone."""
        self.hu = blend(self.hu, hu, weight)

    @property
    def solid(self) -> Array:
        """1 in tissue, 0 in fluid spaces."""
        return (1 - self.spaces) * (1 - self.ventricles)


@lru_cache(maxsize=64)
def _interpolation(cells: int) -> Array:
    matrix: Array = ndimage.zoom(
        np.eye(cells, dtype=np.float32), (GRID / cells, 1), order=3, grid_mode=True, mode="nearest"
    )
    return matrix


def field(rng: np.random.Generator, cells: int, amplitude: float = 1.0) -> Array:
    """A smooth random field: `cells` x `cells` normal numbers, interpolated to the grid."""
    matrix = _interpolation(cells)
    numbers = rng.standard_normal((cells, cells), dtype=np.float32) * np.float32(amplitude)
    values: Array = matrix @ numbers @ matrix.T
    return values


def begin(rng: np.random.Generator) -> Canvas:
    """Draw the outline of a head and the fields that its brain will follow."""
    draw = rng.uniform
    level = Level(int(rng.choice(5, p=_LEVEL_SHARES)))
    x, y = _COLUMNS + field(rng, 5, 0.022), _ROWS + field(rng, 5, 0.022)
    angle = np.arctan2(x, -y)  # 0 is the front
    width = draw(0.72, 0.97) if level is Level.VERTEX else draw(0.74, 0.92)
    egg = draw(-0.05, 0.1) if level is Level.VERTEX else draw(-0.02, 0.14)
    ripple = sum(
        (draw(-0.018, 0.018) * np.cos(k * angle + draw(0, 6.3)) for k in (3, 4, 5)),
        start=draw(-0.018, 0.018) * np.cos(2 * angle),
    )
    power = draw(1.9, 2.2) if level is Level.GANGLIA and chance(rng, 0.7) else draw(1.9, 2.5)
    norm = np.abs(x / (width * (1 + egg * y))) ** power + np.abs(y / 0.98) ** power
    size = draw(0.86, 1.0)
    radius = norm ** (1 / power) / (1 + ripple) / size
    wall = _wall(rng, level, angle, x)
    depth = 1 - wall - radius
    blur = draw(0.006, 0.02) if chance(rng, 0.8) else draw(0.02, 0.05)
    cells = int(rng.integers(13, 22))
    empty = np.zeros_like(x)
    place = (x / np.float32(size), y / np.float32(size))
    return Canvas(
        rng=rng,
        level=level,
        place=place,
        moved=place,
        angle=angle,
        radius=radius,
        wall=wall,
        depth=depth,
        inside=soft(depth, blur),
        head=soft(1 - radius, 0.012),
        folds=field(rng, cells) + 0.5 * field(rng, 2 * cells - 3),
        swell=field(rng, 7),
        atrophy=float(rng.beta(1.2, 2.2)),
        lift=float(draw(-0.06, 0.08)),
        ventricles=empty,
        spaces=empty,
        sylvian=empty,
        hu=empty,
        blood=empty,
    )


def _wall(rng: np.random.Generator, level: Level, angle: Array, x: Array) -> Array:
    """The thickness of the skull by direction."""
    draw = rng.uniform
    thickness = draw(0.06, 0.2) if level is Level.VERTEX else draw(0.05, 0.12)
    uneven = 0.25 * np.cos(angle * 2 + draw(-0.5, 0.5)) * rng.random() + 0.15 * np.cos(3 * angle + draw(0, 6))
    wall: Array = thickness * (1 + uneven)
    if chance(rng, 0.5):
        wall = wall + draw(0, 0.08) * np.exp(-((angle / 0.3) ** 2))
    wall = wall + draw(0, 0.06) * np.exp(-(((np.abs(angle) - np.pi) / 0.25) ** 2))
    if chance(rng, 0.12):  # thickened frontal bone
        wall = wall + draw(0.02, 0.09) * np.exp(-((angle / 0.8) ** 2)) * (
            1 + 0.5 * np.cos(angle * draw(6, 14))
        )
    if chance(rng, 0.15):  # a tilted head cuts one side more obliquely
        wall = wall * (1 + draw(-0.4, 0.4) * np.tanh(x / 0.1))
    return wall


def settle(canvas: Canvas) -> None:
    """Bend the brain a little, after any mass effect and before it is drawn."""
    rng = canvas.rng
    x, y = canvas.moved
    bend = float(rng.uniform(0.004, 0.016))
    x = x + np.float32(rng.uniform(-0.02, 0.02)) * y + field(rng, int(rng.integers(8, 15)), bend)
    canvas.moved = (x, y + field(rng, int(rng.integers(8, 15)), bend))


def draw_brain(canvas: Canvas) -> None:
    """Grey and white matter, ventricles, sulci and cisterns."""
    rng, draw = canvas.rng, canvas.rng.uniform
    grey, fluid = draw(33, 41), draw(2, 14)
    white = grey - draw(3, 13)
    cortex = _cortex(canvas)
    _draw_sulci(canvas)
    _DRAW_FLUID[canvas.level](canvas)
    if canvas.level is Level.GANGLIA:
        cortex = np.maximum(cortex, _deep_grey(canvas))
    cortex = np.clip(cortex, 0, 1)
    canvas.hu = (
        white + (grey - white) * cortex + field(rng, 9, draw(0.2, 1.2)) + field(rng, 4, draw(0.2, 1.6))
    )
    if chance(rng, 0.25) and canvas.level <= Level.GANGLIA:  # small-vessel disease around the ventricles
        halo = ndimage.gaussian_filter(canvas.ventricles, draw(3, 7))
        canvas.hu = canvas.hu - draw(3, 12) * np.clip(2.2 * halo, 0, 1)
    canvas.paint(canvas.spaces, fluid)
    canvas.paint(canvas.ventricles, fluid)


def _cortex(canvas: Canvas) -> Array:
    draw, depth = canvas.rng.uniform, canvas.depth
    ribbon = soft(draw(0.05, 0.11) * (1 + 0.4 * canvas.swell) - depth, 0.02)
    gyri = np.exp(-((canvas.folds / draw(0.25, 0.6)) ** 2)) * soft(
        draw(0.2, 0.5) + 0.08 * canvas.swell - depth, 0.06
    )
    cortex: Array = np.maximum(ribbon, gyri)
    if canvas.level >= Level.SUPRASELLAR:
        cortex = np.maximum(cortex, draw(0.2, 0.7))
    return cortex


def _draw_sulci(canvas: Canvas) -> None:
    draw, atrophy = canvas.rng.uniform, canvas.atrophy
    near = soft(draw(0.08, 0.22) + 0.2 * atrophy + 0.05 * canvas.swell - canvas.depth, 0.03)
    sulci = np.exp(-((canvas.folds / (0.04 + 0.22 * atrophy)) ** 2)) * near
    sulci = sulci * min(1, 0.15 + 1.2 * atrophy) * draw(0.5, 1)
    rim = soft((-0.01 + 0.05 * atrophy) * (1 + 0.4 * canvas.swell) - canvas.depth, 0.008) * draw(0, 1)
    canvas.spaces = np.maximum(sulci, rim)
    x, y = canvas.moved
    if canvas.level <= Level.GANGLIA:
        fissure = np.exp(-((x / (0.008 + 0.03 * atrophy)) ** 2)) * draw(0, 0.9) * (canvas.swell > -0.7)
        if canvas.level is Level.GANGLIA:
            fissure = fissure * soft(-0.25 - y, 0.05)
        canvas.spaces = np.maximum(canvas.spaces, ndimage.uniform_filter(fissure, 3))
    canvas.ventricles = np.zeros_like(x)


def _no_fluid(canvas: Canvas) -> None:
    """The vertex has no ventricles."""


def _swelling(canvas: Canvas) -> tuple[float, tuple[float, float]]:
    """The scale of the ventricles and of each side."""
    draw = canvas.rng.uniform
    scale = log_uniform(canvas.rng, 0.55, 2.0) * (1 + 0.9 * canvas.atrophy)
    return scale, (1 + draw(-0.25, 0.25), 1 + draw(-0.25, 0.25))


def _bodies(canvas: Canvas) -> None:
    draw, lift = canvas.rng.uniform, canvas.lift
    scale, sides = _swelling(canvas)
    radius, gap = 0.030 * scale, 0.03 + draw(0, 0.05) + 0.035 * scale
    front, back = draw(-0.42, -0.2), draw(0.2, 0.48)
    for side, size in zip((-1, 1), sides, strict=True):
        start = (side * gap, lift)
        anterior = capsule(
            canvas.moved, start, (side * (gap + 0.05), front + lift), radius * size, radius * size * 0.6
        )
        spread, taper = draw(0.05, 0.17), draw(0.6, 1.2)
        posterior = capsule(
            canvas.moved,
            start,
            (side * (gap + spread), back + lift),
            radius * size * 1.1,
            radius * size * taper,
        )
        canvas.ventricles = np.maximum(canvas.ventricles, soft(np.maximum(anterior, posterior), 0.012))


def _ganglia(canvas: Canvas) -> None:
    rng, draw, lift = canvas.rng, canvas.rng.uniform, canvas.lift
    scale, sides = _swelling(canvas)
    radius, gap, spread = 0.026 * scale, 0.02 + 0.021 * scale, draw(0.07, 0.13)
    occipital, thin = chance(rng, 0.75), canvas.atrophy
    end = draw(0.38, 0.62)
    depth = capsule(canvas.moved, (0, -0.06 + lift), (0, 0.14 + lift), 0.008 * scale, 0.013 * scale)
    fissure = np.zeros_like(canvas.depth)
    for side, size in zip((-1, 1), sides, strict=True):
        tip = (side * (gap + spread), -0.32 + lift - 0.03 * scale)
        horn = capsule(
            canvas.moved, (side * gap, -0.12 + lift), tip, radius * size * 0.8, radius * size * 1.25
        )
        depth = np.maximum(depth, horn)
        if occipital:
            start, stop = (side * draw(0.2, 0.26), 0.3 + lift), (side * draw(0.24, 0.32), end + lift)
            depth = np.maximum(
                depth, capsule(canvas.moved, start, stop, 0.022 * scale * size, 0.018 * scale * size)
            )
        insula = capsule(
            canvas.moved,
            (side * 0.47, -0.22 + lift),
            (side * 0.45, 0.1 + lift),
            0.006 + 0.03 * thin * size,
            0.005 + 0.02 * thin,
        )
        outward = capsule(
            canvas.moved,
            (side * 0.45, -0.05 + lift),
            (side * 0.66, -0.1 + lift),
            0.006 + 0.03 * thin,
            0.006 + 0.04 * thin * size,
        )
        fissure = np.maximum(fissure, soft(np.maximum(insula, outward), 0.012))
    canvas.ventricles = soft(depth, 0.012)
    canvas.sylvian = fissure
    cistern = capsule(canvas.moved, (-0.1, 0.27 + lift), (0.1, 0.27 + lift), 0.012 + 0.03 * thin)
    canvas.spaces = np.maximum(canvas.spaces, fissure * draw(0.4, 1) * (0.75 + 0.25 * np.tanh(canvas.folds)))
    canvas.spaces = np.maximum(canvas.spaces, soft(cistern, 0.012) * draw(0.2, 1))


def _deep_grey(canvas: Canvas) -> Array:
    nuclei = (
        (0.16, -0.2, 0.045, 0.11, 0.3),
        (0.29, -0.05, 0.075, 0.17, -0.25),
        (0.12, 0.08, 0.09, 0.13, 0.4),
    )
    grey = np.zeros_like(canvas.depth)
    for side in (-1, 1):
        for x, y, width, height, turn in nuclei:
            nucleus = turned_ellipse(canvas.moved, (side * x, y + canvas.lift), (width, height), -side * turn)
            grey = np.maximum(grey, soft(nucleus, 0.12) * canvas.rng.uniform(0.6, 1.0))
    return grey


def turned_ellipse(
    position: Position, centre: tuple[float, float], radii: tuple[float, float], turn: float
) -> Array:
    """The depth in an ellipse that is turned by `turn` radians, in units of its radius."""
    x, y = position[0] - np.float32(centre[0]), position[1] - np.float32(centre[1])
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    return ellipsoid((cos * x + sin * y, cos * y - sin * x), (0.0, 0.0), radii)


def _suprasellar(canvas: Canvas) -> None:
    rng, draw, lift, thin = canvas.rng, canvas.rng.uniform, canvas.lift, canvas.atrophy
    x, y = canvas.moved
    centre = y + np.float32(0.1 - lift)
    size = draw(0.06, 0.12) * (1 + 0.5 * thin)
    flip = np.pi * chance(rng, 0.5)
    points = 1 + 0.45 * np.cos(5 * np.arctan2(x, centre) + flip)
    star = soft(size * points - np.hypot(x, centre), 0.02) * draw(0.6, 1)
    scale, sides = _swelling(canvas)
    spaces, temporal = np.maximum(canvas.spaces, star), np.zeros_like(x)
    strength, ambient = draw(0.3, 1), draw(0.2, 1)
    for side, swell in zip((-1, 1), sides, strict=True):
        sylvian = capsule(
            canvas.moved,
            (side * 0.1, lift - 0.05),
            (side * 0.5, lift - 0.22),
            0.008 + 0.02 * thin,
            0.006 + 0.03 * thin,
        )
        around = capsule(
            canvas.moved,
            (side * 0.16, lift + 0.05),
            (side * 0.08, lift + 0.22),
            0.008 + 0.012 * thin,
            0.01 + 0.02 * thin,
        )
        spaces = np.maximum(
            spaces, np.maximum(soft(sylvian, 0.012) * strength, soft(around, 0.012) * ambient)
        )
        horn = capsule(
            canvas.moved,
            (side * 0.36, lift + 0.02),
            (side * 0.4, lift + 0.12),
            0.012 * scale * swell,
            0.008 * scale,
        )
        temporal = np.maximum(temporal, soft(horn, 0.012))
    canvas.spaces = spaces
    if chance(rng, 0.6):
        canvas.ventricles = temporal


def _posterior_fossa(canvas: Canvas) -> None:
    draw, lift, thin = canvas.rng.uniform, canvas.lift, canvas.atrophy
    scale, _ = _swelling(canvas)
    fourth = ellipsoid(canvas.moved, (0, 0.33 + lift), (0.05 * scale**0.6, 0.035 * scale**0.6))
    canvas.ventricles = soft(fourth, 0.2)
    strength = draw(0.1, 0.9)
    for side in (-1, 1):
        angle_cistern = capsule(
            canvas.moved, (side * 0.03, 0.08 + lift), (side * 0.26, 0.14 + lift), 0.01 + 0.02 * thin
        )
        canvas.spaces = np.maximum(canvas.spaces, soft(angle_cistern, 0.012) * strength)


_DRAW_FLUID = {
    Level.VERTEX: _no_fluid,
    Level.BODIES: _bodies,
    Level.GANGLIA: _ganglia,
    Level.SUPRASELLAR: _suprasellar,
    Level.POSTERIOR_FOSSA: _posterior_fossa,
}
