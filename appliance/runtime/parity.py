"""Do two runners of one model give the same answers? The gate that an engine has to pass.

Pure comparison: it knows neither what the candidate is nor where it runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.domain.errors import GiveUp
from appliance.runtime.base import Profile, Runner, Shape, Tensors

PERTURBATIONS = 2
"""Variants of each golden case with changed values: an engine must be right not only where it was tried."""
_SEED = 20_260_101


@dataclass(frozen=True)
class OutputParity:
    """How far one output is from the reference, over all cases."""

    largest_difference: float
    limit: float
    psnr_db: float
    problem: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the output is what the reference says, within the model's limit."""
        return self.problem is None and self.largest_difference <= self.limit


@dataclass(frozen=True)
class Parity:
    """The answer of the gate. Every output has to pass on every case."""

    cases: int
    outputs: Mapping[str, OutputParity]

    @property
    def passed(self) -> bool:
        """Whether the candidate may serve."""
        return self.cases > 0 and all(output.passed for output in self.outputs.values())

    def as_dict(self) -> dict[str, Any]:
        """For the engine's record and the log."""
        outputs = {
            name: {
                "passed": output.passed,
                "largest_difference": _finite(output.largest_difference),
                "limit": output.limit,
                "psnr_db": _finite(output.psnr_db),
                "problem": output.problem,
            }
            for name, output in self.outputs.items()
        }
        return {"passed": self.passed, "cases": self.cases, "outputs": outputs}


def compare(
    candidate: Runner,
    reference: Runner,
    golden: Sequence[Tensors],
    profiles: Sequence[Profile],
    limits: Mapping[str, float],
) -> Parity:
    """Run both on the golden cases, on perturbed ones, and on every end of every profile.

    `limits` maps each output to the largest absolute difference that it may have.

    Raises:
        GiveUp: the reference itself fails, or has an output without a limit.
        TryAgain: as the candidate does.
    """
    worst: dict[str, OutputParity] = {}
    cases = 0
    for inputs in _cases(golden, profiles):
        expected = reference.run(inputs)
        if set(expected) != set(limits):
            raise GiveUp(f"the model has the outputs {sorted(expected)}, but limits for {sorted(limits)}")
        answer = candidate.run(inputs)
        cases += 1
        for name, limit in limits.items():
            measured = _difference(answer.get(name), expected[name], limit)
            worst[name] = _worse(worst[name], measured) if name in worst else measured
    return Parity(cases, worst)


def _cases(golden: Sequence[Tensors], profiles: Sequence[Profile]) -> Iterator[Tensors]:
    random = np.random.default_rng(_SEED)
    for case in golden:
        yield case
        for _ in range(PERTURBATIONS):
            yield {name: _perturbed(values, random) for name, values in case.items()}
    for profile in profiles:
        for end in ("smallest", "usual", "largest"):
            shapes = {name: getattr(limits, end) for name, limits in profile.items()}
            yield {name: tiled(golden[0][name], shape) for name, shape in shapes.items()}


def _perturbed(values: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Every value up to 1 % of itself away, and the whole turned around in its last axis."""
    factors = 1.0 + 0.01 * random.uniform(-1.0, 1.0, values.shape)
    return np.ascontiguousarray((values * factors)[..., ::-1] if values.ndim > 2 else values).astype(
        np.float32
    )


def tiled(values: NDArray[np.float32], shape: Shape) -> NDArray[np.float32]:
    """`values` repeated, or cut off, to `shape`."""
    for axis, size in enumerate(shape):
        values = np.take(values, np.arange(size) % values.shape[axis], axis=axis)
    return np.ascontiguousarray(values)


def _difference(
    answer: NDArray[np.float32] | None, expected: NDArray[np.float32], limit: float
) -> OutputParity:
    if answer is None:
        return OutputParity(np.inf, limit, -np.inf, "the output is missing")
    if answer.shape != expected.shape:
        return OutputParity(np.inf, limit, -np.inf, f"the shape is {answer.shape}, not {expected.shape}")
    if not np.isfinite(answer).all():
        return OutputParity(np.inf, limit, -np.inf, "some values are not finite")
    error = answer.astype(np.float64) - expected
    noise = float(np.mean(error**2))
    span = float(np.ptp(expected)) or 1.0
    psnr = np.inf if noise == 0.0 else 10.0 * np.log10(span**2 / noise)
    return OutputParity(float(np.abs(error).max(initial=0.0)), limit, float(psnr))


def _worse(one: OutputParity, other: OutputParity) -> OutputParity:
    return OutputParity(
        max(one.largest_difference, other.largest_difference),
        one.limit,
        min(one.psnr_db, other.psnr_db),
        one.problem or other.problem,
    )


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return round(value, 6) if np.isfinite(value) else None
