"""A library of scanned training phantoms, written once and read by the training script.

python -m tools.simulate.ct_library --out build/ct-denoise.npz
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tools.simulate.ct import Scan, scan
from tools.simulate.ct_phantoms import TRAINING_FAMILIES, Family, training_acquisition

SIZE = 256
NOISE_HU = (4.0, 150.0)
"""Range of the noise wanted at the centre; the mean over the body is about 0.6 of it."""


@dataclass(frozen=True)
class Library:
    """Scans as arrays: `clean` (n, rows, columns), `noise` (n, realisations, rows, columns), `body`."""

    clean: NDArray[np.float32]
    noise: NDArray[np.float32]
    body: NDArray[np.bool_]


def simulate(
    count: int, seed: int, families: Mapping[str, Family] = TRAINING_FAMILIES, realisations: int = 2
) -> list[Scan]:
    """Scan `count` phantoms, the families in turn, with noise log-uniform over `NOISE_HU`."""
    scans = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        family = list(families.values())[index % len(families)]
        how = training_acquisition(rng, float(np.exp(rng.uniform(*np.log(NOISE_HU)))))
        scans.append(scan(family(SIZE, rng), how, rng, realisations))
    return scans


def save(path: Path, scans: list[Scan]) -> None:
    """Write `scans` as one `.npz` file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        clean=np.stack([one.clean for one in scans]),
        noise=np.stack([np.stack(one.noise) for one in scans]),
        body=np.stack([one.body for one in scans]),
    )


def load(paths: Sequence[Path]) -> Library:
    """Read what `save` wrote, all files as one library."""
    files = [np.load(path) for path in paths]
    clean, noise, body = (
        np.concatenate([file[name] for file in files]) for name in ("clean", "noise", "body")
    )
    return Library(clean, noise, body)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    save(arguments.out, simulate(arguments.count, arguments.seed))
    sys.stdout.write(f"{arguments.count} scans in {arguments.out}\n")


if __name__ == "__main__":
    main()
