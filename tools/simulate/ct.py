"""Simulated CT acquisitions: forward projection, photon and electronic noise, filtered back-projection.

Parallel beam, one slice. Because filtered back-projection is linear, a noisy image is the ideal image
plus the back-projection of the noise alone, so one projection serves any number of noise realisations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft, sparse

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
KernelName = Literal["hann", "shepp-logan", "ram-lak", "edge", "butterworth", "sharp", "gaussian", "bone"]

MU_WATER_PER_CM = 0.193
"""Attenuation of water at about 70 keV (NIST XCOM)."""


@dataclass(frozen=True)
class Phantom:
    """A slice without noise: `hu` (rows, columns) in HU, `body` True inside the object."""

    hu: Image
    body: Mask


@dataclass(frozen=True)
class Kernel:
    """A reconstruction kernel: the apodisation of the ramp filter.

    `cutoff` is a fraction of the Nyquist frequency of the pixel grid; `boost` raises the frequencies
    below the cutoff ("edge", "sharp", "bone").
    """

    name: KernelName
    cutoff: float
    boost: float = 0.0

    def response(self, frequency: NDArray[np.float64]) -> NDArray[np.float64]:
        """The apodisation at `frequency` in cycles per pixel (0..0.5 and beyond)."""
        relative = np.abs(frequency) / (0.5 * self.cutoff)
        inside = relative <= 1.0
        if self.name == "hann":
            return np.where(inside, 0.5 + 0.5 * np.cos(np.pi * np.minimum(relative, 1.0)), 0.0)
        if self.name == "shepp-logan":
            return np.where(inside, np.sinc(0.5 * relative), 0.0)
        if self.name == "ram-lak":
            return np.where(inside, 1.0, 0.0)
        if self.name == "butterworth":
            return 1.0 / (1.0 + relative**6)
        if self.name == "gaussian":
            return np.exp(-(relative**2))
        if self.name == "bone":
            fall: NDArray[np.float64] = np.exp(-2.0 * relative**4)
            return (1.0 + self.boost * relative**1.5) * fall
        roll_off = np.where(inside, np.cos(0.5 * np.pi * np.minimum(relative, 1.0)) ** 2, 0.0)
        if self.name == "edge":
            return roll_off * (1.0 + self.boost * relative**2)
        return roll_off * (1.0 + self.boost * relative)  # "sharp"


@dataclass(frozen=True)
class Acquisition:
    """How a phantom is scanned.

    `noise_hu` is the noise wanted at the centre of the image; the number of photons follows from it.
    `electronic` is the standard deviation of the detector's own noise, in photons; `bowtie` the
    logarithmic loss of the bow-tie filter at the edge of the field of view.
    """

    kernel: Kernel
    pixel_mm: float
    noise_hu: float
    electronic: float
    bowtie: float
    views: int


class Projector:
    """Parallel-beam projection of a square image and its adjoint, over 180 degrees.

    Detector bins are one pixel wide; a pixel reaches the two nearest bins by linear interpolation.
    Only pixels inside the inscribed circle are seen.
    """

    def __init__(self, size: int, views: int) -> None:
        centre = (size - 1) / 2
        rows, columns = np.mgrid[0:size, 0:size] - centre
        self.size, self.views, self.bins = size, views, size + 4
        self.field_of_view: Mask = np.hypot(rows, columns) <= size / 2
        y, x = rows[self.field_of_view], columns[self.field_of_view]
        indices = np.empty((x.size, views, 2), np.int32)
        weights = np.empty((x.size, views, 2), np.float32)
        for view, angle in enumerate(np.arange(views) * np.pi / views):
            position = x * np.cos(angle) + y * np.sin(angle) + (self.bins - 1) / 2
            lower = np.floor(position).astype(np.int32)
            indices[:, view, 0] = view * self.bins + lower
            indices[:, view, 1] = indices[:, view, 0] + 1
            weights[:, view, 1] = position - lower
            weights[:, view, 0] = 1.0 - weights[:, view, 1]
        pointers = np.arange(x.size + 1, dtype=np.int64) * 2 * views
        self._rays = sparse.csr_array(
            (weights.ravel(), indices.ravel(), pointers), shape=(x.size, views * self.bins)
        )

    def project(self, image: Image) -> Image:
        """Line integrals of `image` (size, size) per pixel length: (views, bins)."""
        sinogram: Image = self._rays.T @ image[self.field_of_view]
        return sinogram.reshape(self.views, self.bins)

    def backproject(self, sinogram: Image) -> Image:
        """The adjoint of `project`: (views, bins) -> (size, size), zero outside the field of view."""
        image = np.zeros((self.size, self.size), np.float32)
        image[self.field_of_view] = self._rays @ sinogram.ravel()
        return image


@lru_cache(maxsize=2)
def projector(size: int, views: int) -> Projector:
    """The projector for a grid; building one takes seconds, and they are large."""
    return Projector(size, views)


@dataclass(frozen=True)
class Scan:
    """A scanned phantom: `clean` is the noise-free reconstruction, each of `noise` one realisation.

    All are (rows, columns) in HU on the phantom's grid; a noisy image is `clean + noise[i]`.
    """

    clean: Image
    noise: tuple[Image, ...]
    body: Mask

    @property
    def noise_hu(self) -> float:
        """Standard deviation of the noise inside the body."""
        return float(np.std(np.stack([field[self.body] for field in self.noise])))


def scan(phantom: Phantom, how: Acquisition, rng: np.random.Generator, realisations: int = 1) -> Scan:
    """Scan `phantom`: Poisson counts with electronic noise, logarithm, filtered back-projection."""
    size = phantom.hu.shape[0]
    beam = projector(size, how.views)
    mu_water = MU_WATER_PER_CM * how.pixel_mm / 10.0
    attenuation = np.maximum(mu_water * (1.0 + phantom.hu / 1000.0), 0.0).astype(np.float32)
    integrals = beam.project(attenuation)

    frequency = fft.rfftfreq(2 * beam.bins)
    ramp = frequency * how.kernel.response(frequency)
    photons = _photons(how, integrals, ramp, mu_water)
    offset = np.linspace(-1.0, 1.0, beam.bins, dtype=np.float32)
    fluence = photons * np.exp(-how.bowtie * offset**2)

    fields = []
    for _ in range(realisations):
        counts = rng.poisson(fluence * np.exp(-integrals)) + rng.normal(0.0, how.electronic, integrals.shape)
        error = -np.log(np.maximum(counts, 0.5) / fluence) - integrals
        filtered = fft.irfft(fft.rfft(error, 2 * beam.bins, axis=1) * ramp, axis=1)[:, : beam.bins]
        field = beam.backproject(np.ascontiguousarray(filtered, np.float32))
        fields.append((field * (np.pi / how.views * 1000.0 / mu_water)).astype(np.float32))
    return Scan(_band_limited(phantom.hu, how.kernel), tuple(fields), phantom.body)


def _photons(how: Acquisition, integrals: Image, ramp: NDArray[np.float64], mu_water: float) -> float:
    """Photons per ray that give about `how.noise_hu` at the centre of the image.

    A ray's logarithm has the variance exp(p)/I0; back-projection adds the views' variances.
    """
    middle = integrals[:, integrals.shape[1] // 2 - 8 : integrals.shape[1] // 2 + 8]
    ray_variance = float(np.mean(np.exp(middle)))
    filter_energy = 2.0 * float(np.mean(ramp**2))
    interpolation = 2.0 / 3.0
    scale = (np.pi / how.views * 1000.0 / mu_water) ** 2 * how.views * filter_energy * interpolation
    return scale * ray_variance / how.noise_hu**2


def _band_limited(hu: Image, kernel: Kernel) -> Image:
    """What the kernel makes of a noise-free object: its response and that of the detector's aperture."""
    size = hu.shape[0]
    padded = np.pad(hu, size // 8, mode="edge")
    side = padded.shape[0]
    radius = np.hypot(fft.fftfreq(side)[:, None], fft.rfftfreq(side)[None, :])
    transfer = kernel.response(radius) * np.sinc(radius)
    image = fft.irfft2(fft.rfft2(padded) * transfer, s=padded.shape)
    inner = slice(size // 8, size // 8 + size)
    return np.ascontiguousarray(image[inner, inner], np.float32)
