"""Images to measure `ct-denoise` on: phantoms of families it never saw, and real slices at a lower dose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from appliance.dicom.volume import load_volume
from tools.simulate.ct import Acquisition, Image, Kernel, Mask, Phantom, scan
from tools.simulate.ct_phantoms import Family
from tools.simulate.ct_unseen import (
    DEVELOPMENT_FAMILIES,
    HELD_OUT_FAMILIES,
    development_acquisition,
    held_out_acquisition,
)

SIZE = 256
NOISE_LEVELS: Mapping[str, float] = {"very low": 3.5, "low": 9.0, "medium": 28.0, "high": 90.0}
"""Noise wanted at the centre, in HU; the mean over the body is about 0.6 of it."""
REAL_SERIES = ("ct/human-lung", "ct/philips-skull-phantom/std-5mm")
REAL_NOISE_LEVELS: Mapping[str, float] = {"real +low": 10.0, "real +medium": 30.0, "real +high": 60.0}


@dataclass(frozen=True)
class Case:
    """One image: `phantom` numbers the object, and `clean` is what the noise was added to. All in HU."""

    phantom: int
    level: str
    noisy: Image
    clean: Image
    body: Mask

    @property
    def noise_hu(self) -> float:
        """Standard deviation of the noise in the body."""
        return float((self.noisy - self.clean)[self.body].std())


def held_out_cases(phantoms: int, levels: Mapping[str, float], seed: int = 2026) -> list[Case]:
    """Phantoms of the held-out family in the held-out ranges: for the verdict, never for a choice."""
    return _cases(HELD_OUT_FAMILIES, held_out_acquisition, phantoms, levels, seed)


def development_cases(phantoms: int, levels: Mapping[str, float], seed: int = 2026) -> list[Case]:
    """Phantoms of the development family, which may steer the model."""
    return _cases(DEVELOPMENT_FAMILIES, development_acquisition, phantoms, levels, seed)


def _cases(
    families: Mapping[str, Family],
    acquisition: Callable[[np.random.Generator, float], Acquisition],
    phantoms: int,
    levels: Mapping[str, float],
    seed: int,
) -> list[Case]:
    """Each phantom at each noise level, in whole HU as a scanner stores them."""
    cases = []
    for number in range(phantoms):
        rng = np.random.default_rng([seed, number])
        phantom = list(families.values())[number % len(families)](SIZE, rng)
        for level, noise_hu in levels.items():
            scanned = scan(phantom, acquisition(rng, noise_hu), rng)
            noisy = np.round(scanned.clean + scanned.noise[0])
            cases.append(Case(number, level, noisy, scanned.clean, scanned.body))
    return cases


def real_cases(folder: Path, levels: Mapping[str, float], slices: int = 8, seed: int = 2026) -> list[Case]:
    """Real slices, at half resolution, with simulated noise of a lower dose added.

    The reference is the real slice with its own noise (halving the resolution removes part of it), so
    removing that noise counts as an error: the figures are unfavourable to every denoiser.
    """
    cases: list[Case] = []
    number = 0
    for series in REAL_SERIES:
        volume = load_volume(sorted((folder / series).glob("*.dcm")))
        count = len(volume.voxels)
        for index in np.linspace(0.2 * count, 0.8 * count, slices).astype(int):
            fine = np.maximum(volume.voxels[index][:512, :512], -1024.0)
            hu = np.ascontiguousarray(fine.reshape(SIZE, 2, SIZE, 2).mean(axis=(1, 3)), np.float32)
            body = ndimage.binary_fill_holes(ndimage.binary_opening(hu > -400.0, iterations=2))
            rng = np.random.default_rng([seed, number])
            for level, noise_hu in levels.items():
                how = Acquisition(Kernel("hann", 1.0), 2.0 * volume.spacing[1], noise_hu, 8.0, 0.5, views=360)
                noise = scan(Phantom(hu, body), how, rng).noise[0]
                cases.append(Case(number, level, np.round(hu + noise), hu, body))
            number += 1
    return cases
