"""The simulated head series: repeatable, valid, and different where they should differ."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from appliance.dicom.volume import load_volume
from tests.validators import DCIODVFY, dcentvfy_problems, dciodvfy_errors
from tools.simulate.head_phantom_bleeds import Bleed
from tools.simulate.head_series import simulate_series, write_series
from tools.simulate.head_slices import draw_slice


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    first = write_series(tmp_path / "a", seed=3, bleed=True, slices=3, size=64)
    second = write_series(tmp_path / "b", seed=3, bleed=True, slices=3, size=64)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_every_series_has_its_own_identity(tmp_path: Path) -> None:
    ways = [(1, True), (1, False), (2, True)]
    images = [
        dcmread(path)
        for seed, bleed in ways
        for path in write_series(tmp_path / f"{seed}{bleed}", seed=seed, bleed=bleed, slices=3, size=64)
    ]
    assert len({image.SOPInstanceUID for image in images}) == 9
    assert len({image.SeriesInstanceUID for image in images}) == 3
    assert {str(image.PatientName) for image in images} == {"PHANTOM^BLEED", "PHANTOM^CLEAR"}


def test_a_series_loads_as_one_even_stack_in_hounsfield_units(tmp_path: Path) -> None:
    paths = write_series(tmp_path, seed=1, bleed=False, slices=5, size=64, slice_mm=5.0)
    volume = load_volume(paths[::-1])
    assert volume.voxels.shape == (5, 64, 64)
    assert volume.spacing[0] == pytest.approx(5.0)
    assert volume.geometry.uniform and not volume.geometry.problems
    assert -1024 <= volume.voxels.min() < -900
    assert volume.voxels.max() > 500


@pytest.mark.skipif(not DCIODVFY.exists(), reason="dicom3tools is not installed")
def test_validators_find_no_error(tmp_path: Path) -> None:
    paths = write_series(tmp_path, seed=1, bleed=True, slices=3, size=64)
    assert [line for path in paths for line in dciodvfy_errors(path)] == []
    assert dcentvfy_problems(paths) == []


@pytest.mark.parametrize(
    "kind",
    [Bleed.PARENCHYMAL, Bleed.SUBDURAL]
    + [
        pytest.param(kind, marks=pytest.mark.slow)
        for kind in Bleed
        if kind not in (Bleed.PARENCHYMAL, Bleed.SUBDURAL)
    ],
)
def test_blood_is_bright_and_only_where_there_is_a_bleed(kind: Bleed) -> None:
    series = simulate_series(
        seed=5, bleed=True, kind=kind, volume_ml=(30, 60), slices=12, size=64, slice_mm=10
    )
    blood = series.blood > 0.9
    assert blood.any()
    assert 45 < np.median(series.hu[blood]) < 90


def test_a_clear_head_has_no_blood() -> None:
    series = simulate_series(seed=5, bleed=False, slices=6, size=64, slice_mm=15)
    assert series.bleed is None
    assert not series.blood.any()


def test_a_training_slice_is_repeatable_and_labelled() -> None:
    one, other = (draw_slice(np.random.default_rng(8), bleed=True) for _ in range(2))
    assert np.array_equal(one.hu, other.hu) and np.array_equal(one.blood, other.blood)
    clear = draw_slice(np.random.default_rng(8), bleed=False)
    assert not clear.blood.any()
    assert np.isfinite(clear.hu).all()


def test_the_command_writes_a_series(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.simulate.head_series", str(tmp_path / "out"), "--seed", "4"]
    subprocess.run([*command, "--slices", "2", "--size", "64"], check=True, capture_output=True)
    assert [dcmread(path).InstanceNumber for path in sorted((tmp_path / "out").iterdir())] == [1, 2]
