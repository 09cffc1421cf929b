"""What the triage model is taught about a bleed is only what can be seen of it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.models.tasks.head_alignment import GRID, AlignedHead, Levels
from tools.train.head_ct_triage_samples import Sample, Training, labelled

BRAIN, BONE = 35.0, 100.0
AWAY = np.hypot(*(np.indices((GRID, GRID)) - (GRID - 1) / 2))
SKULL = (AWAY > 50) & (AWAY < 60)


def test_a_slice_without_blood_is_certain() -> None:
    sample = _labelled(np.zeros((GRID, GRID), bool), BRAIN)
    assert (sample.bleeds, sample.visible, sample.certain) == (False, True, True)


@pytest.mark.parametrize(
    ("radius", "hu", "visible", "certain"),
    [
        (6, 70.0, True, True),
        (6, BONE, True, True),  # as bright as bone, but away from it
        (6, BRAIN + 2, False, False),
        (2, 70.0, True, False),  # too small to call the whole slice
    ],
)
def test_a_clot_is_taught_as_far_as_it_is_seen(
    radius: int, hu: float, *, visible: bool, certain: bool
) -> None:
    clot = np.hypot(*(np.indices((GRID, GRID)) - 64)) < radius
    sample = _labelled(clot, hu)
    assert (sample.bleeds, sample.visible, sample.certain) == (True, visible, certain)
    if visible:
        np.testing.assert_array_equal(sample.blood > 0.5, clot)


@pytest.mark.parametrize(("hu", "seen"), [(75.0, True), (BONE, False)])
def test_blood_along_the_skull_is_lost_where_it_is_as_bright_as_bone(hu: float, *, seen: bool) -> None:
    crescent = (AWAY > 45) & (AWAY < 51) & (np.arange(GRID) > 80)
    sample = _labelled(crescent, hu)
    assert sample.bleeds
    assert (sample.visible, sample.certain) == (seen, seen)
    assert bool((sample.blood > 0.5).any()) == seen


def _labelled(blood: NDArray[np.bool_], hu: float) -> Sample:
    image = np.where(AWAY < 60, BRAIN, 0.0)
    image[blood] = hu
    image[SKULL & ~(blood & (hu < BONE))] = BONE
    head = AlignedHead(
        hu=image.astype(np.float32),
        hull=(AWAY < 60).astype(np.float32),
        levels=Levels(low=0.0, high=BONE, median=BRAIN, spread=3.0),
        matrix=np.eye(2),
        offset=np.zeros(2),
        objection=None,
    )
    return labelled(head, blood.astype(np.float32), Training())
