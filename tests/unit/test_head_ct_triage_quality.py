"""The committed weights of `head-ct-triage` hold up on a few held-out phantoms."""

from __future__ import annotations

import numpy as np
import pytest

from tools.validate.head_ct_triage import GOAL, auc, held_out, load_model, wilson


@pytest.mark.slow
def test_slices_of_the_held_out_family_are_told_apart() -> None:
    report = held_out(load_model(), 8, lambda _line: None)
    assert report["slices"]["auc"] >= GOAL
    assert report["slices"]["auc"] > report["slices_mirror_difference"]["auc"] + 0.1
    assert report["not_analysed"] == 0
    assert report["flagged_at_threshold"]["none"]["flagged"] == 0


def test_auc_and_interval_are_those_of_the_textbook() -> None:
    bleeds = np.array([False, False, True, True])
    assert auc(bleeds, np.array([0.1, 0.4, 0.35, 0.8])) == pytest.approx(0.75)
    assert auc(bleeds, np.ones(4)) == pytest.approx(0.5)
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-3)
