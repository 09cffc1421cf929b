"""Haemorrhages (and their dark counterpart, infarcts) of the training slices.

Order matters: `plan` decides, `displace` bends the coordinates before anatomy is drawn in them (mass
effect), `draw_lesions` paints on the finished anatomy. Infarcts push tissue like clots do, so that
displacement alone says nothing about blood.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tools.simulate.head_anatomy import EXTENT, GRID, Canvas, Level, field, turned_ellipse
from tools.simulate.head_shapes import Array, capsule, chance, log_uniform, soft

PARENCHYMAL, SUBDURAL, EPIDURAL, SUBARACHNOID, INTRAVENTRICULAR, INFARCT = (
    "parenchymal",
    "subdural",
    "epidural",
    "subarachnoid",
    "intraventricular",
    "infarct",
)
_PLANS: tuple[tuple[tuple[str, ...], float], ...] = (
    ((PARENCHYMAL,), 0.32),
    ((SUBDURAL,), 0.16),
    ((EPIDURAL,), 0.10),
    ((SUBARACHNOID,), 0.13),
    ((INTRAVENTRICULAR,), 0.16),
    ((PARENCHYMAL, PARENCHYMAL), 0.03),
    ((PARENCHYMAL, PARENCHYMAL, PARENCHYMAL), 0.01),
    ((PARENCHYMAL, INTRAVENTRICULAR), 0.09),
)


@dataclass(frozen=True)
class Seed:
    """One lesion to be drawn: where its centre lies and how large it is, in head units."""

    kind: str
    centre: tuple[float, float]
    radius: float


@dataclass(frozen=True)
class Plan:
    """The lesions of one slice; `side` and `thickness` belong to the extra-axial ones."""

    seeds: tuple[Seed, ...]
    side: float
    thickness: float

    @property
    def kind(self) -> str:
        """The kinds of lesion, joined; `none` without any."""
        return "+".join(dict.fromkeys(seed.kind for seed in self.seeds)) or "none"


def plan(canvas: Canvas, *, bleed: bool) -> Plan:
    """Decide which lesions a slice gets."""
    rng, draw = canvas.rng, canvas.rng.uniform
    kinds: list[str] = []
    if bleed:
        choice = int(rng.choice(len(_PLANS), p=[share for _, share in _PLANS]))
        kinds = list(_PLANS[choice][0])
        if kinds[0] in (SUBDURAL, EPIDURAL) and chance(rng, 0.25):
            kinds.append(str(rng.choice([SUBARACHNOID, PARENCHYMAL])))
    elif chance(rng, 0.22):
        kinds = [INFARCT]
    if canvas.level is Level.VERTEX:
        kinds = [PARENCHYMAL if kind == INTRAVENTRICULAR else kind for kind in kinds]
    thickness = draw(0.04, 0.17) if SUBDURAL in kinds else draw(0.06, 0.26)
    seeds = tuple(_seed(canvas, kind) for kind in kinds)
    return Plan(seeds, float(rng.choice([-1.0, 1.0])), float(thickness))


def _seed(canvas: Canvas, kind: str) -> Seed:
    rng, draw = canvas.rng, canvas.rng.uniform
    if kind == PARENCHYMAL and chance(
        rng, 0.55 if canvas.level is Level.GANGLIA else 0.25
    ):  # deep grey matter
        centre = (float(rng.choice([-1, 1]) * draw(0.14, 0.36)), float(draw(-0.2, 0.2)))
        return Seed(kind, centre, log_uniform(rng, 0.05, 0.25))
    for _ in range(20):
        centre = (float(draw(-0.68, 0.68)), float(draw(-0.8, 0.8)))
        column, row = (int((value + EXTENT) / (2 * EXTENT) * (GRID - 1)) for value in centre)
        if canvas.depth[row, column] > 0.07:
            break
    radius = log_uniform(rng, 0.045, 0.38) if kind == PARENCHYMAL else log_uniform(rng, 0.08, 0.5)
    return Seed(kind, centre, radius)


def displace(canvas: Canvas, lesions: Plan) -> None:
    """Push the brain away from the lesions, before it is drawn."""
    rng, draw = canvas.rng, canvas.rng.uniform
    x, y = canvas.place
    moved_x, moved_y = x, y
    for seed in lesions.seeds:
        if seed.kind not in (PARENCHYMAL, INFARCT):
            continue
        push = draw(0, 0.8) if seed.kind == PARENCHYMAL else draw(-0.3, 0.5)
        right, down = x - np.float32(seed.centre[0]), y - np.float32(seed.centre[1])
        squared = np.maximum(right**2 + down**2, np.float32(1e-4))
        pushed = squared - push * seed.radius**2 * np.exp(-squared / (0.5 + seed.radius))
        scale = np.sqrt(np.maximum(pushed, 1e-4) / squared) - 1
        moved_x, moved_y = moved_x + 0.8 * right * scale, moved_y + 0.8 * down * scale
    if any(seed.kind in (SUBDURAL, EPIDURAL) for seed in lesions.seeds):
        if chance(rng, 0.7):
            shift = lesions.side * draw(0, 0.8) * lesions.thickness
            moved_x = moved_x + shift * np.exp(-((moved_x / 0.6) ** 2))
    elif chance(rng, 0.1):
        moved_x = moved_x + draw(-0.08, 0.08) * np.exp(-((moved_y / 0.5) ** 2))
    canvas.moved = (moved_x, moved_y)


def draw_lesions(canvas: Canvas, lesions: Plan) -> None:
    """Paint the lesions and note which share of each pixel is blood."""
    draw = canvas.rng.uniform
    brightness = draw(55, 92) if chance(canvas.rng, 0.88) else draw(48, 58)
    for seed in lesions.seeds:
        if seed.kind == INFARCT:
            _draw_infarct(canvas, seed)
            continue
        hu = brightness + draw(-5, 5)
        weight: Array
        value: Array | float
        if seed.kind == PARENCHYMAL:
            weight, value = _clot(canvas, seed, hu)
        elif seed.kind == INTRAVENTRICULAR:
            weight, value = _ventricular(canvas, lesions.side), hu
        elif seed.kind == SUBARACHNOID:
            weight, value = _subarachnoid(canvas), hu - draw(0, 14)
        else:
            weight = _extra_axial(canvas, lesions, seed.kind)
            value = hu + field(canvas.rng, 12, draw(0, 4))
            if seed.kind == SUBDURAL and chance(canvas.rng, 0.25):  # partly clotted
                value = value - draw(0, 12) + field(canvas.rng, 8, 8.0)
        weight = weight * canvas.inside
        canvas.paint(weight, value)
        canvas.blood = np.maximum(canvas.blood, weight)


def _blot(canvas: Canvas, seed: Seed) -> tuple[Array, Array]:
    """The depth in an ellipse with a lobulated edge, and the lobulation."""
    rng, draw = canvas.rng, canvas.rng.uniform
    lobes = 0.6 * field(rng, int(rng.integers(6, 12))) + 0.4 * field(rng, int(rng.integers(14, 26)))
    slender = log_uniform(rng, 0.55, 1.8) ** 0.5
    radii = (seed.radius * slender, seed.radius / slender)
    depth = turned_ellipse(canvas.place, seed.centre, radii, draw(0, np.pi))
    roughness = draw(0.03, 0.45) * (1 if seed.radius > 0.1 else 0.5)
    return depth + roughness * lobes, lobes


def _draw_infarct(canvas: Canvas, seed: Seed) -> None:
    depth, _ = _blot(canvas, seed)
    draw = canvas.rng.uniform
    canvas.hu = canvas.hu + draw(-22, -6) * soft(depth, draw(0.1, 0.4)) * canvas.inside * canvas.solid


def _clot(canvas: Canvas, seed: Seed, hu: float) -> tuple[Array, Array]:
    rng, draw = canvas.rng, canvas.rng.uniform
    depth, lobes = _blot(canvas, seed)
    if chance(rng, 0.75):
        rim = soft(depth + draw(0.03, 0.16) / seed.radius + 0.15 * lobes, 0.12)
        canvas.hu = canvas.hu - draw(4, 16) * rim * canvas.inside * canvas.solid
    value = hu + field(rng, int(rng.integers(8, 26)), draw(0, 9))
    if chance(rng, 0.12) and seed.radius > 0.09:  # blood settles under plasma
        settled = canvas.place[1] > seed.centre[1] + draw(-0.2, 0.2) * seed.radius
        value = np.where(settled, value, draw(15, 45))
    if chance(rng, 0.15):
        value = value - draw(5, 18) * np.clip(depth, 0, 1)
    return soft(depth, draw(0.04, 0.2)), value


def _extra_axial(canvas: Canvas, lesions: Plan, kind: str) -> Array:
    rng, draw, side = canvas.rng, canvas.rng.uniform, lesions.side
    if kind == SUBDURAL and canvas.level <= Level.GANGLIA and chance(rng, 0.15):  # along the falx
        end = draw(-0.4, 0.9)
        return soft(
            capsule(canvas.moved, (side * 0.02, draw(-0.9, -0.5)), (side * 0.02, end), draw(0.012, 0.035)),
            0.012,
        )
    centre = side * draw(0.5, 2.5)
    half = draw(0.5, 1.4) if kind == SUBDURAL else draw(0.25, 0.6)
    along = np.clip(np.abs((canvas.angle - centre + np.pi) % (2 * np.pi) - np.pi) / half, 0, 1)
    profile = 1 - along**4 if kind == SUBDURAL else 1 - along**2
    height = lesions.thickness * profile * (1 + 0.12 * canvas.swell)
    weight = soft(height - canvas.depth, 0.01) * soft(0.6 * lesions.thickness * profile - 0.005, 0.004)
    crescent: Array = weight * (along < 1) * (side * canvas.place[0] > -0.01)
    return crescent


def _ventricular(canvas: Canvas, side: float) -> Array:
    rng, draw = canvas.rng, canvas.rng.uniform
    x, y = canvas.place
    pattern = rng.random()
    weight: Array = canvas.ventricles
    if 0.25 < pattern < 0.75:  # settled in the dependent part
        weight = weight * soft(y - draw(-0.1, 0.45), 0.01)
    elif pattern >= 0.75:  # one side
        weight = weight * soft(side * x + draw(-0.02, 0.1), 0.02) * soft(field(rng, 5) + 0.6, 0.2)
    if chance(rng, 0.4):
        weight = np.clip(1.15 * ndimage.gaussian_filter(weight, 0.7), 0, 1)
    return weight


def _subarachnoid(canvas: Canvas) -> Array:
    draw = canvas.rng.uniform
    x, y = canvas.place
    across, down, reach = draw(-0.6, 0.6), draw(-0.6, 0.5), draw(0.25, 1.1)
    sulci = np.exp(-((canvas.folds / draw(0.06, 0.2)) ** 2)) * soft(draw(0.1, 0.3) - canvas.depth, 0.03)
    spaces = np.maximum(np.maximum(canvas.spaces, sulci), canvas.sylvian)
    near = soft(reach - np.hypot(x - across, y - down), 0.08)
    weight: Array = np.clip(1.3 * spaces, 0, 1) * near * (1 - canvas.ventricles)
    return weight
