"""Is what a model answers of the kind that its task needs? Nothing else may reach a result.

An array of another shape could be broadcast, and a comparison with NaN says no: both may pass for answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from appliance.domain.errors import GiveUp
from appliance.runtime.base import Outputs, Runner, Shape, Tensors, run_each

NON_FINITE = "non_finite_output"
WRONG_SHAPE = "wrong_output_shape"

Shapes = Mapping[str, Shape]


class WrongAnswer(GiveUp):
    """The model is at fault, not the images. `reason` is one of the words above."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def check_answer(outputs: Outputs, shapes: Shapes) -> None:
    """Look for every output of `shapes`; what a graph returns beside them does not matter.

    Raises:
        WrongAnswer: one is missing, has another shape, or holds values that are not finite numbers.
    """
    for name, shape in shapes.items():
        values = outputs.get(name)
        if values is None:
            raise WrongAnswer(WRONG_SHAPE, f"the model returned no {name}")
        if values.shape != shape:
            raise WrongAnswer(WRONG_SHAPE, f"the model returned {name} as {values.shape} instead of {shape}")
        if not _is_finite(values):
            raise WrongAnswer(NON_FINITE, f"the model returned values of {name} that are not finite numbers")


class CheckedRunner:
    """A runner, of which every answer is looked at before anybody uses it."""

    def __init__(self, runner: Runner, shapes: Callable[[Tensors], Shapes]) -> None:
        """`shapes` says what outputs have to come of given inputs."""
        self._runner = runner
        self._shapes = shapes

    @property
    def name(self) -> str:
        """See `Runner.name`."""
        return self._runner.name

    def run(self, inputs: Tensors) -> Outputs:
        """See `Runner.run`.

        Raises:
            WrongAnswer: the outputs are not what the task needs.
        """
        outputs = self._runner.run(inputs)
        check_answer(outputs, self._shapes(inputs))
        return outputs

    def run_each(self, batches: Iterable[Tensors]) -> Iterator[Outputs]:
        """See `Overlapping.run_each`. Raises: as `run`."""
        expected = deque[Shapes]()

        def noted() -> Iterator[Tensors]:
            for inputs in batches:
                expected.append(self._shapes(inputs))
                yield inputs

        for outputs in run_each(self._runner, noted()):
            check_answer(outputs, expected.popleft())
            yield outputs


def _is_finite(values: NDArray[np.float32]) -> bool:
    """A sum is five times as fast as a look at each value, and never finite if one of them is not."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum())) or bool(np.isfinite(values).all())
