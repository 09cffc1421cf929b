"""The committed weights of `head-ct-triage` hold up on held-out phantoms, and figures say what they claim."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from appliance.dicom.outcome import Code, Findings
from tools.simulate.head_phantom_bleeds import Bleed
from tools.simulate.head_series import simulate_series
from tools.validate.head_ct_triage import CLEAR, GOAL, Looked, by_kind, held_out, load_model, look
from tools.validate.head_ct_triage_cases import KINDS, Case, cases_of_kinds, held_out_cases, volume_of
from tools.validate.head_ct_triage_failures import Gallery
from tools.validate.head_ct_triage_figures import auc, cut_at, share, wilson

CODE = Code("1", "TEST", "test")


@pytest.mark.slow
def test_slices_of_the_held_out_family_are_told_apart() -> None:
    report = held_out(look(load_model(), held_out_cases(8), lambda _line: None, None))
    assert report["slices"]["auc"] >= GOAL
    assert report["slices"]["auc"] > report["slices_mirror_difference"]["auc"] + 0.1
    assert report["not_analysed"] == 0
    assert report["flagged_at_threshold"][CLEAR]["flagged"] == 0


def test_auc_and_interval_are_those_of_the_textbook() -> None:
    bleeds = np.array([False, False, True, True])
    assert auc(bleeds, np.array([0.1, 0.4, 0.35, 0.8])) == pytest.approx(0.75)
    assert auc(bleeds, np.ones(4)) == pytest.approx(0.5)
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-3)


def test_the_cut_leaves_at_least_the_specificity_below_it() -> None:
    clear = np.linspace(0.0, 1.0, 40)
    cut = cut_at(clear, 0.95)
    assert (clear < cut).sum() == 38
    assert cut > clear[37]
    assert (clear < cut_at(clear[:10], 0.95)).sum() >= 10


def test_sensitivity_is_reported_kind_by_kind_at_95_percent_specificity() -> None:
    looked = [_looked(CLEAR, 0.01 * number, flagged=number > 38) for number in range(40)]
    looked += [_looked("subdural", score, flagged=False) for score in (0.2, 0.375, 0.5, 0.9)]
    looked += [_looked("epidural", 0.95, flagged=True), _looked("epidural", None, flagged=None)]
    report = by_kind(looked)
    assert report["not_analysed"] == 1
    assert report["threshold_at_95_percent_specificity"] == pytest.approx(0.37)
    found = report["flagged_at_95_percent_specificity"]
    assert {kind: (part["flagged"], part["of"]) for kind, part in found.items()} == {
        CLEAR: (2, 40),
        "epidural": (1, 1),
        "subdural": (3, 4),
    }
    assert report["flagged_at_threshold"]["subdural"] == share([False] * 4)


@pytest.mark.slow
def test_every_kind_is_drawn_as_often_and_as_many_heads_are_clear() -> None:
    cases = list(cases_of_kinds(1, size=48))
    assert Counter(case.bleed for case in cases) == Counter([*KINDS, *[None] * len(KINDS)])
    assert len({case.seed for case in cases}) == len(cases)
    assert all((case.blood.max() > 0.5) == (case.bleed is not None) for case in cases)


def test_the_gallery_shows_what_the_model_gets_wrong_and_nothing_else(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path)
    missed, right, flagged = _case(1, Bleed.EPIDURAL), _case(2, Bleed.EPIDURAL), _case(3, None)
    gallery.add_case(missed, _findings(missed, positive=False))
    gallery.add_case(right, _findings(right, positive=True))
    gallery.add_case(flagged, _findings(flagged, positive=True))
    gallery.close()
    assert {path.name for path in tmp_path.glob("*.png")} == {"missed-epidural-1.png", "flagged-clear-3.png"}
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "missed-epidural-1.png" in page and "flagged-clear-3.png" in page
    with Image.open(tmp_path / "missed-epidural-1.png") as image:
        assert image.size == (768, 256)
        grey, blood, _ = np.split(np.asarray(image).astype(int), 3, axis=1)
    assert (grey[..., 0] == grey[..., 2]).all()
    assert np.abs(blood[..., 0] - blood[..., 2]).max() > 50


def _looked(kind: str, score: float | None, *, flagged: bool | None) -> Looked:
    return Looked(kind, score, flagged, (), (), ())


def _case(seed: int, kind: Bleed | None) -> Case:
    series = simulate_series(seed=5, bleed=kind is not None, kind=kind, slices=6, size=64, slice_mm=20.0)
    return Case(seed, volume_of(series), series.blood, kind)


def _findings(case: Case, *, positive: bool) -> Findings:
    heat = np.zeros(case.volume.voxels.shape, np.float32)
    return Findings(
        positive=positive,
        score=0.5,
        threshold=0.5,
        calibrated=False,
        finding=CODE,
        site=CODE,
        urgency=CODE,
        key_slice=2,
        heat=heat,
    )
