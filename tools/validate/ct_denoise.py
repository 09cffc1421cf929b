"""Measure `ct-denoise` against doing nothing, a Gaussian filter, total variation and non-local means.

    python -m tools.validate.ct_denoise [--json FILE] [--phantoms N] [--model FILE] [--development]

On phantoms of the held-out family, scanned in the held-out ranges; with `--development`, on those of the
development family, which may be looked at as often as one likes. The model runs at the strength of its
manifest, the same for every dose. A baseline runs, per noise level and per metric, at the strength
that scores best on these very images, which favours the baselines. Exit status 1 if a gate fails.
Where $APPLIANCE_TEST_DATA has real CT series, real slices with added noise come after that, without
gates. At the end, the time for a slice of 512 x 512.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.metrics import structural_similarity
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from appliance.models.manifest import EnhanceTask, load_manifest
from appliance.runtime.onnx import OnnxRunner
from tools.simulate.ct import Image
from tools.validate.ct_denoise_cases import (
    NOISE_LEVELS,
    REAL_NOISE_LEVELS,
    REAL_SERIES,
    Case,
    development_cases,
    held_out_cases,
    real_cases,
)

PACKAGE = Path(__file__).resolve().parents[2] / "engines" / "ct-denoise"
WINDOW = (-160.0, 240.0)
"""PSNR and SSIM are those of what this window shows."""
GAUSSIAN_WIDTHS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0, 4.0)
TV_FACTORS = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
NLM_FACTORS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0)
METRICS: Mapping[str, int] = {"rmse_hu": -1, "soft_rmse_hu": -1, "psnr_db": 1, "ssim": 1}
"""Each metric, and whether more (1) or less (-1) is better."""

Denoise = Callable[[Image, float], Image]
"""(noisy, standard deviation of its noise) -> denoised."""


def scores(image: Image, case: Case) -> dict[str, float]:
    """RMSE in HU in the body and in its soft tissue; PSNR and SSIM of WINDOW in the bounding box."""
    squared = (image - case.clean) ** 2
    soft = case.body & (case.clean > WINDOW[0]) & (case.clean < WINDOW[1])
    box = ndimage.find_objects(case.body.astype(np.int8))[0]
    shown, truth = np.clip(image[box], *WINDOW), np.clip(case.clean[box], *WINDOW)
    span = WINDOW[1] - WINDOW[0]
    similarity = structural_similarity(truth, shown, data_range=span)  # type: ignore[no-untyped-call]
    return {
        "rmse_hu": float(np.sqrt(np.mean(squared[case.body]))),
        "soft_rmse_hu": float(np.sqrt(np.mean(squared[soft]))),
        "psnr_db": float(20 * np.log10(span / np.sqrt(np.mean((shown - truth) ** 2)))),
        "ssim": float(similarity),
    }


def model(file: Path | None = None) -> tuple[Callable[[Image, float], Image], float]:
    """A model file, else the committed one, as (image, strength) -> image; the strength of the manifest."""
    manifest = load_manifest(PACKAGE)
    if not isinstance(manifest.task, EnhanceTask):
        raise TypeError(f"{PACKAGE} is not an enhancement model")
    runner = OnnxRunner(file or PACKAGE / manifest.weights.file, threads=1, cpu_only=True)

    def apply(image: Image, strength: float) -> Image:
        inputs = {
            "x": image[None, None].astype(np.float32),
            "strength": np.full((1, 1), strength, np.float32),
        }
        denoised: Image = runner.run(inputs)["y"][0, 0]
        return denoised

    return apply, manifest.task.strength


def slice_milliseconds(file: Path | None, threads: int, rounds: int = 9) -> list[float]:
    """Median, smallest and largest time for a slice of 512 x 512 on that many cores."""
    runner = OnnxRunner(file or PACKAGE / load_manifest(PACKAGE).weights.file, threads=threads, cpu_only=True)
    noisy = np.random.default_rng(1).normal(40.0, 20.0, (1, 1, 512, 512)).astype(np.float32)
    inputs = {"x": noisy, "strength": np.ones((1, 1), np.float32)}
    taken = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        runner.run(inputs)
        taken.append(1000.0 * (time.perf_counter() - begun))
    return [round(float(value), 1) for value in (np.median(taken[1:]), min(taken[1:]), max(taken[1:]))]


def gaussian(width: float) -> Denoise:
    """A Gaussian filter of `width` pixels."""
    return lambda image, _: np.asarray(ndimage.gaussian_filter(image, width), np.float32)


def total_variation(factor: float) -> Denoise:
    """Total variation (Chambolle 2004) with a weight of factor * noise."""

    def apply(image: Image, noise_hu: float) -> Image:
        clipped = np.clip(image, -1024.0, 3071.0)
        denoised = denoise_tv_chambolle(clipped, weight=factor * noise_hu)  # type: ignore[no-untyped-call]
        return np.asarray(denoised, np.float32)

    return apply


def non_local_means(factor: float, knows_noise: bool) -> Denoise:
    """Non-local means with h = factor * noise; with the true noise subtracted from distances or not."""

    def apply(image: Image, noise_hu: float) -> Image:
        return np.asarray(
            denoise_nl_means(
                np.clip(image, -1024.0, 3071.0),
                patch_size=5,
                patch_distance=6,
                h=factor * noise_hu,
                sigma=noise_hu if knows_noise else 0.0,
                fast_mode=True,
            ),
            np.float32,
        )

    return apply


def baselines() -> dict[str, list[Denoise]]:
    """The strengths that each baseline may choose from."""
    return {
        "gaussian": [gaussian(width) for width in GAUSSIAN_WIDTHS],
        "tv": [total_variation(factor) for factor in TV_FACTORS],
        "nlm": [non_local_means(factor, knows) for factor in NLM_FACTORS for knows in (False, True)],
    }


Table = dict[str, NDArray[np.float64]]
"""Per metric, one value per case."""


def _table(rows: Iterable[dict[str, float]]) -> Table:
    collected = list(rows)
    return {metric: np.array([row[metric] for row in collected]) for metric in METRICS}


def best_of(candidates: list[Denoise], cases: list[Case]) -> Table:
    """The candidate with the best mean on `cases`, chosen for each metric by itself."""
    tables = [
        _table(scores(denoise(case.noisy, case.noise_hu), case) for case in cases) for denoise in candidates
    ]
    return {
        metric: max((table[metric] for table in tables), key=lambda values: sign * float(values.mean()))
        for metric, sign in METRICS.items()
    }


def interval(values: NDArray[np.float64], seed: int = 7, rounds: int = 4000) -> list[float]:
    """Mean of `values` (one per phantom) and the 95 % bootstrap interval over phantoms."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (rounds, len(values)))].mean(axis=1)
    return [round(float(number), 4) for number in (values.mean(), *np.percentile(means, [2.5, 97.5]))]


def flat_bias(image: Image, case: Case) -> tuple[float, float]:
    """Mean change and mean error in HU where the truth is flat: (image - noisy, image - truth)."""
    slope = ndimage.gaussian_gradient_magnitude(case.clean, 1.0)
    flat = ndimage.binary_erosion(case.body & (slope < 3.0), iterations=3)
    return float((image - case.noisy)[flat].mean()), float((image - case.clean)[flat].mean())


Figures = dict[str, list[float]]
"""Per metric: the mean over phantoms and the two ends of its 95 % interval."""


@dataclass(frozen=True)
class Report:
    """Figures by noise level and by method, ready for JSON, and the gates that they must pass."""

    title: str
    levels: dict[str, dict[str, Figures]]
    gates: dict[str, bool]


def measure(
    cases: list[Case], title: str, candidates: Mapping[str, list[Denoise]], file: Path | None = None
) -> Report:
    """Score the model (`file`, else the committed one) and the baselines on every noise level of `cases`."""
    denoise, strength = model(file)
    levels: dict[str, dict[str, Figures]] = {}
    gates: dict[str, bool] = {}
    for level in dict.fromkeys(case.level for case in cases):
        here = [case for case in cases if case.level == level]
        images = [denoise(case.noisy, strength) for case in here]
        ours = _table(scores(image, case) for image, case in zip(images, here, strict=True))
        others = {"input": _table(scores(case.noisy, case) for case in here)}
        others |= {name: best_of(choices, here) for name, choices in candidates.items()}
        bias = np.array([flat_bias(image, case) for image, case in zip(images, here, strict=True)])
        levels[level] = {
            "noise": {"hu": interval(np.array([case.noise_hu for case in here]))},
            "ct-denoise": {metric: interval(values) for metric, values in ours.items()},
            "flat regions": {
                "change_hu": interval(bias[:, 0]),
                "error_hu": interval(bias[:, 1]),
                "largest_change_hu": interval(np.abs(bias[:, 0]).max(keepdims=True)),
            },
        } | {
            name: {metric: interval(values) for metric, values in table.items()}
            for name, table in others.items()
        }
        gates[f"{level}: flat regions within 1 HU on average"] = bool(abs(bias[:, 0].mean()) < 1.0)
        for name, table in others.items():
            difference = {metric: interval(ours[metric] - table[metric]) for metric in METRICS}
            levels[level][f"ct-denoise minus {name}"] = difference
            gates[f"{level}: lower RMSE than {name}, 95 % interval"] = difference["rmse_hu"][2] < 0.0
    return Report(title, levels, gates)


def print_report(report: Report, *, gated: bool) -> None:
    """The figures as text, and whether each gate holds."""
    lines = [report.title]
    for level, figures in report.levels.items():
        lines.append(f"  {level}")
        for name, values in figures.items():
            shown = "  ".join(f"{key} {m:.3f} [{a:.3f}, {b:.3f}]" for key, (m, a, b) in values.items())
            lines.append(f"    {name:28s} {shown}")
    if gated:
        lines += [f"  {'pass' if passed else 'FAIL'}  {gate}" for gate, passed in report.gates.items()]
    sys.stdout.write("\n".join(lines) + "\n")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--phantoms", type=int, default=12)
    parser.add_argument("--model", type=Path, help="an ONNX file in place of the committed one")
    parser.add_argument("--development", action="store_true")
    arguments = parser.parse_args()
    kind, make = ("development", development_cases) if arguments.development else ("held-out", held_out_cases)
    title = f"simulated, {kind} family, n={arguments.phantoms} phantoms"
    file: Path | None = arguments.model
    reports = [measure(make(arguments.phantoms, NOISE_LEVELS), title, baselines(), file)]
    reports += [measure(cases, title, baselines(), file) for title, cases in _real(arguments.development)]
    for report in reports:
        print_report(report, gated=report is reports[0])
    times = {threads: slice_milliseconds(file, threads) for threads in (1, 2)}
    for threads, (median, least, most) in times.items():
        sys.stdout.write(f"512 x 512 on {threads} cores: median {median} ms [{least}, {most}]\n")
    if arguments.json is not None:
        content = {"reports": [vars(report) for report in reports], "slice_ms": times}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if all(reports[0].gates.values()) else 1


def _real(development: bool) -> Iterable[tuple[str, list[Case]]]:
    """The real images that there are, with their title."""
    folder = Path(os.environ.get("APPLIANCE_TEST_DATA") or PACKAGE.parents[2] / "shared" / "data")
    if not development and all((folder / series).is_dir() for series in REAL_SERIES):
        cases = real_cases(folder, REAL_NOISE_LEVELS)
        slices = len(cases) // len(REAL_NOISE_LEVELS)
        yield f"real, n={slices} slices of 2 series, added noise; no gate", cases


if __name__ == "__main__":
    sys.exit(main())
