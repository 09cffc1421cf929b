"""Choose the default strength of `ct-denoise` on validation phantoms of the training families.

    python -m tools.validate.ct_denoise_strength [--phantoms N]

The rule: the lowest RMSE, relative to the input's and averaged over noise levels and phantoms. The
held-out family takes no part in it. Strength 1 still keeps a part of the noise, as the target does.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from tools.simulate.ct import scan
from tools.simulate.ct_phantoms import TRAINING_FAMILIES, training_acquisition
from tools.validate.ct_denoise import model
from tools.validate.ct_denoise_cases import NOISE_LEVELS, SIZE, Case

STRENGTHS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)


def validation_cases(phantoms: int, seed: int = 4711) -> list[Case]:
    """Phantoms of the training families that no training library holds."""
    cases = []
    for number in range(phantoms):
        rng = np.random.default_rng([seed, number])
        phantom = list(TRAINING_FAMILIES.values())[number % len(TRAINING_FAMILIES)](SIZE, rng)
        for level, noise_hu in NOISE_LEVELS.items():
            scanned = scan(phantom, training_acquisition(rng, noise_hu), rng)
            noisy = np.round(scanned.clean + scanned.noise[0])
            cases.append(Case(number, level, noisy, scanned.clean, scanned.body))
    return cases


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--phantoms", type=int, default=12)
    cases = validation_cases(parser.parse_args().phantoms)
    denoise, _ = model()
    ratios = {}
    for strength in STRENGTHS:
        each = []
        for case in cases:
            error = (denoise(case.noisy, strength) - case.clean)[case.body]
            each.append(float(np.sqrt(np.mean(error**2))) / case.noise_hu)
        ratios[strength] = float(np.mean(each))
        sys.stdout.write(f"strength {strength:4.2f}: RMSE {ratios[strength]:.4f} of the input's\n")
    chosen = min(ratios, key=lambda strength: ratios[strength])
    sys.stdout.write(f"simulated, validation, n={len(cases)} images: chosen {chosen}\n")


if __name__ == "__main__":
    main()
