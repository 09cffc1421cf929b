"""Haemorrhages of the three-dimensional head phantom: where they lie and what they push aside."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np

from tools.simulate.head_shapes import Array, Position, chance, distance_squared, log_uniform, soft


class Bleed(enum.Enum):
    """The kinds of haemorrhage that the phantom can carry."""

    PARENCHYMAL = "parenchymal"
    INTRAVENTRICULAR = "intraventricular"
    PARENCHYMAL_AND_INTRAVENTRICULAR = "parenchymal-and-intraventricular"
    SUBDURAL = "subdural"
    EPIDURAL = "epidural"
    SUBARACHNOID = "subarachnoid"


BLEED_SHARES = {
    Bleed.PARENCHYMAL: 0.46,
    Bleed.PARENCHYMAL_AND_INTRAVENTRICULAR: 0.14,
    Bleed.INTRAVENTRICULAR: 0.12,
    Bleed.SUBDURAL: 0.12,
    Bleed.EPIDURAL: 0.08,
    Bleed.SUBARACHNOID: 0.08,
}
"""How often each kind is drawn where the caller names none."""

_PARENCHYMAL = (Bleed.PARENCHYMAL, Bleed.PARENCHYMAL_AND_INTRAVENTRICULAR)
_VENTRICULAR = (Bleed.INTRAVENTRICULAR, Bleed.PARENCHYMAL_AND_INTRAVENTRICULAR)


@dataclass(frozen=True)
class Clot:
    """A parenchymal clot: the level set of a sum of balls (centre in mm, radius in mm)."""

    balls: tuple[tuple[tuple[float, float, float], float], ...]
    edge: float
    oedema: float

    @property
    def centre(self) -> tuple[float, float, float]:
        return self.balls[0][0]

    def depth(self, position: Position) -> Array:
        """The approximate depth in mm under the surface of the clot."""
        field: Array = np.zeros_like(position[0])
        for centre, radius in self.balls:
            field += np.float32(radius**4) / (distance_squared(position, centre) + np.float32(0.05)) ** 2
        depth: Array = np.float32(self.balls[0][1]) * (
            1 - np.maximum(field, np.float32(1e-6)) ** np.float32(-0.25)
        )
        return depth


@dataclass(frozen=True)
class Lesion:
    """One haemorrhage (or none): kind, brightness in HU and the geometry that its kind needs."""

    kind: Bleed | None
    hu: float
    mottle: float
    clot: Clot | None
    side: float
    centre: tuple[float, float, float]
    extent: float
    thickness: float
    push: float

    def displace(self, position: Position) -> Position:
        """Where the tissue at a position lay before the bleed pushed it aside (mass effect)."""
        x, y, z = position
        if self.clot is not None:
            radius = self.clot.balls[0][1]
            squared = distance_squared(position, self.clot.centre) + np.float32(0.5)
            relative = np.sqrt(squared) / np.float32(radius)
            pulled = np.maximum(1 - np.float32(self.push) * np.exp(-relative) / relative**2, np.float32(0.05))
            return [
                np.float32(c) + (axis - np.float32(c)) * pulled
                for axis, c in zip(position, self.clot.centre, strict=True)
            ]
        if self.kind in (Bleed.SUBDURAL, Bleed.EPIDURAL):
            shift = np.float32(self.side * self.push * self.thickness) * np.exp(-((x / np.float32(45)) ** 2))
            return [x + shift, y, z]
        return position

    def membership(
        self, position: Position, inner: Array, ventricles: Array, spaces: Array, texture: Array
    ) -> Array:
        """How much of each point is blood, 0..1.

        `inner` is the depth under the inner table in mm, `ventricles` and `spaces` (subarachnoid) are
        memberships of fluid, `texture` is a smooth field of about -1..1.
        """
        blood: Array = np.zeros_like(inner)
        if self.kind is None:
            return blood
        x, y, z = position
        if self.clot is not None:
            blood = soft(self.clot.depth(position), self.clot.edge)
        if self.kind in _VENTRICULAR:
            dependent = soft(y - np.float32(self.centre[1]) + 3 * texture, 0.8)
            blood = np.maximum(blood, ventricles * dependent)
        if self.kind is Bleed.SUBDURAL:
            along = np.sqrt(
                ((y - self.centre[1]) / self.extent) ** 2 + ((z - self.centre[2]) / (0.8 * self.extent)) ** 2
            )
            height = np.float32(self.thickness) * (1 - np.clip(along, 0, 1) ** 4) * (1 + 0.15 * texture)
            blood = soft(height - inner, 0.6) * soft(height - 1, 0.4) * soft(np.float32(self.side) * x - 2, 1)
        if self.kind is Bleed.EPIDURAL:
            squared = distance_squared(position, self.centre)
            height = np.float32(self.thickness) * (1 - np.clip(squared / np.float32(self.extent**2), 0, 1))
            blood = soft(height - inner, 0.6) * soft(height - 1, 0.4)
        if self.kind is Bleed.SUBARACHNOID:
            near = soft(np.float32(self.extent) - np.sqrt(distance_squared(position, self.centre)), 4)
            blood = np.clip(1.3 * spaces, 0, 1) * near
        return blood * soft(inner, 0.5)


def no_lesion() -> Lesion:
    """A head without a bleed."""
    return Lesion(None, 0.0, 0.0, None, 1.0, (0.0, 0.0, 0.0), 0.0, 0.0, 0.0)


def draw_lesion(rng: np.random.Generator, kind: Bleed, volume_ml: tuple[float, float]) -> Lesion:
    """Draw a haemorrhage; `volume_ml` bounds the (log-uniform) volume of a parenchymal clot."""
    side = float(rng.choice([-1.0, 1.0]))
    clot = None
    centre = (side * float(rng.uniform(20, 60)), float(rng.uniform(-40, 40)), float(rng.uniform(0, 40)))
    extent, thickness = float(rng.uniform(35, 70)), float(rng.uniform(5, 14))
    if kind in _PARENCHYMAL:
        clot = _draw_clot(rng, side, log_uniform(rng, *volume_ml))
    elif kind is Bleed.INTRAVENTRICULAR:
        centre = (0.0, float(rng.uniform(-40, 35)), 15.0)
    elif kind is Bleed.EPIDURAL:
        angle = float(rng.uniform(0.5, 2.6))
        centre = (side * 70 * float(np.sin(angle)), -82 * float(np.cos(angle)), float(rng.uniform(5, 35)))
        extent, thickness = float(rng.uniform(28, 48)), float(rng.uniform(10, 24))
    elif kind is Bleed.SUBARACHNOID:
        centre = (side * float(rng.uniform(0, 40)), float(rng.uniform(-35, 15)), float(rng.uniform(-20, 20)))
        extent = float(rng.uniform(30, 70))
    return Lesion(
        kind=kind,
        hu=float(rng.uniform(56, 82)),
        mottle=float(rng.uniform(0, 6)),
        clot=clot,
        side=side,
        centre=centre,
        extent=extent,
        thickness=thickness,
        push=float(rng.uniform(0.1, 0.7)),
    )


def _draw_clot(rng: np.random.Generator, side: float, volume_ml: float) -> Clot:
    radius = 10 * float((volume_ml * 3 / (4 * np.pi)) ** (1 / 3))
    if chance(rng, 0.55):  # deep: putamen and thalamus
        centre = (side * float(rng.uniform(14, 32)), float(rng.uniform(-15, 22)), float(rng.uniform(0, 18)))
    elif chance(rng, 0.85):  # lobar
        angle = float(rng.uniform(0.3, 2.8))
        centre = (
            side * 40 * float(np.sin(angle)),
            -55 * float(np.cos(angle)),
            float(rng.uniform(12, 45)),
        )
    else:  # cerebellum
        centre = (side * float(rng.uniform(5, 28)), float(rng.uniform(38, 58)), float(rng.uniform(-38, -22)))
    lobes = int(rng.integers(2, 6))
    core = radius * 0.9 * lobes ** (-0.3)
    balls = [(centre, core)]
    for _ in range(lobes - 1):
        direction = rng.standard_normal(3)
        offset = direction / np.linalg.norm(direction) * core * rng.uniform(0.8, 1.5)
        moved = (centre[0] + float(offset[0]), centre[1] + float(offset[1]), centre[2] + float(offset[2]))
        balls.append((moved, core * float(rng.uniform(0.5, 0.95))))
    return Clot(balls=tuple(balls), edge=float(rng.uniform(0.4, 1.2)), oedema=float(rng.uniform(0, 7)))
