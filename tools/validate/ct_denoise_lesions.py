"""Insert lesions into phantoms of the development family and measure how much of their contrast stays.

    python -m tools.validate.ct_denoise_lesions [--phantoms N] [--model FILE]

A lesion is a disc added to the noisy image. What stays is the difference, inside the disc, between the
denoised image with it and the one without it, as a part of what was added. Non-local means runs at the
strength that has the lowest RMSE on these images, for each noise level.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tools.simulate.ct import Image
from tools.validate.ct_denoise import NLM_FACTORS, Denoise, interval, model, non_local_means
from tools.validate.ct_denoise_cases import NOISE_LEVELS, Case, development_cases

RADII = (2.0, 3.0, 5.0)
CONTRASTS = (1.0, 2.0, 4.0, 8.0)
"""In units of the noise."""
PLACES = 3
"""Lesions of each kind in each image, one after the other."""


def with_lesions(case: Case, contrast_hu: float, radius: float) -> Iterator[tuple[Image, NDArray[np.bool_]]]:
    """The noisy image with one lesion, and where the lesion is; at `PLACES` places in the body."""
    rows, columns = np.indices(case.noisy.shape)
    inside = np.argwhere(case.body)
    for row, column in inside[np.linspace(0, len(inside) - 1, PLACES + 2).astype(int)[1:-1]]:
        lesion = np.hypot(rows - row, columns - column) <= radius
        yield np.asarray(case.noisy + np.float32(contrast_hu) * lesion, np.float32), lesion


def kept(denoise: Denoise, case: Case, contrast_hu: float, radius: float) -> float:
    """The part of the contrast that stays, the mean over the places."""
    without = denoise(case.noisy, case.noise_hu)
    parts = [
        float((denoise(image, case.noise_hu) - without)[lesion].mean()) / contrast_hu
        for image, lesion in with_lesions(case, contrast_hu, radius)
    ]
    return float(np.mean(parts))


def best_non_local_means(cases: list[Case]) -> Denoise:
    """Non-local means at the strength of lowest RMSE on `cases`."""

    def error(denoise: Denoise) -> float:
        squared = [(denoise(case.noisy, case.noise_hu) - case.clean)[case.body] ** 2 for case in cases]
        return float(np.mean([np.sqrt(part.mean()) for part in squared]))

    return min(
        (non_local_means(factor, knows) for factor in NLM_FACTORS for knows in (False, True)), key=error
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--phantoms", type=int, default=4)
    parser.add_argument("--model", type=Path, help="an ONNX file in place of the committed one")
    arguments = parser.parse_args()
    apply, strength = model(arguments.model)
    cases = development_cases(arguments.phantoms, NOISE_LEVELS)
    sys.stdout.write(f"simulated, development family, n={arguments.phantoms} phantoms: contrast kept\n")
    for level in NOISE_LEVELS:
        here = [case for case in cases if case.level == level]
        methods: dict[str, Denoise] = {
            "ct-denoise": lambda image, _: apply(image, strength),
            "nlm": best_non_local_means(here),
        }
        for radius in RADII:
            for contrast in CONTRASTS:
                shown = []
                for name, denoise in methods.items():
                    parts = [kept(denoise, case, contrast * case.noise_hu, radius) for case in here]
                    shown.append("{} {:.2f} [{:.2f}, {:.2f}]".format(name, *interval(np.array(parts))))
                line = f"{level:9s} radius {radius:.0f} px, {contrast:.0f} x noise: " + "  ".join(shown)
                sys.stdout.write(line + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
