"""What a model task needs of a runtime, and what a runtime needs to know of a graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from appliance.domain.errors import GiveUp, TryAgain

Tensors = Mapping[str, NDArray[np.float32]]
Outputs = dict[str, NDArray[np.float32]]
Shape = tuple[int, ...]


class Unavailable(GiveUp):
    """This machine lacks what a runtime needs; the sentence says what."""


class DeviceFault(TryAgain):
    """The GPU failed or hangs; only a new process gets it back."""


class OutOfDeviceMemory(TryAgain):
    """The GPU has no memory for this batch; a smaller one, or another runtime, may do."""


@dataclass(frozen=True)
class Limits:
    """Shapes that one input may have in a profile: both ends, and the one to be fastest at."""

    smallest: Shape
    usual: Shape
    largest: Shape

    def hold(self, shape: Shape) -> bool:
        """Whether an input of this shape lies within the limits."""
        return len(shape) == len(self.smallest) and all(
            low <= size <= high for low, size, high in zip(self.smallest, shape, self.largest, strict=True)
        )


@dataclass(frozen=True)
class Signature:
    """The float32 tensors of a graph: name and shape of each, where -1 stands for any size."""

    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]


Profile = Mapping[str, Limits]
"""The limits of every input by its name: what a TensorRT engine is built for. Axis 0 is the batch."""


def fitting_profile(profiles: Sequence[Profile], inputs: Tensors) -> int | None:
    """The profile with the largest batch of those that take such images, however many they are."""
    fitting = [
        number
        for number, profile in enumerate(profiles)
        if set(profile) == set(inputs)
        and all(
            limits.hold((limits.smallest[0], *inputs[name].shape[1:])) for name, limits in profile.items()
        )
    ]
    return max(fitting, key=lambda number: largest_batch(profiles[number]), default=None)


def largest_batch(profile: Profile) -> int:
    """How many images a profile takes at once."""
    return min(limits.largest[0] for limits in profile.values())


def batches_of(inputs: Tensors, most: int) -> list[Tensors]:
    """`inputs` in parts of at most `most` images."""
    count = len(next(iter(inputs.values())))
    return [
        {name: values[first : first + most] for name, values in inputs.items()}
        for first in range(0, count, most)
    ]


class Runner(Protocol):
    """A model that is loaded and warm."""

    @property
    def name(self) -> str:
        """The runtime's name as `appliance models` shows it."""
        ...

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.float32]]:
        """Run one batch.

        `inputs` maps input names to float32 arrays whose first axis is the batch; the result maps
        every output name of the graph to its array.

        Raises:
            TryAgain: the device failed in a way that a restart may heal.
            GiveUp: the inputs do not fit the graph.
        """
        ...


@runtime_checkable
class Overlapping(Protocol):
    """A runner that takes up the next batch while it computes one."""

    def run_each(self, batches: Iterable[Tensors]) -> Iterator[Outputs]:
        """The outputs of each batch, in order. Batches are taken from the iterable before they are due.

        Raises: as `Runner.run`.
        """
        ...


def run_each(runner: Runner, batches: Iterable[Tensors]) -> Iterator[Outputs]:
    """The outputs of each batch, in order; overlapped where the runner can do that.

    Raises: as `Runner.run`.
    """
    return runner.run_each(batches) if isinstance(runner, Overlapping) else map(runner.run, batches)
