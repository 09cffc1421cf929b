"""ONNX Runtime: the embedded default, which needs no GPU and uses one where its CUDA provider finds it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from appliance.domain.errors import GiveUp
from appliance.runtime.base import Shape, Signature, Tensors

NAME = "onnxruntime-cpu"
NAME_CUDA = "onnxruntime-cuda"
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def preferred_name() -> str:
    """The name of the runner that a model gets if the library finds what it needs."""
    return NAME_CUDA if _CUDA in onnxruntime.get_available_providers() else NAME


class OnnxRunner:
    """One ONNX graph in an inference session of its own.

    `sha256` is that of the very bytes that were loaded. Graphs with weights in further files are refused.
    """

    def __init__(self, weights: Path, *, threads: int, cpu_only: bool = False) -> None:
        """Load `weights`; `cpu_only` leaves a GPU alone, for the reference that others are held to.

        Raises:
            GiveUp: the file is no graph that ONNX Runtime can run.
        """
        graph = weights.read_bytes()
        self.version = str(onnxruntime.__version__)
        self.sha256 = hashlib.sha256(graph).hexdigest()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        offered = onnxruntime.get_available_providers()
        wanted = [_CPU] if cpu_only or _CUDA not in offered else [_CUDA, _CPU]
        try:
            self._session = onnxruntime.InferenceSession(graph, sess_options=options, providers=wanted)
        except _REFUSALS as error:
            raise GiveUp(f"ONNX Runtime cannot load {weights.name}: {error}") from error
        # The provider stays out where the library has it, but the machine no GPU.
        self.name = NAME_CUDA if _CUDA in self._session.get_providers() else NAME
        self.signature = Signature(_shapes(self._session.get_inputs()), _shapes(self._session.get_outputs()))
        self._outputs = list(self.signature.outputs)

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.float32]]:
        """See `Runner.run`."""
        try:
            values = self._session.run(self._outputs, dict(inputs))
        except (_states.InvalidArgument, ValueError) as error:  # ValueError: an input is missing
            raise GiveUp(f"the inputs do not fit the model's graph: {error}") from error
        except _FAILURES as error:
            raise GiveUp(f"ONNX Runtime cannot run the model: {error}") from error
        return dict(zip(self._outputs, values, strict=True))


def _shapes(tensors: Iterable[Any]) -> dict[str, Shape]:
    """Sizes that have a name, or none, are free."""
    return {
        tensor.name: tuple(size if isinstance(size, int) else -1 for size in tensor.shape)
        for tensor in tensors
    }


_states = onnxruntime.capi.onnxruntime_pybind11_state
_FAILURES = (_states.Fail, _states.RuntimeException, _states.NotImplemented, _states.EPFail)
_REFUSALS = (_states.Fail, _states.InvalidGraph, _states.InvalidProtobuf, _states.NotImplemented)
