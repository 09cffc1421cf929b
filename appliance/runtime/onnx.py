"""ONNX Runtime on the CPU: the embedded default, which needs no GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from appliance.domain.errors import GiveUp
from appliance.runtime.base import Tensors

NAME = "onnxruntime-cpu"


class OnnxRunner:
    """One ONNX graph in an inference session of its own."""

    name = NAME

    def __init__(self, weights: Path, *, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(weights), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.float32]]:
        """See `Runner.run`."""
        try:
            values = self._session.run(self._outputs, dict(inputs))
        except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument as error:
            raise GiveUp(f"the inputs do not fit the model's graph: {error}") from error
        return dict(zip(self._outputs, values, strict=True))
