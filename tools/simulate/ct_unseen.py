"""Procedural CT slices that nothing is trained on: `head` to develop with, `limb` for the verdict.

Both draw kinds of shape that no training family draws, and are scanned in ranges of their own. Results
on `head` have steered the model; `limb` is for the published figures alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, spatial

from tools.simulate.ct import Acquisition, Kernel, Phantom
from tools.simulate.ct_phantoms import FINE, Blob, Canvas, Family, inside, waves

_Mask = NDArray[np.bool_]


def head(size: int, rng: np.random.Generator) -> Phantom:
    """The development family: a skull with folded brain, ventricles, straight-edged inserts and bar patterns.

    Folds are the level sets of band-passed noise and inserts are polygons and bars: shapes that no
    training family draws.
    """
    canvas = Canvas(size, rng)
    unit = size / 256.0
    middle = size / 2
    skin = Blob(
        middle + rng.uniform(-10, 10) * unit,
        middle + rng.uniform(-10, 10) * unit,
        rng.uniform(92, 110) * unit,
        rng.uniform(74, 94) * unit,
        rng.uniform(-0.3, 0.3),
        2.1,
        ((2, float(rng.normal(0, 0.02)), 0.0), (3, float(rng.normal(0, 0.02)), 1.0)),
        1.0,
    )
    layers = [(0.0, rng.uniform(-60, 30)), (rng.uniform(3, 7), rng.uniform(900, 1500))]
    layers.append((layers[1][0] + rng.uniform(1.5, 4), rng.uniform(300, 650)))
    layers.append((layers[2][0] + rng.uniform(1, 3), rng.uniform(900, 1500)))
    layers.append((layers[3][0] + rng.uniform(1.5, 3), rng.uniform(2, 14)))
    brain = skin
    for depth, hu in layers:
        height, width = skin.height - depth * unit, skin.width - depth * unit
        brain = Blob(skin.row, skin.column, height, width, skin.angle, 2.1, skin.waves, 1.0)
        canvas.paint(brain, hu)
    cavity = canvas.covered(brain)
    _folds(canvas, cavity, unit)
    _inserts(canvas, brain, cavity, unit)
    canvas.texture(cavity, rng.uniform(0.5, 4.0), rng.uniform(1.5, 3.0))
    return canvas.finish(canvas.covered(skin))


def _folds(canvas: Canvas, cavity: NDArray[np.bool_], unit: float) -> None:
    rng = canvas.rng
    side = canvas.hu.shape[0]
    noise = rng.standard_normal((side, side), np.float32)
    width = rng.uniform(4, 7) * unit * FINE
    field = ndimage.gaussian_filter(noise, width) - ndimage.gaussian_filter(noise, 1.6 * width)
    field /= field.std()
    depth = ndimage.distance_transform_edt(cavity)
    cortex = cavity & (depth < rng.uniform(20, 34) * unit * FINE)
    gray, white, fluid = rng.uniform(35, 44), rng.uniform(24, 32), rng.uniform(2, 12)
    canvas.hu[cavity] = white
    ribbon = cortex & (np.abs(field) < rng.uniform(0.5, 0.8))
    canvas.hu[ribbon | (cavity & (depth < 5 * unit * FINE))] = gray
    canvas.hu[cortex & (np.abs(field) < rng.uniform(0.05, 0.2))] = fluid


def _inserts(canvas: Canvas, brain: Blob, cavity: NDArray[np.bool_], unit: float) -> None:
    rng = canvas.rng
    rows, columns = (np.mgrid[0 : canvas.hu.shape[0], 0 : canvas.hu.shape[1]] + 0.5) / FINE
    for _ in range(rng.integers(5, 14)):
        row, column = inside(rng, brain, 0.75)
        radius = rng.uniform(2, 20) * unit
        polygon = cavity.copy()
        sides = int(rng.integers(3, 7))
        for direction in rng.uniform(0, 2 * np.pi) + 2 * np.pi / sides * np.arange(sides):
            polygon &= (columns - column) * np.cos(direction) + (rows - row) * np.sin(direction) < radius
        change = rng.choice(
            [rng.uniform(3, 14), rng.uniform(-25, -5), rng.uniform(25, 50), 700.0], p=[0.4, 0.3, 0.25, 0.05]
        )
        canvas.hu[polygon] += np.float32(change)
    row, column = inside(rng, brain, 0.5)
    pitch = rng.uniform(4, 9) * unit
    direction = rng.uniform(0, np.pi)
    along = (columns - column) * np.cos(direction) + (rows - row) * np.sin(direction)
    across = (rows - row) * np.cos(direction) - (columns - column) * np.sin(direction)
    bars = (np.abs(along) < 2.5 * pitch) & (np.abs(across) < 2.0 * pitch) & (np.mod(along, pitch) < pitch / 2)
    canvas.hu[bars & cavity] += np.float32(rng.uniform(20, 80))


def limb(size: int, rng: np.random.Generator) -> Phantom:
    """The held-out family: skin, lobed fat, striped muscles in cells, spongy bone, branching vessels, discs.

    Cells and spongy bone are Voronoi tessellations (nearest of random points), vessels random walks.
    """
    canvas = Canvas(size, rng)
    unit = size / 256.0
    middle = size / 2
    height = rng.uniform(70, 112) * unit
    limits = (waves(rng, 0.03), rng.uniform(0, np.pi), rng.uniform(1.9, 2.5))
    skin = Blob(middle, middle, height, height * rng.uniform(0.75, 1.0), limits[1], limits[2], limits[0], 0.8)
    depths = np.cumsum([0.0, rng.uniform(1, 2.5), rng.uniform(2, 18)]) * unit
    layers = [
        Blob(middle, middle, skin.height - depth, skin.width - depth, skin.angle, skin.power, skin.waves, 0.8)
        for depth in depths
    ]
    for layer, hu in zip(layers, (rng.uniform(30, 80), rng.uniform(-115, -90), 50.0), strict=True):
        canvas.paint(layer, float(hu))
    whole, below_skin, muscle = (canvas.covered(layer) for layer in layers)
    _, walls = _cells(canvas, rng.uniform(10, 24) * unit, rng.uniform(0.4, 1.0) * unit)
    canvas.hu[below_skin & ~muscle & walls] += np.float32(rng.uniform(15, 70))
    _muscles(canvas, muscle, unit)
    _discs(canvas, layers[2], muscle, unit)
    for _ in range(rng.integers(1, 4)):
        _vessel(canvas, layers[2], muscle, unit)
    for _ in range(rng.integers(1, 3)):
        _spongy_bone(canvas, layers[2], muscle, unit)
    ramp = np.linspace(-1.0, 1.0, canvas.hu.shape[0])[:, None] * np.ones_like(canvas.hu)
    canvas.hu[whole] += (rng.uniform(-8, 8) * ramp[whole]).astype(np.float32)
    return canvas.finish(whole)


def _cells(canvas: Canvas, spacing: float, thickness: float) -> tuple[NDArray[np.intp], _Mask]:
    """Random cells about `spacing` pixels wide: the number of each pixel's cell, and True on the walls."""
    side = canvas.hu.shape[0]
    count = int((side / FINE / spacing) ** 2) + 4
    tree = spatial.cKDTree(canvas.rng.uniform(0, side, (count, 2)))
    distances, nearest = tree.query(np.indices((side, side)).reshape(2, -1).T, k=2)
    walls = (distances[:, 1] - distances[:, 0]) < 2.0 * thickness * FINE
    return nearest[:, 0].reshape(side, side), walls.reshape(side, side)


def _muscles(canvas: Canvas, muscle: _Mask, unit: float) -> None:
    rng = canvas.rng
    rows, columns = np.indices(canvas.hu.shape) / FINE
    cell, walls = _cells(canvas, rng.uniform(18, 45) * unit, rng.uniform(0.3, 1.2) * unit)
    count = int(cell.max()) + 1
    direction, period = rng.uniform(0, np.pi, count)[cell], (rng.uniform(3.0, 9.0, count) * unit)[cell]
    stripes = np.sin(2 * np.pi * (rows * np.cos(direction) + columns * np.sin(direction)) / period)
    values = rng.uniform(42, 68, count)[cell] + rng.uniform(0, 7, count)[cell] * stripes
    canvas.hu[muscle] = values[muscle].astype(np.float32)
    canvas.hu[muscle & walls] = np.float32(rng.uniform(-90, 30))


def _spongy_bone(canvas: Canvas, limb_blob: Blob, muscle: _Mask, unit: float) -> None:
    rng = canvas.rng
    row, column = inside(rng, limb_blob, 0.5)
    radius = rng.uniform(12, 32) * unit
    bone = Blob(
        row, column, radius, radius * rng.uniform(0.6, 1.2), rng.uniform(0, np.pi), 2.6, waves(rng, 0.08)
    )
    shell = rng.uniform(1.5, 6) * unit
    marrow = Blob(row, column, bone.height - shell, bone.width - shell, bone.angle, 2.6, bone.waves)
    canvas.paint(bone, rng.uniform(900, 1700), muscle)
    canvas.paint(marrow, rng.uniform(-70, 60), muscle)
    _, walls = _cells(canvas, rng.uniform(3.5, 8) * unit, rng.uniform(0.3, 0.7) * unit)
    canvas.hu[canvas.covered(marrow) & muscle & walls] += np.float32(rng.uniform(80, 450))


def _vessel(canvas: Canvas, limb_blob: Blob, muscle: _Mask, unit: float) -> None:
    """A tree of discs along random walks: narrower at every branch, with contrast agent or without."""
    rng = canvas.rng
    hu = float(rng.choice([rng.uniform(20, 45), rng.uniform(120, 400)]))
    row, column = inside(rng, limb_blob, 0.7)
    ends = [(row, column, rng.uniform(0, 2 * np.pi), rng.uniform(1.0, 4.0) * unit)]
    for _ in range(160):
        row, column, heading, radius = ends.pop(0)
        canvas.paint(Blob(row, column, radius, radius), hu, muscle)
        heading += rng.normal(0.0, 0.25)
        step = max(0.7 * radius, 0.6 * unit)
        moved = (row + step * np.sin(heading), column + step * np.cos(heading))
        if rng.uniform() < 0.08 and radius > 0.7 * unit:
            ends += [(*moved, heading + turn, 0.75 * radius) for turn in (-0.6, 0.6)]
        else:
            ends.append((*moved, heading, 0.99 * radius))


def _discs(canvas: Canvas, limb_blob: Blob, muscle: _Mask, unit: float) -> None:
    """A row of discs of low contrast, from large to small."""
    rng = canvas.rng
    row, column = inside(rng, limb_blob, 0.6)
    heading, contrast = rng.uniform(0, 2 * np.pi), float(rng.choice([-1, 1]) * rng.uniform(4, 25))
    for radius in (6.0, 4.5, 3.2, 2.2, 1.4):
        canvas.add(Blob(row, column, radius * unit, radius * unit, softness=0.5), contrast, muscle)
        row, column = row + 14 * unit * np.sin(heading), column + 14 * unit * np.cos(heading)


def development_acquisition(rng: np.random.Generator, noise_hu: float) -> Acquisition:
    """The acquisition ranges of the development family: other kernels, pixels, detectors, bow-ties, views."""
    kernel = (
        Kernel("butterworth", float(rng.uniform(0.4, 0.6)))
        if rng.uniform() < 0.5
        else Kernel("sharp", 1.0, float(rng.uniform(1.6, 3.0)))
    )
    return Acquisition(
        kernel=kernel,
        pixel_mm=float(rng.uniform(0.7, 0.95)),
        noise_hu=noise_hu,
        electronic=float(rng.uniform(10.0, 15.0)),
        bowtie=float(rng.uniform(0.9, 1.4)),
        views=288,
    )


def held_out_acquisition(rng: np.random.Generator, noise_hu: float) -> Acquisition:
    """The held-out acquisition ranges, apart from those of training and development."""
    kernel = (
        Kernel("gaussian", float(rng.uniform(0.45, 0.9)))
        if rng.uniform() < 0.5
        else Kernel("bone", 1.0, float(rng.uniform(0.5, 2.5)))
    )
    return Acquisition(
        kernel=kernel,
        pixel_mm=float(rng.uniform(0.45, 0.65)),
        noise_hu=noise_hu,
        electronic=float(rng.uniform(16.0, 22.0)),
        bowtie=float(rng.uniform(1.4, 1.7)),
        views=320,
    )


DEVELOPMENT_FAMILIES: Mapping[str, Family] = MappingProxyType({"head": head})
HELD_OUT_FAMILIES: Mapping[str, Family] = MappingProxyType({"limb": limb})
