"""A server of KServe v2 over gRPC that runs one ONNX graph, and fails as a test tells it to."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc as services

from appliance.runtime.onnx import OnnxRunner
from tests.support.processes import free_port

Outputs = dict[str, NDArray[np.float32]]


@dataclass
class Behaviour:
    """What the server does. `fail` gets the number of each request for inference, from 0."""

    name: str = "head-ct-triage"
    versions: list[str] = field(default_factory=lambda: ["1"])
    server: str = "2.51.0"
    ready: bool = True
    most: int = 0
    sha256: str = ""
    configuration: bool = True
    sharing: bool = True
    fail: Callable[[int], grpc.StatusCode | None] = lambda _number: None
    alter: Callable[[Outputs], Outputs] = lambda outputs: outputs
    tell: Callable[[Any], Any] = lambda metadata: metadata
    answer: Callable[[Any], Any] = lambda response: response
    hang: Event | None = None


class KServe(services.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The server. `batches` are the sizes of those that it ran, `used` the regions that they lay in.

    `stop` and `start` are a restart: it comes back on its port and has forgotten all.
    """

    def __init__(
        self, graph: OnnxRunner, behaviour: Behaviour, credentials: grpc.ServerCredentials | None = None
    ) -> None:
        self.graph = graph
        self.behaviour = behaviour
        self.port = free_port()
        self.batches: list[int] = []
        self.used: list[str] = []
        self.asked = 0
        self.regions: dict[str, mmap.mmap] = {}
        self._credentials = credentials
        self._server: grpc.Server | None = None

    def start(self) -> KServe:
        """Listen."""
        # SO_REUSEPORT would let two servers answer on one port.
        options = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
        self._server = grpc.server(ThreadPoolExecutor(4), options=options)
        services.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        address = f"127.0.0.1:{self.port}"
        if self._credentials is None:
            self._server.add_insecure_port(address)
        else:
            self._server.add_secure_port(address, self._credentials)
        self._server.start()
        return self

    def stop(self) -> None:
        """Cut every connection."""
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None
        self.regions.clear()

    def ServerLive(self, _request: Any, _context: Any) -> Any:  # noqa: N802 - the protocol's name
        return messages.ServerLiveResponse(live=True)

    def ServerReady(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return messages.ServerReadyResponse(ready=True)

    def ModelReady(self, request: Any, _context: Any) -> Any:  # noqa: N802
        known = request.name == self.behaviour.name and request.version in ("", *self.behaviour.versions)
        return messages.ModelReadyResponse(ready=known and self.behaviour.ready)

    def ServerMetadata(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return messages.ServerMetadataResponse(name="triton", version=self.behaviour.server)

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.name != self.behaviour.name:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown model")
        answer = messages.ModelMetadataResponse(name=request.name, versions=self.behaviour.versions)
        for tensors, shapes in (
            (answer.inputs, self.graph.signature.inputs),
            (answer.outputs, self.graph.signature.outputs),
        ):
            for name, shape in shapes.items():
                tensors.add(name=name, datatype="FP32", shape=shape)
        return self.behaviour.tell(answer)

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        if not self.behaviour.configuration:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "only KServe v2")
        answer = messages.ModelConfigResponse()
        answer.config.name = request.name
        answer.config.max_batch_size = self.behaviour.most
        if self.behaviour.sha256:
            answer.config.parameters["sha256"].string_value = self.behaviour.sha256
        return answer

    def SystemSharedMemoryStatus(self, _request: Any, context: Any) -> Any:  # noqa: N802
        if not self.behaviour.sharing:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "no shared memory")
        answer = messages.SystemSharedMemoryStatusResponse()
        for name, region in self.regions.items():
            answer.regions[name].name = name
            answer.regions[name].byte_size = len(region)
        return answer

    def SystemSharedMemoryRegister(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.name in self.regions:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "that region is known")
        with (Path("/dev/shm") / request.key.lstrip("/")).open("r+b") as file:
            self.regions[request.name] = mmap.mmap(file.fileno(), request.byte_size)
        return messages.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(self, request: Any, _context: Any) -> Any:  # noqa: N802
        self.regions.pop(request.name, None)
        return messages.SystemSharedMemoryUnregisterResponse()

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        number, self.asked = self.asked, self.asked + 1
        code = self.behaviour.fail(number)
        if code is not None:
            context.abort(code, "as the test wants it")
        if self.behaviour.hang is not None:
            self.behaviour.hang.wait(30.0)
        place = request.inputs[0].parameters
        sharing = "shared_memory_region" in place  # asking for an entry makes one
        region = place["shared_memory_region"].string_param if sharing else ""
        inputs = {tensor.name: self._input(request, index) for index, tensor in enumerate(request.inputs)}
        self.batches.append(len(next(iter(inputs.values()))))
        self.used.append(region)
        outputs = self.behaviour.alter(self.graph.run(inputs))
        answer = messages.ModelInferResponse(
            model_name=request.model_name, model_version=request.model_version
        )
        wanted = {tensor.name: tensor for tensor in request.outputs}
        for name, values in outputs.items():
            answer.outputs.add(name=name, datatype="FP32", shape=values.shape)
            if name in wanted:
                self._place(wanted[name], values)
            else:
                answer.raw_output_contents.append(values.tobytes())
        return self.behaviour.answer(answer)

    def _input(self, request: Any, index: int) -> NDArray[np.float32]:
        tensor = request.inputs[index]
        if "shared_memory_region" not in tensor.parameters:
            content = request.raw_input_contents[index]
            return np.frombuffer(content, np.float32).reshape(tuple(tensor.shape))
        place = tensor.parameters
        region = self.regions[place["shared_memory_region"].string_param]
        offset = place["shared_memory_offset"].int64_param
        return np.ndarray(tuple(tensor.shape), np.float32, buffer=region, offset=offset).copy()

    def _place(self, tensor: Any, values: NDArray[np.float32]) -> None:
        region = self.regions[tensor.parameters["shared_memory_region"].string_param]
        offset = tensor.parameters["shared_memory_offset"].int64_param
        region[offset : offset + values.nbytes] = values.tobytes()
