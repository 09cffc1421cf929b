"""Runs a model on its golden inputs in a process of its own: does it answer as its task needs?

`python -m appliance.runtime.trial PARENT` reads one request; see `child`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.runtime.answers import Shapes, check_answer
from appliance.runtime.base import Tensors
from appliance.runtime.child import answer, ask
from appliance.runtime.golden import read_checked, read_golden
from appliance.runtime.onnx import OnnxRunner


@dataclass(frozen=True)
class Trial:
    """A graph and its golden inputs; `shapes` are the outputs that each case has to have, in their order.

    Without golden inputs the graph is only loaded.
    """

    graph: str
    graph_sha256: str
    golden: str | None
    golden_sha256: str
    shapes: Sequence[Shapes]
    threads: int


def try_out(trial: Trial, *, limit_s: float) -> None:
    """Run the model once on each golden case, on ONNX Runtime.

    Raises:
        GiveUp: it cannot be loaded, or its answer is not what its task needs.
        TryAgain: the process died or took longer than `limit_s`.
    """
    ask(
        "appliance.runtime.trial",
        dataclasses.asdict(trial),
        lambda _line: None,
        what="test the model",
        limit_s=limit_s,
    )


def _run(request: dict[str, Any]) -> dict[str, Any]:
    trial = Trial(**request)
    read_checked(Path(trial.graph), trial.graph_sha256)
    runner = OnnxRunner(Path(trial.graph), threads=trial.threads, cpu_only=True)
    cases: Sequence[Tensors] = ()
    if trial.golden is not None:
        cases = read_golden(Path(trial.golden), trial.golden_sha256)
    for inputs, shapes in zip(cases, trial.shapes, strict=True):
        check_answer(runner.run(inputs), {name: tuple(shape) for name, shape in shapes.items()})
    return {}


if __name__ == "__main__":
    sys.exit(answer(_run))
