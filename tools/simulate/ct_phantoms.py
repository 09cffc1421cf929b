"""Procedural CT slices for the denoiser: two families to train on, a third to test on.

Every family draws its own kinds of shape, so that a model that only remembers training shapes fails
on the held-out family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from tools.simulate.ct import Acquisition, Image, Kernel, KernelName, Phantom

AIR_HU = -1000.0
_FINE = 2
"""Phantoms are drawn on a grid this many times finer and then averaged."""

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Blob:
    """A star-shaped region: a superellipse with a wavy outline. Lengths in pixels, angle in radians."""

    row: float
    column: float
    height: float
    width: float
    angle: float = 0.0
    power: float = 2.0
    waves: tuple[tuple[int, float, float], ...] = ()
    softness: float = 0.5


class Canvas:
    """A slice while it is drawn, on the fine grid; coordinates are in pixels of the final grid."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng = size, rng
        self.hu = np.full((size * _FINE, size * _FINE), AIR_HU, np.float32)

    def alpha(self, blob: Blob) -> tuple[tuple[slice, slice], _Array]:
        """Coverage 0..1 of `blob` over its bounding box, and that box."""
        wave_reach = 1.0 + sum(abs(amount) for _, amount, _ in blob.waves)
        reach = max(blob.height, blob.width) * wave_reach * 1.2 + 2.0 + blob.softness
        top, bottom = _span(blob.row, reach, self.size)
        left, right = _span(blob.column, reach, self.size)
        rows = (np.arange(top, bottom) + 0.5)[:, None] / _FINE - blob.row
        columns = (np.arange(left, right) + 0.5)[None, :] / _FINE - blob.column
        cosine, sine = np.cos(blob.angle), np.sin(blob.angle)
        along = (columns * cosine + rows * sine) / blob.width
        across = (rows * cosine - columns * sine) / blob.height
        radius = (np.abs(along) ** blob.power + np.abs(across) ** blob.power) ** (1.0 / blob.power)
        if blob.waves:
            direction = np.arctan2(across, along)
            outline = np.ones_like(radius)
            for count, amount, phase in blob.waves:
                outline += amount * np.cos(count * direction + phase)
            radius = radius / outline
        distance = (1.0 - radius) * min(blob.height, blob.width)
        return (slice(top, bottom), slice(left, right)), np.clip(distance / blob.softness + 0.5, 0.0, 1.0)

    def paint(self, blob: Blob, hu: float, within: NDArray[np.bool_] | None = None) -> None:
        """Blend the region with `hu`, only where `within` (fine grid) is True if it is given."""
        box, alpha = self.alpha(blob)
        if within is not None:
            alpha = alpha * within[box]
        self.hu[box] += (alpha * (hu - self.hu[box])).astype(np.float32)

    def add(self, blob: Blob, hu: float, within: NDArray[np.bool_]) -> None:
        """Raise the region by `hu` where `within` (fine grid) is True."""
        box, alpha = self.alpha(blob)
        self.hu[box] += (alpha * within[box] * hu).astype(np.float32)

    def covered(self, blob: Blob) -> NDArray[np.bool_]:
        """The fine-grid mask of the region."""
        box, alpha = self.alpha(blob)
        mask = np.zeros(self.hu.shape, np.bool_)
        mask[box] = alpha >= 0.5
        return mask

    def texture(self, within: NDArray[np.bool_], amount_hu: float, slope: float) -> None:
        """Add tissue texture: a random field whose power falls with frequency to the `slope`."""
        field = power_law_field(self.hu.shape[0], slope, self.rng)
        self.hu[within] += (amount_hu * field[within]).astype(np.float32)

    def finish(self, body: NDArray[np.bool_]) -> Phantom:
        """Average to the final grid."""
        shape = (self.size, _FINE, self.size, _FINE)
        coverage = body.reshape(shape).mean(axis=(1, 3))
        hu = np.clip(self.hu, -1024.0, 3000.0).reshape(shape).mean(axis=(1, 3))
        return Phantom(hu.astype(np.float32), coverage > 0.5)


def power_law_field(size: int, slope: float, rng: np.random.Generator) -> Image:
    """A random field of unit standard deviation with the power spectrum f^-slope: (size, size)."""
    radius = np.hypot(fft.fftfreq(size)[:, None], fft.rfftfreq(size)[None, :])
    radius[0, 0] = 1.0
    spectrum = fft.rfft2(rng.standard_normal((size, size), np.float32)) * radius ** (-slope / 2)
    spectrum[radius < 3.0 / size] = 0.0
    field = fft.irfft2(spectrum, s=(size, size))
    return np.asarray(field / field.std(), np.float32)


def _span(centre: float, reach: float, size: int) -> tuple[int, int]:
    low = int(np.clip((centre - reach) * _FINE, 0, size * _FINE))
    high = int(np.clip((centre + reach) * _FINE + 1, 0, size * _FINE))
    return low, high


def _waves(rng: np.random.Generator, amount: float) -> tuple[tuple[int, float, float], ...]:
    return tuple(
        (count, float(rng.normal(0.0, amount / count)), float(rng.uniform(0, 2 * np.pi)))
        for count in range(2, 6)
    )


def _inside(rng: np.random.Generator, body: Blob, reach: float) -> tuple[float, float]:
    """A random place in the body, at most `reach` (0..1) of the way to its outline."""
    distance, direction = reach * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
    row = body.row + distance * body.height * np.sin(direction)
    return float(row), float(body.column + distance * body.width * np.cos(direction))


def torso(size: int, rng: np.random.Generator) -> Phantom:
    """Training family 1: trunk with fat, organs, vessels, bones, gas and, in half of them, lungs."""
    canvas = Canvas(size, rng)
    unit = size / 256.0
    middle = size / 2
    width = rng.uniform(80, 118) * unit
    body = Blob(
        middle + rng.uniform(-6, 6) * unit,
        middle + rng.uniform(-6, 6) * unit,
        min(width * rng.uniform(0.6, 0.95), 112 * unit),
        width,
        rng.uniform(-0.2, 0.2),
        rng.uniform(2.0, 2.8),
        _waves(rng, 0.04),
        rng.uniform(0.5, 2.0),
    )
    fat = rng.uniform(2, 22) * unit
    muscle = Blob(
        body.row, body.column, body.height - fat, body.width - fat, body.angle, body.power, body.waves, 1.0
    )
    canvas.paint(body, rng.uniform(-120, -80))
    canvas.paint(muscle, rng.uniform(30, 70))
    inner = canvas.covered(muscle)
    for _ in range(rng.integers(8, 26)):
        row, column = _inside(rng, muscle, 0.85)
        height = rng.uniform(4, 40) * unit
        organ = Blob(
            row,
            column,
            height,
            height * rng.uniform(0.5, 2.0),
            rng.uniform(0, np.pi),
            rng.uniform(1.6, 3.0),
            _waves(rng, 0.15),
            rng.choice([0.6, 1.0, 3.0]),
        )
        canvas.paint(organ, rng.choice([rng.uniform(-20, 130), rng.uniform(-110, -70)], p=[0.8, 0.2]), inner)
    if rng.uniform() < 0.5:
        _lungs(canvas, muscle, unit)
    _small_parts(canvas, muscle, inner, unit)
    _strands(canvas, muscle, inner, unit)
    body_mask = canvas.covered(body)
    canvas.texture(body_mask, rng.choice([0.0, rng.uniform(0.5, 7)], p=[0.4, 0.6]), rng.uniform(1.8, 3.4))
    if rng.uniform() < 0.5:  # table
        canvas.paint(Blob(body.row + body.height + 5 * unit, middle, 2 * unit, 90 * unit), -200.0)
    return canvas.finish(body_mask)


def _lungs(canvas: Canvas, trunk: Blob, unit: float) -> None:
    rng = canvas.rng
    for side in (-1, 1):
        lung = Blob(
            trunk.row - 0.1 * trunk.height,
            trunk.column + side * 0.45 * trunk.width,
            trunk.height * rng.uniform(0.55, 0.75),
            trunk.width * rng.uniform(0.25, 0.36),
            side * rng.uniform(0.0, 0.2),
            2.2,
            _waves(rng, 0.06),
            1.5,
        )
        canvas.paint(lung, rng.uniform(-900, -760))
        air = canvas.covered(lung)
        canvas.texture(air, rng.uniform(3, 25), rng.uniform(1.8, 3.2))
        for _ in range(rng.integers(40, 120)):
            row, column = _inside(rng, lung, 0.95)
            thickness = rng.uniform(0.6, 3.0) * unit
            length = thickness * rng.choice([1.0, rng.uniform(2, 9)])
            canvas.paint(
                Blob(row, column, thickness, length, rng.uniform(0, np.pi)), rng.uniform(-500, 40), air
            )


def _small_parts(canvas: Canvas, trunk: Blob, inner: NDArray[np.bool_], unit: float) -> None:
    rng = canvas.rng
    for _ in range(rng.integers(2, 12)):  # bones: a shell around marrow
        row, column = _inside(rng, trunk, 0.95)
        radius = rng.uniform(3, 14) * unit
        shell = Blob(
            row, column, radius, radius * rng.uniform(0.7, 1.6), rng.uniform(0, np.pi), 2.0, _waves(rng, 0.1)
        )
        marrow = Blob(row, column, shell.height * 0.7, shell.width * 0.7, shell.angle, 2.0, shell.waves, unit)
        canvas.paint(shell, rng.uniform(400, 1300), inner)
        canvas.paint(marrow, rng.uniform(80, 350), inner)
    for _ in range(rng.integers(10, 50)):  # vessels, lesions, fat strands, gas
        row, column = _inside(rng, trunk, 0.9)
        radius = rng.uniform(0.8, 5) * unit
        contrast = rng.choice(
            [rng.uniform(-30, 90), rng.uniform(120, 350), rng.uniform(-120, -60), -900.0],
            p=[0.55, 0.25, 0.15, 0.05],
        )
        stretch = rng.choice([1.0, rng.uniform(1, 8)])
        canvas.paint(
            Blob(row, column, radius, radius * stretch, rng.uniform(0, np.pi), softness=rng.uniform(0.5, 2)),
            float(contrast),
            inner,
        )


def _strands(canvas: Canvas, trunk: Blob, inner: NDArray[np.bool_], unit: float) -> None:
    """Fine structure of low contrast, which a denoiser must not take for noise."""
    rng = canvas.rng
    largest = rng.uniform(4, 30)
    for _ in range(rng.integers(0, 160)):
        row, column = _inside(rng, trunk, 0.95)
        thickness = rng.uniform(0.6, 2.5) * unit
        strand = Blob(
            row,
            column,
            thickness,
            thickness * rng.uniform(1, 14),
            rng.uniform(0, np.pi),
            rng.uniform(1.5, 4.0),
            softness=rng.uniform(0.5, 1.5),
        )
        canvas.add(strand, float(rng.uniform(-largest, largest)), inner)


def leaves(size: int, rng: np.random.Generator) -> Phantom:
    """Training family 2: "dead leaves", overlapping regions of all sizes (Lee, Mumford, Huang 2001)."""
    canvas = Canvas(size, rng)
    unit = size / 256.0
    middle = size / 2
    disc = Blob(
        middle, middle, rng.uniform(70, 118) * unit, rng.uniform(70, 118) * unit, waves=_waves(rng, 0.03)
    )
    canvas.paint(disc, rng.uniform(-20, 80))
    within = canvas.covered(disc)
    for _ in range(rng.integers(60, 220)):
        row, column = _inside(rng, disc, 1.0)
        radius = 1.2 * unit / max(rng.uniform(0.0, 1.0), 0.02)
        hu = rng.choice(
            [rng.uniform(-30, 110), rng.uniform(-130, -60), rng.uniform(-950, -500), rng.uniform(200, 1400)],
            p=[0.66, 0.14, 0.07, 0.13],
        )
        leaf = Blob(
            row,
            column,
            radius,
            radius * rng.uniform(0.3, 2.5),
            rng.uniform(0, np.pi),
            rng.uniform(1.2, 6.0),
            _waves(rng, 0.1),
            rng.choice([0.5, 1.0, 2.5, 6.0]),
        )
        canvas.paint(leaf, float(hu), within)
    _strands(canvas, disc, within, unit)
    canvas.texture(within, rng.choice([0.0, rng.uniform(0.5, 7)], p=[0.4, 0.6]), rng.uniform(1.8, 3.4))
    return canvas.finish(within)


def head(size: int, rng: np.random.Generator) -> Phantom:
    """The held-out family: a skull with folded brain, ventricles, straight-edged inserts and bar patterns.

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
    width = rng.uniform(4, 7) * unit * _FINE
    field = ndimage.gaussian_filter(noise, width) - ndimage.gaussian_filter(noise, 1.6 * width)
    field /= field.std()
    depth = ndimage.distance_transform_edt(cavity)
    cortex = cavity & (depth < rng.uniform(20, 34) * unit * _FINE)
    gray, white, fluid = rng.uniform(35, 44), rng.uniform(24, 32), rng.uniform(2, 12)
    canvas.hu[cavity] = white
    ribbon = cortex & (np.abs(field) < rng.uniform(0.5, 0.8))
    canvas.hu[ribbon | (cavity & (depth < 5 * unit * _FINE))] = gray
    canvas.hu[cortex & (np.abs(field) < rng.uniform(0.05, 0.2))] = fluid


def _inserts(canvas: Canvas, brain: Blob, cavity: NDArray[np.bool_], unit: float) -> None:
    rng = canvas.rng
    rows, columns = (np.mgrid[0 : canvas.hu.shape[0], 0 : canvas.hu.shape[1]] + 0.5) / _FINE
    for _ in range(rng.integers(5, 14)):
        row, column = _inside(rng, brain, 0.75)
        radius = rng.uniform(2, 20) * unit
        inside = cavity.copy()
        sides = int(rng.integers(3, 7))
        for direction in rng.uniform(0, 2 * np.pi) + 2 * np.pi / sides * np.arange(sides):
            inside &= (columns - column) * np.cos(direction) + (rows - row) * np.sin(direction) < radius
        change = rng.choice(
            [rng.uniform(3, 14), rng.uniform(-25, -5), rng.uniform(25, 50), 700.0], p=[0.4, 0.3, 0.25, 0.05]
        )
        canvas.hu[inside] += np.float32(change)
    row, column = _inside(rng, brain, 0.5)
    pitch = rng.uniform(4, 9) * unit
    direction = rng.uniform(0, np.pi)
    along = (columns - column) * np.cos(direction) + (rows - row) * np.sin(direction)
    across = (rows - row) * np.cos(direction) - (columns - column) * np.sin(direction)
    bars = (np.abs(along) < 2.5 * pitch) & (np.abs(across) < 2.0 * pitch) & (np.mod(along, pitch) < pitch / 2)
    canvas.hu[bars & cavity] += np.float32(rng.uniform(20, 80))


Family = Callable[[int, np.random.Generator], Phantom]
TRAINING_FAMILIES: Mapping[str, Family] = MappingProxyType({"torso": torso, "leaves": leaves})
HELD_OUT_FAMILIES: Mapping[str, Family] = MappingProxyType({"head": head})


def training_acquisition(rng: np.random.Generator, noise_hu: float) -> Acquisition:
    """The acquisition ranges to train on."""
    names: list[KernelName] = ["hann", "shepp-logan", "ram-lak", "edge"]
    name = names[int(rng.integers(len(names)))]
    boost = float(rng.uniform(0.0, 1.5)) if name == "edge" else 0.0
    return Acquisition(
        kernel=Kernel(name, float(rng.uniform(0.55, 1.0)), boost),
        pixel_mm=float(rng.uniform(1.0, 1.7)),
        noise_hu=noise_hu,
        electronic=float(rng.uniform(3.0, 10.0)),
        bowtie=float(rng.uniform(0.0, 0.8)),
        views=360,
    )


def held_out_acquisition(rng: np.random.Generator, noise_hu: float) -> Acquisition:
    """The held-out acquisition ranges: other kernels, pixel sizes, detector noise, bow-tie and views."""
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
