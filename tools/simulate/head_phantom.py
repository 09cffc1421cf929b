"""A three-dimensional head with or without a haemorrhage: the held-out family of `head-ct-triage`.

Shapes, folding and lesions are modelled otherwise than in the generator of the training slices
(`head_anatomy`): a superquadric skull in millimetres with a stepped floor, sulci as the sheets of a
warped gyroid, clots as level sets of a sum of balls. Nothing here is used in training.

Coordinates are millimetres in the frame of the head: x to the left, y to the back, z to the vertex, the
origin in the third ventricle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tools.simulate.head_phantom_bleeds import BLEED_SHARES, Bleed, Lesion, draw_lesion, no_lesion
from tools.simulate.head_shapes import (
    Array,
    Position,
    blend,
    capsule,
    chance,
    ellipsoid,
    log_uniform,
    soft,
)

Point = tuple[float, float, float]
AIR = -1000.0


@dataclass(frozen=True)
class Skull:
    """A superquadric shell over a floor that steps down from the frontal to the posterior fossa."""

    radii: Point
    power: float
    egg: float
    thickness: float
    asymmetry: float
    scalp: float
    floors: tuple[float, float, float]
    relief: float
    bone: float

    def outer_depth(self, position: Position) -> Array:
        """The depth in mm under the outer table."""
        x, y, z = position
        width = np.float32(self.radii[0]) * (1 + np.float32(self.egg / 90) * y)
        power = np.float32(self.power)
        norm = np.abs(x / width) ** power + np.abs(y / np.float32(self.radii[1])) ** power
        norm += np.abs(np.maximum(z, -30) / np.float32(self.radii[2])) ** power
        depth: Array = (1 - norm ** (1 / power)) * np.float32(self.radii[0])
        return depth

    def inner_depth(self, position: Position, outer: Array) -> Array:
        """The depth in mm under the inner table, `outer` being the depth under the outer one."""
        x, y, z = position
        wall = np.float32(self.thickness) * (1 + np.float32(self.asymmetry) * np.tanh(x / 20))
        wall = wall + 3 * np.exp(-((np.hypot(x, y + np.float32(self.radii[1])) / 14) ** 2))
        anterior, middle, posterior = (np.float32(value) for value in self.floors)
        floor = anterior + (middle - anterior) * soft(y + 30, 3) + (posterior - middle) * soft(y - 12, 4)
        relief = np.float32(self.relief) * np.cos(x / 11) * np.sin(y / 13) - np.abs(x / 12) * soft(-y, 8)
        depth: Array = np.minimum(outer - wall, z - floor - relief)
        return depth


@dataclass(frozen=True)
class Fluid:
    """Ventricles, fissures and cisterns: rods from start to end with two radii."""

    ventricles: tuple[tuple[Point, Point, float, float], ...]
    cisterns: tuple[tuple[Point, Point, float, float], ...]


@dataclass(frozen=True)
class Speck:
    """A small benign structure: centre, radii, HU and how soft its edge is."""

    centre: Point
    radii: Point
    hu: float
    edge: float


@dataclass(frozen=True)
class Phantom:
    """All that is drawn by chance about one head."""

    skull: Skull
    fluid: Fluid
    lesion: Lesion
    grey: float
    white: float
    csf: float
    fold_wavelength: float
    fold_phases: tuple[float, ...]
    sulcus: float
    sulcus_depth: float
    falx: float
    sinus: float
    cupping: float
    bars: float
    specks: tuple[Speck, ...]
    infarct: Speck | None

    @property
    def bleed(self) -> Bleed | None:
        return self.lesion.kind

    def tissue(self, position: Position) -> tuple[Array, Array]:
        """The HU and the share of blood (0..1) at points given in the frame of the head."""
        outer = self.skull.outer_depth(position)
        inner = self.skull.inner_depth(position, outer)
        moved = self.lesion.displace(position)
        texture = self._texture(position)
        brain, ventricles, spaces = self._brain(moved, inner)
        brain = self._benign(brain, moved, inner)
        blood = self.lesion.membership(position, inner, ventricles, spaces, texture)
        if self.lesion.clot is not None and self.lesion.clot.oedema > 0:
            rim = soft(self.lesion.clot.depth(position) + np.float32(self.lesion.clot.oedema), 1.2)
            brain -= 9 * rim * (1 - ventricles) * (1 - spaces)
        brain = blend(brain, self.lesion.hu + self.lesion.mottle * texture, blood)
        inside = soft(inner, 0.5)
        brain += np.float32(self.cupping) * np.exp(-np.maximum(inner, 0) / 12)
        return blend(self._shell(position, outer, inner, texture), brain, inside), blood * inside

    def _texture(self, position: Position) -> Array:
        phases = self.fold_phases
        waves = [
            np.sin(axis * np.float32(0.45 + 0.09 * index) + np.float32(phases[index]))
            for index, axis in enumerate(position)
        ]
        product: Array = waves[0] * waves[1] + waves[1] * waves[2] + waves[2] * waves[0]
        return product * np.float32(0.6)

    def _folds(self, position: Position) -> Array:
        """A warped gyroid: zero on the sheets that become sulci."""
        phases, rates = self.fold_phases, (0.055, 0.061, 0.048)
        others = (position[1], position[2], position[0])
        x, y, z = (
            position[index] + 5 * np.sin(np.float32(rates[index]) * others[index] + np.float32(phases[index]))
            for index in range(3)
        )
        k = np.float32(2 * np.pi / self.fold_wavelength)
        a, b, c = (np.float32(value) for value in phases[3:6])
        sheets: Array = (
            np.sin(k * x + a) * np.cos(k * y + b)
            + np.sin(k * y + b) * np.cos(k * z + c)
            + np.sin(k * z + c) * np.cos(k * x + a)
        )
        return sheets

    def _brain(self, position: Position, inner: Array) -> tuple[Array, Array, Array]:
        x, y, z = position
        folds = np.abs(self._folds(position))
        shallow = soft(np.float32(self.sulcus_depth) - inner, 2)
        cortex = np.maximum(
            soft(3.5 - inner, 0.8), soft(np.float32(self.sulcus + 0.45) - folds, 0.12) * shallow
        )
        deep = np.zeros_like(x)
        for centre, radii in (
            ((14, -12, 8), (5, 13, 10)),
            ((25, -2, 4), (8, 17, 9)),
            ((11, 12, 8), (8, 14, 9)),
        ):
            for side in (-1, 1):
                deep = np.maximum(
                    deep, soft(ellipsoid(position, (side * centre[0], *centre[1:]), radii), 0.08)
                )
        tentorium = -14 + 26 * np.clip((70 - y) / 55, 0, 1)
        below = soft(tentorium - z, 1) * soft(y - 12, 3)
        folia = 0.5 + 0.3 * np.sin(np.float32(1.9) * np.hypot(y - 15, z + 30) + 2 * self._texture(position))
        grey = np.maximum(np.maximum(cortex, 0.8 * deep) * (1 - below), folia * below)
        hu = np.float32(self.white) + np.float32(self.grey - self.white) * grey
        spaces = soft(np.float32(self.sulcus) - folds, 0.06) * shallow * (1 - below)
        spaces = np.maximum(
            spaces, soft(np.float32(1.2 + 6 * self.sulcus) - np.abs(x), 0.6) * soft(-y - 15, 5) * 0.7
        )
        for rod in self.fluid.cisterns:
            spaces = np.maximum(spaces, soft(capsule(position, *rod), 0.7))
        stem = soft(capsule(position, (0, 14, -70), (0, 3, -9), 12.0, 13.0), 0.7)
        spaces = np.maximum(spaces * (1 - stem), 0)
        ventricles = np.zeros_like(x)
        for rod in self.fluid.ventricles:
            ventricles = np.maximum(ventricles, soft(capsule(position, *rod), 0.6))
        hu = blend(blend(hu, self.csf, spaces), self.csf, ventricles)
        return self._membranes(hu, position, inner, tentorium), ventricles, spaces

    def _membranes(self, hu: Array, position: Position, inner: Array, tentorium: Array) -> Array:
        """Falx, tentorium and the dural sinuses: bright, thin and normal."""
        x, y, z = position
        falx = soft(0.9 - np.abs(x), 0.3) * np.maximum(
            soft(z - 28, 3), np.maximum(soft(-y - 42, 3), soft(y - 40, 3))
        )
        falx = falx * soft(z - tentorium, 1)
        tent = (
            soft(1.0 - np.abs(z - tentorium), 0.4)
            * soft(y - 14, 2)
            * soft(np.abs(x) - 12 + 0.3 * (y - 14), 2)
        )
        hu = blend(hu, self.falx, np.maximum(falx, 0.8 * tent))
        sagittal = soft(5 - np.hypot(x, inner), 1.0) * np.maximum(soft(y - 20, 5), soft(z - 45, 5))
        transverse = soft(4 - np.hypot(z + 14, inner), 0.9) * soft(y - 25, 4)
        return blend(hu, self.sinus, np.maximum(sagittal, transverse))

    def _benign(self, hu: Array, position: Position, inner: Array) -> Array:
        x, y, z = position
        if self.infarct is not None:
            part = soft(ellipsoid(position, self.infarct.centre, self.infarct.radii), self.infarct.edge)
            hu = hu + np.float32(self.infarct.hu) * part
        for speck in self.specks:
            hu = blend(hu, speck.hu, soft(ellipsoid(position, speck.centre, speck.radii), speck.edge))
        band = np.exp(-(((y - 5) / 9) ** 2) - ((z + 32) / 12) ** 2 - (x / 40) ** 2)
        return hu + np.float32(self.bars) * band

    def _shell(self, position: Position, outer: Array, inner: Array, texture: Array) -> Array:
        """Everything outside the brain: bone, face, scalp and air."""
        x, y, z = position
        face = -15 + 45 * np.tanh(2 * self._folds(position))
        for side in (-1, 1):
            orbit = ellipsoid(position, (side * 32.0, -64.0, -32.0), (19.0, 22.0, 17.0))
            face = blend(face, -85.0, soft(orbit, 0.05))
            face = blend(
                face, 12.0, soft(ellipsoid(position, (side * 32.0, -70.0, -32.0), (12.0, 12.0, 12.0)), 0.05)
            )
        sinuses = soft(18 - np.abs(x), 2) * soft(-y - 30, 3) * soft(-z - 24, 3)
        face = blend(face, np.where(np.abs(texture) < 0.08, np.float32(350), np.float32(AIR)), sinuses)
        diploe = 1 - 0.45 * np.exp(-((inner + np.float32(self.skull.thickness / 2)) ** 2) / 2)
        base = soft(inner + 3.5, 0.8)
        wall = np.maximum(soft(np.float32(self.skull.thickness + 1.0) - outer, 0.5) * soft(z + 48, 4), base)
        shell = blend(face, np.float32(self.skull.bone) * diploe, wall)
        for side in (-1, 1):
            petrous = capsule(position, (side * 62.0, 24.0, -40.0), (side * 14.0, 2.0, -37.0), 9.0, 5.0)
            shell = blend(shell, 800.0, soft(petrous, 0.8))
            cells = ellipsoid(position, (side * 60.0, 28.0, -44.0), (9.0, 12.0, 12.0))
            shell = blend(shell, np.where(texture > 0, np.float32(AIR), np.float32(400)), soft(cells, 0.1))
        skin = np.where(outer + np.float32(self.skull.scalp) < 1.5, np.float32(30), np.float32(-75))
        shell = blend(skin, shell, soft(outer, 0.4))
        return blend(np.full_like(shell, AIR), shell, soft(outer + np.float32(self.skull.scalp), 0.4))


def draw_phantom(
    rng: np.random.Generator,
    *,
    bleed: bool,
    kind: Bleed | None = None,
    volume_ml: tuple[float, float] = (2.0, 60.0),
) -> Phantom:
    """Draw a head.

    With `bleed`, `kind` names the haemorrhage (else it is drawn by `BLEED_SHARES`) and `volume_ml`
    bounds the volume of a parenchymal clot. Benign bright structures are equally frequent either way.
    """
    lesion = no_lesion()
    if bleed:
        kinds = list(BLEED_SHARES)
        drawn = kinds[int(rng.choice(len(kinds), p=list(BLEED_SHARES.values())))]
        lesion = draw_lesion(rng, kind or drawn, volume_ml)
    grey = float(rng.uniform(34, 41))
    atrophy = float(rng.beta(1.3, 2.0))
    radius = float(rng.uniform(66, 78))
    skull = Skull(
        radii=(radius, radius * float(rng.uniform(1.14, 1.34)), float(rng.uniform(84, 96))),
        power=float(rng.uniform(2.0, 2.5)),
        egg=float(rng.uniform(-0.02, 0.10)),
        thickness=float(rng.uniform(4.5, 8.5)),
        asymmetry=float(rng.uniform(-0.15, 0.15)),
        scalp=float(rng.uniform(3, 8)),
        floors=(float(rng.uniform(-20, -14)), float(rng.uniform(-42, -34)), float(rng.uniform(-66, -58))),
        relief=float(rng.uniform(2, 5)),
        bone=float(rng.uniform(700, 1300)),
    )
    infarct = None
    if not bleed and chance(rng, 0.25):
        radii = (float(rng.uniform(9, 22)), float(rng.uniform(12, 30)), float(rng.uniform(12, 30)))
        centre = (float(rng.choice([-1, 1])) * 38.0, float(rng.uniform(-40, 50)), float(rng.uniform(0, 35)))
        infarct = Speck(centre, radii, float(rng.uniform(-16, -7)), 0.15)
    return Phantom(
        skull=skull,
        fluid=_draw_fluid(rng, atrophy),
        lesion=lesion,
        grey=grey,
        white=grey - float(rng.uniform(4, 10)),
        csf=float(rng.uniform(3, 12)),
        fold_wavelength=float(rng.uniform(24, 36)),
        fold_phases=tuple(float(value) for value in rng.uniform(0, 2 * np.pi, 6)),
        sulcus=0.03 + 0.22 * atrophy,
        sulcus_depth=float(rng.uniform(9, 15)) + 8 * atrophy,
        falx=float(rng.uniform(42, 62)),
        sinus=float(rng.uniform(44, 70)),
        cupping=float(rng.uniform(-3, 7)),
        bars=float(rng.uniform(-14, 10)),
        specks=_draw_specks(rng),
        infarct=infarct,
    )


def _draw_fluid(rng: np.random.Generator, atrophy: float) -> Fluid:
    width = log_uniform(rng, 0.7, 1.4) * (1 + 0.7 * atrophy)
    gap = 7 + 4 * width
    ventricles: list[tuple[Point, Point, float, float]] = [
        ((0.0, -8.0, 2.0), (0.0, 12.0, 2.0), 1.6 * width, 2.0 * width),
        ((0.0, 33.0, -34.0), (0.0, 38.0, -30.0), 4.0 * width, 5.0 * width),
    ]
    cisterns: list[tuple[Point, Point, float, float]] = [
        ((0.0, -16.0, -20.0), (0.0, -4.0, -20.0), 7 + 4 * atrophy, 8 + 4 * atrophy),
        ((0.0, 24.0, -4.0), (0.0, 26.0, 4.0), 4 + 3 * atrophy, 3 + 3 * atrophy),
    ]
    for side in (-1.0, 1.0):
        swell = width * float(rng.uniform(0.8, 1.25))
        body, horn = (side * gap, 12.0, 24.0), (side * (gap + 2), -34.0, 14.0)
        atrium = (side * (gap + 14), 40.0, 12.0)
        ventricles += [
            (horn, (side * gap, -14.0, 20.0), 3.6 * swell, 3.6 * swell),
            ((side * gap, -14.0, 20.0), body, 3.6 * swell, 3.8 * swell),
            (body, atrium, 3.8 * swell, 5.0 * swell),
            (atrium, (side * (gap + 10), 62.0, 6.0), 4.4 * swell, 2.0 * swell),
            (atrium, (side * (gap + 20), 6.0, -18.0), 3.2 * swell, 2.0 * swell),
        ]
        narrow = 1.0 + 3.5 * atrophy
        cisterns += [
            ((side * 40.0, -18.0, 0.0), (side * 38.0, 14.0, 8.0), narrow, narrow),
            ((side * 40.0, -10.0, 2.0), (side * 62.0, -8.0, 4.0), narrow, narrow + 1),
            ((side * 10.0, -16.0, -20.0), (side * 36.0, -24.0, -14.0), narrow, narrow),
            ((side * 16.0, 2.0, -12.0), (side * 9.0, 22.0, -8.0), narrow, narrow),
        ]
    return Fluid(tuple(ventricles), tuple(cisterns))


def _draw_specks(rng: np.random.Generator) -> tuple[Speck, ...]:
    """Calcifications and vessels, as frequent in heads with a bleed as in heads without."""
    specks: list[Speck] = []

    def add(centre: Point, radius: float, hu: float, edge: float = 0.15) -> None:
        jitter = rng.uniform(-1.5, 1.5, 3)
        moved = (centre[0] + float(jitter[0]), centre[1] + float(jitter[1]), centre[2] + float(jitter[2]))
        radii = tuple(radius * float(value) for value in rng.uniform(0.7, 1.4, 3))
        specks.append(Speck(moved, (radii[0], radii[1], radii[2]), hu, edge))

    if chance(rng, 0.5):
        add((0.0, 22.0, 4.0), float(rng.uniform(1.5, 3.5)), float(rng.uniform(80, 300)))
    choroid, ganglia = chance(rng, 0.5), chance(rng, 0.12)
    for side in (-1.0, 1.0):
        if choroid:
            add((side * 24.0, 40.0, 12.0), float(rng.uniform(2, 4.5)), float(rng.uniform(70, 280)))
        if ganglia:
            add((side * 21.0, -2.0, 3.0), float(rng.uniform(2, 6)), float(rng.uniform(48, 120)), 0.4)
        if chance(rng, 0.5):
            add((side * 8.0, -10.0, -18.0), float(rng.uniform(1.2, 2.2)), float(rng.uniform(45, 62)))
    if chance(rng, 0.15):
        specks.append(Speck((0.0, -50.0, 40.0), (1.5, float(rng.uniform(5, 14)), 8.0), 220.0, 0.2))
    if chance(rng, 0.3):  # partial volume over the roof of an orbit
        side = float(rng.choice([-1.0, 1.0]))
        specks.append(Speck((side * 32.0, -55.0, -14.0), (14.0, 12.0, 3.0), float(rng.uniform(45, 75)), 0.3))
    return tuple(specks)
