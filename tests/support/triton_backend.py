"""What a Triton server with the Python backend runs for a model: ONNX Runtime on the file beside it.

Copied into the server's model repository; runs in the environment of `tools/environment triton-server`.
"""

from pathlib import Path
from typing import Any

import onnxruntime
import triton_python_backend_utils as backend

GRAPH = Path(__file__).with_name("model.onnx")


def session() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(GRAPH.read_bytes(), options, providers=["CPUExecutionProvider"])


class TritonPythonModel:
    """The class that the backend looks for."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Tell the server the graph's tensors."""
        graph = session()
        for add, tensors in (
            (config.add_input, graph.get_inputs()),
            (config.add_output, graph.get_outputs()),
        ):
            for tensor in tensors:
                shape = [size if isinstance(size, int) else -1 for size in tensor.shape]
                add({"name": tensor.name, "data_type": "TYPE_FP32", "dims": shape})
        config.set_max_batch_size(0)
        return config

    def initialize(self, _arguments: dict[str, str]) -> None:
        """Load the graph."""
        self.graph = session()
        self.outputs = [tensor.name for tensor in self.graph.get_outputs()]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run each request by itself."""
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        """One response."""
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        values = self.graph.run(self.outputs, inputs)
        return backend.InferenceResponse(list(map(backend.Tensor, self.outputs, values)))
