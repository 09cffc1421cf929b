"""Model packages with a fault: like head-ct-triage from outside, but each graph goes wrong in its own way."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from tests.support.onnx_graphs import Array, Graph, Node, Tensor
from tests.support.processes import ROOT

TEMPLATE = ROOT / "engines" / "head-ct-triage"
_INPUTS = (
    Tensor("hu", ("n", 1, "h", "w")),
    Tensor("hull", ("n", 1, "h", "w")),
    Tensor("levels", ("n", 4)),
)
_HEAT, _DISTANCE = Tensor("heat", ("n", 1, "h", "w")), Tensor("distance", ("n", 1))
_LOWEST = -(2**63)

# What depends on the input cannot be computed ahead when the graph is loaded.
_ZERO = (
    Node("ReduceMean", ["levels"], ["mean"], {"axes": [1], "keepdims": 1}),
    Node("Mul", ["mean", "nothing"], ["zero"]),
)


def _triage(
    nodes: Sequence[Node], constants: Mapping[str, Array] | None = None, *, columns: int | str = 1
) -> bytes:
    """A graph that returns an empty heat map, no distance, and the `probability` that `nodes` compute."""
    others = (Node("Mul", ["hu", "nothing"], ["heat"]), Node("Identity", ["zero"], ["distance"]))
    return Graph(
        [*_ZERO, *others, *nodes],
        _INPUTS,
        [Tensor("probability", ("n", columns)), _HEAT, _DISTANCE],
        {"nothing": np.array(0.0, np.float32), **(constants or {})},
    ).model()


def sound() -> bytes:
    """Answers as it should, and always that there is no finding."""
    return _triage([Node("Identity", ["zero"], ["probability"])])


def not_finite() -> bytes:
    """Answers NaN: zero by zero."""
    return _triage([Node("Div", ["zero", "zero"], ["probability"])])


def wrong_shape() -> bytes:
    """Answers four probabilities for each image instead of one."""
    return _triage([Node("Identity", ["levels"], ["probability"])], columns="m")


def hangs() -> bytes:
    """Counts to 10^12 before it answers: days."""
    body = Graph(
        [Node("Identity", ["on_before"], ["on"]), Node("Add", ["before", "one"], ["after"])],
        [
            Tensor("turn", (), np.int64),
            Tensor("on_before", (), np.bool_),
            Tensor("before", ("n", 1)),
        ],
        [Tensor("on", (), np.bool_), Tensor("after", ("n", 1))],
        {"one": np.array(1.0, np.float32)},
    )
    constants: dict[str, Array] = {"turns": np.array(10**12, np.int64), "true": np.array(True)}
    return _triage([Node("Loop", ["turns", "true", "zero"], ["probability"], {"body": body})], constants)


def needs_memory() -> bytes:
    """Asks for 2^57 bytes or more for one tensor, which no machine has."""
    constants: dict[str, Array] = {
        "factors": np.array([1, 1024, 1024, 2048], np.int64),
        "axis": np.array([1], np.int64),
    }
    nodes = (
        Node("Shape", ["hu"], ["shape"]),
        Node("Mul", ["shape", "factors"], ["huge_shape"]),
        Node("ConstantOfShape", ["huge_shape"], ["huge"], {"value": np.array([0.0], np.float32)}),
        Node("ReduceMean", ["huge"], ["means"], {"axes": [1, 2, 3], "keepdims": 0}),
        Node("Unsqueeze", ["means", "axis"], ["probability"]),
    )
    return _triage(nodes, constants)


def crashes() -> bytes:
    """Divides the lowest 64-bit integer by -1, where an x86-64 processor traps: SIGFPE ends the process."""
    constants: dict[str, Array] = {
        "lowest": np.array([_LOWEST], np.int64),
        "minus_one": np.array([-1], np.int64),
    }
    nodes = (
        Node("Cast", ["zero"], ["whole_zero"], {"to": 7}),
        Node("Add", ["whole_zero", "lowest"], ["dividend"]),
        Node("Add", ["whole_zero", "minus_one"], ["divisor"]),
        Node("Div", ["dividend", "divisor"], ["quotient"]),
        Node("Cast", ["quotient"], ["probability"], {"to": 1}),
    )
    return _triage(nodes, constants)


def crashes_at_load() -> bytes:
    """The same of constants, which ONNX Runtime divides while it loads the graph."""
    constants: dict[str, Array] = {
        "lowest": np.array([_LOWEST], np.int64),
        "minus_one": np.array([-1], np.int64),
    }
    nodes = (
        Node("Div", ["lowest", "minus_one"], ["quotient"]),
        Node("Cast", ["quotient"], ["constant"], {"to": 1}),
        Node("Add", ["zero", "constant"], ["probability"]),
    )
    return _triage(nodes, constants)


def write_package(engines: Path, model: str, graph: Callable[[], bytes]) -> Path:
    """A package `model` in the folder `engines`, with the contract and golden inputs of head-ct-triage."""
    folder = engines / model
    folder.mkdir(parents=True)
    content = graph()
    (folder / "model.onnx").write_bytes(content)
    shutil.copy(TEMPLATE / "golden.npz", folder)
    manifest = yaml.safe_load((TEMPLATE / "model.yaml").read_text())
    manifest |= {"id": model, "title": f"Test model {model}"}
    manifest["weights"]["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))
    return folder
