"""Procedural CT slices to train the denoiser on: two families, and the acquisitions that go with them.

What nothing is trained on lies in `ct_unseen.py`, and draws other kinds of shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from tools.simulate.ct import Acquisition, Image, Kernel, KernelName, Phantom

AIR_HU = -1000.0
FINE = 2
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
        self.hu = np.full((size * FINE, size * FINE), AIR_HU, np.float32)

    def alpha(self, blob: Blob) -> tuple[tuple[slice, slice], _Array]:
        """Coverage 0..1 of `blob` over its bounding box, and that box."""
        wave_reach = 1.0 + sum(abs(amount) for _, amount, _ in blob.waves)
        reach = max(blob.height, blob.width) * wave_reach * 1.2 + 2.0 + blob.softness
        top, bottom = _span(blob.row, reach, self.size)
        left, right = _span(blob.column, reach, self.size)
        rows = (np.arange(top, bottom) + 0.5)[:, None] / FINE - blob.row
        columns = (np.arange(left, right) + 0.5)[None, :] / FINE - blob.column
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
        shape = (self.size, FINE, self.size, FINE)
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


def band_field(size: int, wavelength: float, rng: np.random.Generator) -> Image:
    """A random field of unit standard deviation with waves about `wavelength` pixels long: (size, size)."""
    radius = np.hypot(fft.fftfreq(size)[:, None], fft.rfftfreq(size)[None, :]) * wavelength
    spectrum = fft.rfft2(rng.standard_normal((size, size), np.float32)) * np.exp(-2.0 * (radius - 1.0) ** 2)
    field = fft.irfft2(spectrum, s=(size, size))
    return np.asarray(field / field.std(), np.float32)


def _span(centre: float, reach: float, size: int) -> tuple[int, int]:
    low = int(np.clip((centre - reach) * FINE, 0, size * FINE))
    high = int(np.clip((centre + reach) * FINE + 1, 0, size * FINE))
    return low, high


def waves(rng: np.random.Generator, amount: float) -> tuple[tuple[int, float, float], ...]:
    return tuple(
        (count, float(rng.normal(0.0, amount / count)), float(rng.uniform(0, 2 * np.pi)))
        for count in range(2, 6)
    )


def inside(rng: np.random.Generator, body: Blob, reach: float) -> tuple[float, float]:
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
        waves(rng, 0.04),
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
        row, column = inside(rng, muscle, 0.85)
        height = rng.uniform(4, 40) * unit
        organ = Blob(
            row,
            column,
            height,
            height * rng.uniform(0.5, 2.0),
            rng.uniform(0, np.pi),
            rng.uniform(1.6, 3.0),
            waves(rng, 0.15),
            rng.choice([0.6, 1.0, 3.0]),
        )
        canvas.paint(organ, rng.choice([rng.uniform(-20, 130), rng.uniform(-110, -70)], p=[0.8, 0.2]), inner)
    if rng.uniform() < 0.5:
        _lungs(canvas, muscle, unit)
    _small_parts(canvas, muscle, inner, unit)
    _strands(canvas, muscle, inner, unit)
    body_mask = canvas.covered(body)
    _bone_shells(canvas, muscle, inner, unit)
    _textured_regions(canvas, muscle, inner, unit)
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
            waves(rng, 0.06),
            1.5,
        )
        canvas.paint(lung, rng.uniform(-900, -760))
        air = canvas.covered(lung)
        canvas.texture(air, rng.uniform(3, 25), rng.uniform(1.8, 3.2))
        for _ in range(rng.integers(40, 120)):
            row, column = inside(rng, lung, 0.95)
            thickness = rng.uniform(0.6, 3.0) * unit
            length = thickness * rng.choice([1.0, rng.uniform(2, 9)])
            canvas.paint(
                Blob(row, column, thickness, length, rng.uniform(0, np.pi)), rng.uniform(-500, 40), air
            )


def _small_parts(canvas: Canvas, trunk: Blob, inner: NDArray[np.bool_], unit: float) -> None:
    rng = canvas.rng
    for _ in range(rng.integers(2, 12)):  # bones: a shell around marrow
        row, column = inside(rng, trunk, 0.95)
        radius = rng.uniform(3, 14) * unit
        shell = Blob(
            row, column, radius, radius * rng.uniform(0.7, 1.6), rng.uniform(0, np.pi), 2.0, waves(rng, 0.1)
        )
        marrow = Blob(row, column, shell.height * 0.7, shell.width * 0.7, shell.angle, 2.0, shell.waves, unit)
        canvas.paint(shell, rng.uniform(400, 1300), inner)
        canvas.paint(marrow, rng.uniform(80, 350), inner)
    for _ in range(rng.integers(10, 50)):  # vessels, lesions, fat strands, gas
        row, column = inside(rng, trunk, 0.9)
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
        row, column = inside(rng, trunk, 0.95)
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


def _bone_shells(canvas: Canvas, trunk: Blob, inner: NDArray[np.bool_], unit: float) -> None:
    """Closed layers of bone around what is there, small or as large as the trunk, in 60 % of the slices."""
    rng = canvas.rng
    if rng.uniform() < 0.4:
        return
    for _ in range(rng.integers(1, 4)):
        if rng.uniform() < 0.4:
            outline = replace(trunk, waves=waves(rng, 0.02))
        else:
            radius = rng.uniform(8, 70) * unit
            stretch, angle = rng.uniform(0.6, 1.6), rng.uniform(0, np.pi)
            place = inside(rng, trunk, 0.7)
            outline = Blob(*place, radius, radius * stretch, angle, rng.uniform(1.7, 3.0), waves(rng, 0.08))
        depth = rng.uniform(0, 8) * unit
        for _ in range(rng.integers(1, 5)):
            thickness = rng.uniform(0.7, 6.0) * unit
            hu = rng.choice(
                [rng.uniform(700, 1700), rng.uniform(150, 700), rng.uniform(-50, 60)], p=[0.5, 0.3, 0.2]
            )
            outer, within = (
                canvas.covered(replace(outline, height=outline.height - cut, width=outline.width - cut))
                if min(outline.height, outline.width) > cut + 1.0
                else np.zeros(canvas.hu.shape, np.bool_)
                for cut in (depth, depth + thickness)
            )
            canvas.hu[outer & ~within & inner] = np.float32(hu)
            depth += thickness


def _textured_regions(canvas: Canvas, trunk: Blob, inner: NDArray[np.bool_], unit: float) -> None:
    """Regions with a texture of their own, coarse or fine, faint or plain, in half of the slices."""
    rng = canvas.rng
    if rng.uniform() < 0.5:
        return
    for _ in range(rng.integers(1, 6)):
        row, column = inside(rng, trunk, 0.8)
        radius = rng.uniform(8, 45) * unit
        region = Blob(
            row, column, radius, radius * rng.uniform(0.5, 1.5), rng.uniform(0, np.pi), 2.0, waves(rng, 0.1)
        )
        if rng.uniform() < 0.5:
            field = power_law_field(canvas.hu.shape[0], rng.uniform(1.0, 4.0), rng)
        else:
            field = band_field(canvas.hu.shape[0], rng.uniform(3.0, 14.0) * unit * FINE, rng)
        if rng.uniform() < 0.3:  # mottled: two values instead of all
            field = np.sign(field - np.float32(rng.uniform(-1, 1)))
        covered = canvas.covered(region) & inner
        canvas.hu[covered] += (rng.uniform(2, 22) * field[covered]).astype(np.float32)


def leaves(size: int, rng: np.random.Generator) -> Phantom:
    """Training family 2: "dead leaves", overlapping regions of all sizes (Lee, Mumford, Huang 2001)."""
    canvas = Canvas(size, rng)
    unit = size / 256.0
    middle = size / 2
    disc = Blob(
        middle, middle, rng.uniform(70, 118) * unit, rng.uniform(70, 118) * unit, waves=waves(rng, 0.03)
    )
    canvas.paint(disc, rng.uniform(-20, 80))
    within = canvas.covered(disc)
    for _ in range(rng.integers(60, 220)):
        row, column = inside(rng, disc, 1.0)
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
            waves(rng, 0.1),
            rng.choice([0.5, 1.0, 2.5, 6.0]),
        )
        canvas.paint(leaf, float(hu), within)
    _strands(canvas, disc, within, unit)
    _bone_shells(canvas, disc, within, unit)
    _textured_regions(canvas, disc, within, unit)
    canvas.texture(within, rng.choice([0.0, rng.uniform(0.5, 7)], p=[0.4, 0.6]), rng.uniform(1.8, 3.4))
    return canvas.finish(within)


Family = Callable[[int, np.random.Generator], Phantom]
TRAINING_FAMILIES: Mapping[str, Family] = MappingProxyType({"torso": torso, "leaves": leaves})


def training_acquisition(rng: np.random.Generator, noise_hu: float) -> Acquisition:
    """The acquisition ranges to train on."""
    names: list[KernelName] = ["hann", "shepp-logan", "ram-lak", "edge"]
    name = names[int(rng.integers(len(names)))]
    boost = float(rng.uniform(0.0, 2.5)) if name == "edge" else 0.0
    return Acquisition(
        kernel=Kernel(name, float(rng.uniform(0.4, 1.0)), boost),
        pixel_mm=float(rng.uniform(1.0, 1.7)),
        noise_hu=noise_hu,
        electronic=float(rng.uniform(3.0, 10.0)),
        bowtie=float(rng.uniform(0.0, 0.8)),
        views=360,
    )
