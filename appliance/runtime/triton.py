"""A model on a Triton server: batches go there over gRPC as binary tensors, or into memory that both share.

Two batches are on their way at a time, so that the server computes one while the other travels.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from appliance.config.triton import Triton, TritonModel
from appliance.domain.errors import GiveUp
from appliance.runtime.answers import WrongAnswer, check_answer
from appliance.runtime.base import Outputs, Shape, Signature, Tensors, batches_of
from appliance.runtime.shared_memory import Region, layout
from appliance.runtime.triton_client import Connection, ServerFault, agree

IN_FLIGHT = 2

_log = logging.getLogger(__name__)

_Shapes = tuple[tuple[str, Shape], ...]
_Shared = Mapping[str, tuple[int, Shape]]


@dataclass
class _Lane:
    """The place of one batch on its way. What went wrong once with shared memory is not tried again."""

    shares: bool = False
    region: Region | None = None


@dataclass
class _Call:
    """A batch, or a part of one, on its way until `due_s`.

    `shared` is where in `region` the server writes each output, and of which shape.
    """

    lane: _Lane
    inputs: Tensors
    due_s: float
    last: bool
    answer: Any
    region: Region | None
    shared: _Shared


class TritonRunner:
    """A model on a server whose tensors are those of the package's graph.

    `run` and `run_each` belong to one thread, `check` and `disconnect` to any.
    """

    def __init__(
        self, settings: Triton, model: str, *, signature: Signature, sha256: str, owner: str
    ) -> None:
        """Connect to the server and ask what it has for `model`, whose graph has `signature` and `sha256`.

        `owner` names this appliance among those on the machine, in what it registers with a local server.

        Raises:
            Unavailable: the client is not installed.
            ServerFault: the server or the model is away.
            AnotherModel: the server has another model under the name.
        """
        self._timeout_s = settings.timeout_s
        self._signature = signature
        self._outputs: dict[_Shapes, dict[str, Shape]] = {}
        self._lanes = [_Lane() for _ in range(IN_FLIGHT)]
        self._flying: deque[_Call] = deque()
        self._regions = f"appliance-{owner}-{model}-"
        self._connection = Connection(settings)
        try:
            place = settings.models.get(model, TritonModel())
            name = place.name or model
            self.served = self._connection.describe(name, place.version or "", signature, sha256)
            self.check()
            if settings.shared_memory:
                self._start_sharing()
        except (GiveUp, ServerFault):
            self._connection.close()
            raise

    @property
    def name(self) -> str:
        """The runtime as `appliance models` shows it."""
        return f"triton {self.served.server}"

    @property
    def ran(self) -> str:
        """Server, model and version, and the checksum of the model's file if the server names one."""
        digest = f" sha256:{self.served.sha256}" if self.served.sha256 else ""
        version = f"/{self.served.version}" if self.served.version else ""
        return f"{self.name} {self.served.name}{version}{digest}"

    @property
    def sharing(self) -> bool:
        """Whether batches are handed over in shared memory."""
        return any(lane.region is not None for lane in self._lanes)

    def check(self) -> None:
        """Ask whether the server and the model are well.

        Raises:
            ServerFault: they are not, or the connection broke since it was made.
        """
        self._connection.check(self.served.name, self.served.version)

    def run(self, inputs: Tensors) -> Outputs:
        """See `Runner.run`. A batch larger than the server takes is sent in parts.

        Raises:
            ServerFault: the server failed, did not answer in time, or answered nonsense.
            GiveUp: the server refuses this batch.
        """
        (outputs,) = self.run_each((inputs,))
        return outputs

    def run_each(self, batches: Iterable[Tensors]) -> Iterator[Outputs]:
        """The outputs of each batch, in order; the next is sent while one is computed.

        Raises: as `run`.
        """
        self._give_up(self._flying)  # of an iteration that nobody finished
        flying = self._flying = deque()
        free = deque(self._lanes)
        parts: list[Outputs] = []
        try:
            for inputs in batches:
                most = self.served.most
                split: Sequence[Tensors] = [inputs] if most is None else batches_of(inputs, most)
                due_s = time.monotonic() + self._timeout_s
                for number, part in enumerate(split):
                    if not free:
                        yield from self._land(flying, free, parts)
                    flying.append(self._send(free.popleft(), part, due_s, last=number == len(split) - 1))
            while flying:
                yield from self._land(flying, free, parts)
        finally:
            self._give_up(flying)

    def disconnect(self) -> None:
        """End the connection, from any thread; for what is on its way it was lost."""
        self._connection.close()

    def close(self) -> None:
        """Let the server forget the shared memory, and end the connection. Nothing may be on its way."""
        if self.sharing and not self._connection.lost:
            try:
                self._forget_regions()
            except ServerFault as error:
                _log.warning("shared_memory_kept_by_server", extra={"reason": str(error)})
        self._connection.close()

    def _land(self, flying: deque[_Call], free: deque[_Lane], parts: list[Outputs]) -> Iterator[Outputs]:
        call = flying[0]
        parts.append(self._collect(call))
        flying.popleft()
        free.append(call.lane)
        if call.last:
            yield (
                parts[0]
                if len(parts) == 1
                else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            )
            parts.clear()

    def _send(self, lane: _Lane, inputs: Tensors, due_s: float, *, last: bool) -> _Call:
        if self._connection.lost:
            raise ServerFault("the connection was lost", "unreachable")
        messages = self._connection.messages
        request = messages.ModelInferRequest(model_name=self.served.name, model_version=self.served.version)
        for name, values in inputs.items():
            request.inputs.add(name=name, datatype="FP32", shape=values.shape)
        shared = self._share(lane, request, inputs)
        if not shared:
            request.raw_input_contents.extend(
                np.ascontiguousarray(values, np.float32).tobytes() for values in inputs.values()
            )
        timeout_s = max(0.0, due_s - time.monotonic())
        answer = self._connection.service.ModelInfer.future(request, timeout=timeout_s)
        return _Call(lane, inputs, due_s, last, answer, lane.region if shared else None, shared)

    def _share(self, lane: _Lane, request: Any, inputs: Tensors) -> _Shared:
        """Put the batch into shared memory; where its outputs will be, or nothing if it has to be sent.

        How large the outputs are is known only after a batch of these shapes was sent.
        """
        outputs = self._outputs.get(_shapes_of(inputs)) if lane.shares else None
        if outputs is None:
            return {}
        shapes = [*(values.shape for values in inputs.values()), *outputs.values()]
        places, size = layout(shapes)
        if lane.region is None or lane.region.size < size:
            lane.region = self._new_region(lane, size)
            if lane.region is None:
                return {}
        for tensor, values, place in zip(request.inputs, inputs.values(), places, strict=False):
            lane.region.write(place[0], values)
            _refer(tensor, lane.region.name, place)
        answers = dict(zip(outputs, places[len(inputs) :], strict=True))
        for name, place in answers.items():
            _refer(request.outputs.add(name=name), lane.region.name, place)
        return {name: (place[0], outputs[name]) for name, place in answers.items()}

    def _collect(self, call: _Call) -> Outputs:
        try:
            response = call.answer.result()
        except self._connection.failure as error:
            fault = self._connection.fault(error)
            if call.region is not None and fault.cause == "failed":
                # It may have been the memory; without it the server says what is wrong, if anything is.
                self._give_up([call])
                _log.warning("shared_memory_not_used", extra={"reason": str(fault)})
                return self._collect(self._send(call.lane, call.inputs, call.due_s, last=call.last))
            if self._connection.refused(error):
                raise GiveUp("the server refuses a batch of this shape") from error
            raise fault from error
        if self._connection.lost:
            raise ServerFault("the connection was lost", "unreachable")
        return self._outputs_of(response, call)

    def _outputs_of(self, response: Any, call: _Call) -> Outputs:
        """The arrays of an answer, which is held to the signature: nobody else may look at it before."""
        count = len(next(iter(call.inputs.values())))
        shapes = {tensor.name: tuple(tensor.shape) for tensor in response.outputs}
        expected = self._signature.outputs
        if set(shapes) != set(expected) or any(
            tensor.datatype != "FP32"
            or not agree(shapes[tensor.name], (count, *expected[tensor.name][1:]))
            or (tensor.name in call.shared and shapes[tensor.name] != call.shared[tensor.name][1])
            for tensor in response.outputs
        ):
            raise ServerFault("the answer has other outputs than the model", "answer")
        if self.served.version and response.model_version != self.served.version:
            raise ServerFault("another version of the model answered", "answer")
        if call.region is None:
            outputs = _binary(response, shapes)
            self._outputs[_shapes_of(call.inputs)] = shapes
        else:
            outputs = {name: call.region.read(offset, shape) for name, (offset, shape) in call.shared.items()}
        try:
            check_answer(outputs, shapes)
        except WrongAnswer as error:
            raise ServerFault(str(error), "answer") from error
        return outputs

    def _give_up(self, calls: Iterable[_Call]) -> None:
        """Wait for these no longer. The server may still write where it would have answered."""
        for call in calls:
            call.answer.cancel()
            if call.region is not None and call.region is call.lane.region:
                call.lane.region, call.lane.shares = None, False

    def _new_region(self, lane: _Lane, size: int) -> Region | None:
        """Memory that the server has mapped too; None if that cannot be."""
        connection = self._connection
        service, messages = connection.service, connection.messages
        try:
            if lane.region is not None:
                old = messages.SystemSharedMemoryUnregisterRequest(name=lane.region.name)
                connection.ask(service.SystemSharedMemoryUnregister, old)
            # No two of them ever have one name: images of one appliance must not reach another.
            region = Region(f"{self._regions}{secrets.token_hex(8)}", size)
            request = messages.SystemSharedMemoryRegisterRequest(
                name=region.name, key=f"/{region.name}", offset=0, byte_size=size
            )
            try:
                connection.ask(service.SystemSharedMemoryRegister, request)
            finally:
                region.unlink()
        except (OSError, ServerFault) as error:
            lane.shares = False
            _log.warning("shared_memory_not_used", extra={"reason": str(error)})
            return None
        return region

    def _start_sharing(self) -> None:
        """Take up shared memory, if the server knows of it."""
        try:
            self._forget_regions()
        except ServerFault as error:
            if error.cause != "failed":
                raise
            _log.warning("shared_memory_not_used", extra={"reason": str(error)})
            return
        for lane in self._lanes:
            lane.shares = True

    def _forget_regions(self) -> None:
        """Unregister what this appliance has there for the model, also what it left when it died."""
        connection = self._connection
        service, messages = connection.service, connection.messages
        status = connection.ask(
            service.SystemSharedMemoryStatus, messages.SystemSharedMemoryStatusRequest(name="")
        )
        for name in status.regions:
            if name.startswith(self._regions):
                request = messages.SystemSharedMemoryUnregisterRequest(name=name)
                connection.ask(service.SystemSharedMemoryUnregister, request)


def _shapes_of(inputs: Tensors) -> _Shapes:
    return tuple((name, values.shape) for name, values in inputs.items())


def _refer(tensor: Any, region: str, place: tuple[int, int]) -> None:
    """Say that a tensor lies in shared memory (Triton's extension `system_shared_memory`)."""
    offset, length = place
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_offset"].int64_param = offset
    tensor.parameters["shared_memory_byte_size"].int64_param = length


def _binary(response: Any, shapes: dict[str, Shape]) -> Outputs:
    contents = response.raw_output_contents
    if len(contents) != len(shapes) or any(
        len(content) != 4 * int(np.prod(shapes[tensor.name]))
        for tensor, content in zip(response.outputs, contents, strict=True)
    ):
        raise ServerFault("the answer has no binary tensors, or not of their shapes", "answer")
    return {
        tensor.name: np.frombuffer(content, np.float32).reshape(shapes[tensor.name]).copy()
        for tensor, content in zip(response.outputs, contents, strict=True)
    }
