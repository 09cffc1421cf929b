"""What a model task needs of a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[np.float32]]


class Runner(Protocol):
    """A model that is loaded and warm."""

    name: str
    """The runtime's name as `appliance models` shows it."""

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.float32]]:
        """Run one batch.

        `inputs` maps input names to float32 arrays whose first axis is the batch; the result maps
        every output name of the graph to its array.

        Raises:
            TryAgain: the device failed in a way that a restart may heal.
            GiveUp: the inputs do not fit the graph.
        """
        ...
