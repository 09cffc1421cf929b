"""The committed `ct-denoise` on a few phantoms of the development family, against the gates.

`python -m tools.validate.ct_denoise` gives the verdict: on the held-out family, which tests leave alone,
on more phantoms, and with finer grids of strengths for the baselines.
"""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from scipy import ndimage

from appliance.dicom.outcome import Enhanced, NotAnalysed
from appliance.models.manifest import EnhanceTask, Manifest, load_manifest
from appliance.models.tasks import enhance
from appliance.runtime.onnx import OnnxRunner
from tests.volumes import volume_of
from tools.simulate.ct import Image
from tools.validate.ct_denoise import PACKAGE, gaussian, measure, model, non_local_means
from tools.validate.ct_denoise_cases import NOISE_LEVELS, Case, development_cases
from tools.validate.ct_denoise_lesions import kept


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """Four phantoms at every noise level; the seed is not that of the published figures."""
    return development_cases(4, NOISE_LEVELS, seed=77)


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return load_manifest(PACKAGE)


@pytest.mark.slow
def test_it_beats_doing_nothing_and_a_gaussian_and_keeps_up_with_non_local_means(cases: list[Case]) -> None:
    candidates = {
        "gaussian": [gaussian(width) for width in (0.3, 0.6, 0.85, 1.2, 1.7, 2.5)],
        "nlm": [non_local_means(factor, knows_noise=True) for factor in (0.4, 0.6, 0.8, 1.0, 1.4)],
    }
    report = measure(cases, "simulated, development family, 4 phantoms", candidates)
    assert len(report.gates) == 4 * len(NOISE_LEVELS)
    assert not [gate for gate, passed in report.gates.items() if not passed and "nlm" not in gate]
    for figures in report.levels.values():
        rmse = {name: figures[name]["rmse_hu"][0] for name in ("ct-denoise", "nlm")}
        assert rmse["ct-denoise"] < 1.10 * rmse["nlm"]


@pytest.mark.slow
def test_it_leaves_alone_what_has_no_noise_and_nothing_at_strength_0(cases: list[Case]) -> None:
    denoise, strength = model()
    noisy = next(case.noisy for case in cases if case.level == "high")
    np.testing.assert_array_equal(denoise(noisy, 0.0), noisy)
    still = np.full((64, 64), 40.0, np.float32)
    np.testing.assert_allclose(denoise(still, strength), still, atol=0.1)


@pytest.mark.slow
def test_more_strength_changes_more_and_never_beyond_the_bound(cases: list[Case]) -> None:
    runner = OnnxRunner(PACKAGE / "model.onnx", threads=1)
    noisy = next(case.noisy for case in cases if case.level == "medium")[None, None]
    changes = []
    for strength in (0.25, 0.5, 1.0):
        outputs = runner.run({"x": noisy, "strength": np.full((1, 1), strength, np.float32)})
        change = np.abs(outputs["y"] - noisy)
        assert np.all(change <= strength * 3.0 * outputs["sigma_map"] + 0.01)
        changes.append(float(change.mean()))
    assert changes[1] == pytest.approx(2 * changes[0], rel=0.01)
    assert changes[2] == pytest.approx(4 * changes[0], rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("level", "contrast"), [("low", 4.0), ("medium", 8.0)])
def test_an_inserted_lesion_keeps_its_contrast(cases: list[Case], level: str, contrast: float) -> None:
    """Of a disc 11 pixels wide, in units of the noise; smaller discs lose more, see the card."""
    apply, strength = model()
    here = [case for case in cases if case.level == level]

    def denoise(image: Image, _noise_hu: float) -> Image:
        return apply(image, strength)

    parts = [kept(denoise, case, contrast * case.noise_hu, radius=5.0) for case in here]
    assert float(np.mean(parts)) >= 0.9
    assert min(parts) >= 0.85


@pytest.mark.parametrize("grain", [0.0, 0.8])
def test_pure_noise_becomes_less_and_no_structure(grain: float) -> None:
    denoise, strength = model()
    field = ndimage.gaussian_filter(np.random.default_rng(3).standard_normal((192, 192)), grain)
    noise = (20.0 * field / field.std()).astype(np.float32)
    left = denoise(np.float32(40.0) + noise, strength) - np.float32(40.0)
    assert float(left.std()) < 0.5 * float(noise.std())
    for width in (2.0, 5.0):  # nothing of the size of a lesion that was not in the noise
        coarse_before, coarse_after = (ndimage.gaussian_filter(image, width) for image in (noise, left))
        assert float(np.abs(coarse_after).max()) <= 1.1 * float(np.abs(coarse_before).max())


def test_values_beyond_all_tissue_do_no_harm(cases: list[Case]) -> None:
    runner = OnnxRunner(PACKAGE / "model.onnx", threads=1)
    noisy = next(case.noisy for case in cases if case.level == "medium").copy()
    noisy[100:104, 100:104] = 30000.0
    noisy[:20] = -3024.0
    for image in (noisy, np.full((32, 36), 30000.0, np.float32), np.full((36, 32), -3024.0, np.float32)):
        outputs = runner.run({"x": image[None, None], "strength": np.ones((1, 1), np.float32)})
        assert np.isfinite(outputs["y"]).all()
        assert np.all(np.abs(outputs["y"][0, 0] - image) <= 3.0 * outputs["sigma_map"][0, 0] + 0.01)


@pytest.mark.slow
def test_it_estimates_the_noise(cases: list[Case]) -> None:
    runner = OnnxRunner(PACKAGE / "model.onnx", threads=1)
    for case in cases:
        inputs = {"x": case.noisy[None, None], "strength": np.ones((1, 1), np.float32)}
        estimate = runner.run(inputs)["sigma_map"][0, 0][case.body]
        assert 0.5 < float(estimate.mean()) / case.noise_hu < 2.0


@pytest.mark.slow
def test_a_volume_is_enhanced_and_a_nearly_noise_free_one_is_not_analysed(
    cases: list[Case], manifest: Manifest
) -> None:
    task = manifest.task
    assert isinstance(task, EnhanceTask)
    runner = OnnxRunner(PACKAGE / manifest.weights.file, threads=1)
    noisy = np.stack([case.noisy for case in cases if case.level == "medium"])
    clean = np.stack([case.clean for case in cases if case.level == "medium"])
    outcome = enhance.run(volume_of(noisy), manifest, task, task.strength, runner)
    assert isinstance(outcome, Enhanced)
    assert np.std(outcome.voxels - clean) < np.std(noisy - clean)
    flat = np.round(np.where(clean > -500.0, np.float32(40.0), np.float32(-1000.0)))
    outcome = enhance.run(volume_of(flat), manifest, task, task.strength, runner)
    assert isinstance(outcome, NotAnalysed)
    assert outcome.reason == "out_of_distribution"


def test_the_file_says_what_it_is(manifest: Manifest) -> None:
    session = onnxruntime.InferenceSession(
        PACKAGE / manifest.weights.file, providers=["CPUExecutionProvider"]
    )
    properties = session.get_modelmeta().custom_metadata_map
    assert properties["model_id"] == manifest.id
    assert properties["version"] == manifest.version
    assert len(properties["training_config_sha256"]) == 64
    assert "Research only" in properties["intended_use"]
