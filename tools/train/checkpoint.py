"""Where a training run stands, on disk: a run that was stopped goes on as if it had not been.

Nothing in here needs PyTorch: a run turns its tensors into arrays first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FACTS = "facts"


@dataclass(frozen=True)
class Checkpoint:
    """All that the next step depends on.

    `configuration` defines the run, `step` counts the steps that are done, `arrays` are weights, moments
    and samples by name, `facts` is what JSON holds: counters and the states of random generators.
    """

    configuration: Mapping[str, Any]
    step: int
    arrays: Mapping[str, NDArray[Any]]
    facts: Mapping[str, Any]

    def part(self, prefix: str) -> dict[str, NDArray[Any]]:
        """The arrays whose names begin with the prefix, by the rest of their names."""
        return {
            name.removeprefix(prefix): values
            for name, values in self.arrays.items()
            if name.startswith(prefix)
        }


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the file as a whole, so that a run stopped meanwhile leaves the previous one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(path.name + ".part")
    facts = json.dumps(
        {
            "configuration": dict(checkpoint.configuration),
            "step": checkpoint.step,
            "facts": dict(checkpoint.facts),
        }
    )
    arrays: dict[str, Any] = {**checkpoint.arrays, _FACTS: np.array(facts)}
    with written.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    written.replace(path)


def read(path: Path, configuration: Mapping[str, Any] | None = None) -> Checkpoint:
    """Read a file that `write` wrote, of the run with this configuration if one is given.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it belongs to a run with another configuration.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    said = json.loads(str(arrays.pop(_FACTS)))
    if configuration is not None:
        _compare(path, said["configuration"], json.loads(json.dumps(dict(configuration))))
    return Checkpoint(said["configuration"], said["step"], arrays, said["facts"])


def _compare(path: Path, said: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    other = sorted(name for name in {*said, *asked} if said.get(name) != asked.get(name))
    if other:
        raise ValueError(f"{path} is of a run with other {', '.join(other)}")


def progress_line(step: int, steps: int, done: int, seconds: float, loss: float) -> str:
    """How far a run is, and when it will end if it goes on as in the last `done` steps of `seconds`."""
    pace = seconds / done
    left = pace * (steps - step)
    return f"{step}/{steps} loss {loss:.3f}, {pace:.2f} s a step, {left / 60:.0f} min left"
