"""The simulated CT: does its physics behave like the physics it stands for?"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest

from tools.simulate.ct import Acquisition, Kernel, Phantom, Scan, projector, scan
from tools.simulate.ct_phantoms import TRAINING_FAMILIES, Family, training_acquisition
from tools.simulate.ct_unseen import (
    DEVELOPMENT_FAMILIES,
    HELD_OUT_FAMILIES,
    development_acquisition,
    held_out_acquisition,
)

SIZE = 64
FAMILIES = [*TRAINING_FAMILIES.values(), *DEVELOPMENT_FAMILIES.values(), *HELD_OUT_FAMILIES.values()]
HOW = Acquisition(Kernel("hann", 1.0), 4.0, 20.0, electronic=0.0, bowtie=0.0, views=90)


def water(radius: float = 24.0) -> Phantom:
    """A disc of water in air."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] - (SIZE - 1) / 2
    body = np.hypot(rows, columns) < radius
    return Phantom(np.where(body, 0.0, -1000.0).astype(np.float32), body)


def scanned(how: Acquisition, phantom: Phantom | None = None, realisations: int = 8) -> Scan:
    return scan(phantom or water(), how, np.random.default_rng(3), realisations)


def test_a_projection_through_a_disc_is_its_chord() -> None:
    sinogram = projector(SIZE, 90).project(water().body.astype(np.float32))
    offset = np.arange(sinogram.shape[1]) - (sinogram.shape[1] - 1) / 2
    chord = 2 * np.sqrt(np.maximum(24.0**2 - offset**2, 0.0))
    inside = np.abs(offset) < 20
    np.testing.assert_allclose(sinogram.mean(axis=0)[inside], chord[inside], rtol=0.03)


def test_projection_and_back_projection_are_adjoint() -> None:
    rng = np.random.default_rng(0)
    beam = projector(SIZE, 90)
    image = rng.random((SIZE, SIZE)).astype(np.float32)
    sinogram = rng.random((beam.views, beam.bins)).astype(np.float32)
    forward = float(np.vdot(beam.project(image), sinogram))
    backward = float(np.vdot(image[beam.field_of_view], beam.backproject(sinogram)[beam.field_of_view]))
    assert forward == pytest.approx(backward, rel=1e-4)


def test_the_noise_at_the_centre_is_about_the_noise_asked_for() -> None:
    noise = np.stack(scanned(HOW, realisations=24).noise)
    assert float(noise[:, 28:36, 28:36].std()) == pytest.approx(20.0, rel=0.3)


def test_less_dose_is_more_noise_and_no_bias() -> None:
    low, high = (np.stack(scanned(replace(HOW, noise_hu=hu)).noise) for hu in (10.0, 40.0))
    assert float(high.std() / low.std()) == pytest.approx(4.0, rel=0.1)
    assert abs(float(low[:, water().body].mean())) < 0.5


def test_a_sharper_kernel_keeps_more_detail_and_moves_the_noise_to_finer_grain() -> None:
    smooth, sharp = Kernel("butterworth", 0.4), Kernel("edge", 1.0, 1.5)
    grain = []
    for kernel in (smooth, sharp):
        field = scanned(replace(HOW, kernel=kernel)).noise[0][16:48, 16:48]
        grain.append(float(np.corrcoef(field[:, 1:].ravel(), field[:, :-1].ravel())[0, 1]))
    assert grain[0] > grain[1] + 0.2
    edges = [np.abs(np.diff(scanned(replace(HOW, kernel=kernel)).clean)).max() for kernel in (smooth, sharp)]
    assert edges[1] > edges[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_phantom_is_a_body_of_plausible_hu_in_air(family: Family) -> None:
    phantom = family(128, np.random.default_rng(5))
    assert 0.1 < phantom.body.mean() < 0.8
    assert phantom.hu.min() >= -1024.0 and phantom.hu.max() <= 3000.0
    assert phantom.hu[:4].max() < -900.0
    assert np.mean(np.abs(phantom.hu[phantom.body]) < 200.0) > 0.2


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_names_one_phantom(family: Family) -> None:
    first, again, other = (family(64, np.random.default_rng(seed)).hu for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 10.0


def test_training_development_and_held_out_acquisitions_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    drawn = [
        [acquisition(rng, 20.0) for _ in range(100)]
        for acquisition in (training_acquisition, development_acquisition, held_out_acquisition)
    ]
    for nearer, further in pairwise(drawn):
        assert max(how.pixel_mm for how in further) <= min(how.pixel_mm for how in nearer)
        assert min(how.electronic for how in further) >= max(how.electronic for how in nearer)
        assert min(how.bowtie for how in further) >= max(how.bowtie for how in nearer)
    for one, other in combinations(drawn, 2):
        assert not {how.kernel.name for how in one} & {how.kernel.name for how in other}
        assert not {how.views for how in one} & {how.views for how in other}
    assert len({*TRAINING_FAMILIES, *DEVELOPMENT_FAMILIES, *HELD_OUT_FAMILIES}) == len(FAMILIES)
