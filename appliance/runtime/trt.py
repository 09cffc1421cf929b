"""A model as a TensorRT or TensorRT-RTX engine on one GPU.

Two batches are in flight: while one computes, the other is uploaded or downloaded. Each has an execution
context, a stream and buffers of its own. Written to the bindings of each release; no GPU has
executed it yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from appliance.domain.errors import GiveUp
from appliance.runtime.base import (
    DeviceFault,
    OutOfDeviceMemory,
    Outputs,
    Profile,
    Shape,
    Tensors,
    batches_of,
    fitting_profile,
    largest_batch,
)
from appliance.runtime.cuda import Device, Slot
from appliance.runtime.trt_library import Library, error_recorder

SLOTS = 2


@dataclass
class _Lane:
    """One batch in flight: the buffers, and the execution context that works on them."""

    slot: Slot
    context: Any
    profile: int = -1


class EngineRunner:
    """An engine, its execution contexts and its buffers. Belongs to the thread that opened the device."""

    def __init__(
        self,
        library: Library,
        device: Device,
        plan: bytes,
        *,
        profiles: Sequence[Profile],
        memory_bytes: int,
        step_s: float,
    ) -> None:
        """Load `plan`, which has been checked to be an engine of this appliance, built with `profiles`.

        `memory_bytes` is the most that it may take of the GPU, `step_s` how long one batch may take.

        Raises:
            GiveUp: the library refuses the engine, or it needs more memory than it may take.
            OutOfDeviceMemory, DeviceFault: the GPU cannot be used.
        """
        self.name = f"{library.flavour} {library.version}"
        self._library = library
        self._device = device
        self._profiles = tuple(profiles)
        self._step_s = step_s
        self._lanes: list[_Lane] = []
        self._runtime = library.module.Runtime(library.logger)
        self._runtime.engine_host_code_allowed = False
        self._recorder = error_recorder(library)
        self._runtime.error_recorder = self._recorder
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:  # no exception tells of it
            raise GiveUp(f"{self.name} refuses the engine: {library.messages.take()}")
        try:
            self._inputs, self._outputs = self._tensors()
            self._open_lanes(memory_bytes)
        except (GiveUp, OutOfDeviceMemory, DeviceFault):
            self.close()
            raise

    def run(self, inputs: Tensors) -> Outputs:
        """See `Runner.run`. A batch larger than a profile's is run in parts.

        Raises:
            GiveUp: no profile of the engine takes an image of this shape.
            OutOfDeviceMemory: a smaller batch, or another runtime, may do.
            DeviceFault: the process has to be restarted.
        """
        (outputs,) = self.run_each((inputs,))
        return outputs

    def run_each(self, batches: Iterable[Tensors]) -> Iterator[Outputs]:
        """The outputs of each batch, in order; the next one is uploaded while one computes.

        Raises: as `run`.
        """
        flying: deque[tuple[_Lane, bool]] = deque()
        parts: list[Outputs] = []
        free = deque(self._lanes)
        try:
            for inputs in batches:
                split = self._split(inputs)
                for number, (part, profile) in enumerate(split):
                    if not free:
                        yield from self._land(flying, free, parts)
                    lane = free.popleft()
                    self._start(lane, part, profile)
                    flying.append((lane, number == len(split) - 1))
            while flying:
                yield from self._land(flying, free, parts)
        finally:
            # Nobody waits for these any more, but their buffers must be at rest before they are used again.
            for lane, _ in flying:
                lane.slot.collect(self._step_s)

    def close(self) -> None:
        """Release contexts, buffers, engine and runtime, in that order. The device stays open."""
        for lane in self._lanes:
            lane.context = None
            lane.slot.close()
        self._lanes.clear()
        self._engine = None
        self._runtime = None

    def takes(self, inputs: Tensors) -> bool:
        """Whether a profile of the engine takes an image of this shape."""
        return fitting_profile(self._profiles, inputs) is not None

    def _land(
        self, flying: deque[tuple[_Lane, bool]], free: deque[_Lane], parts: list[Outputs]
    ) -> Iterator[Outputs]:
        lane, last = flying.popleft()
        parts.append(lane.slot.collect(self._step_s))
        free.append(lane)
        if last:
            yield (
                parts[0]
                if len(parts) == 1
                else {name: np.concatenate([part[name] for part in parts]) for name in self._outputs}
            )
            parts.clear()

    def _split(self, inputs: Tensors) -> list[tuple[Tensors, int]]:
        if set(inputs) != set(self._inputs):
            raise GiveUp(f"the graph has the inputs {self._inputs}, not {sorted(inputs)}")
        profile = fitting_profile(self._profiles, inputs)
        if profile is None:
            shapes = {name: values.shape for name, values in inputs.items()}
            raise GiveUp(f"no profile of the engine takes {shapes}")
        return [(part, profile) for part in batches_of(inputs, largest_batch(self._profiles[profile]))]

    def _tensors(self) -> tuple[list[str], list[str]]:
        engine, module = self._engine, self._library.module
        if engine.num_optimization_profiles != len(self._profiles):
            raise GiveUp("the engine has another number of profiles than its record")
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        for name in names:
            if engine.get_tensor_dtype(name) != module.DataType.FLOAT:
                raise GiveUp(f"the engine's tensor {name} is not float32")
        inputs = [name for name in names if engine.get_tensor_mode(name) == module.TensorIOMode.INPUT]
        return inputs, [name for name in names if name not in inputs]

    def _open_lanes(self, memory_bytes: int) -> None:
        for _ in range(SLOTS):
            context = self._context()
            inputs, outputs = self._largest_shapes(context)
            needed = SLOTS * (self._activation_bytes() + Slot.device_bytes(inputs, outputs))
            if needed > memory_bytes:
                raise GiveUp(
                    f"the engine needs {needed >> 20} MiB of the GPU, but may take {memory_bytes >> 20}"
                )
            self._lanes.append(_Lane(Slot(self._device, inputs, outputs), context))

    def _context(self) -> Any:
        engine, module = self._engine, self._library.module
        if hasattr(module, "CudaGraphStrategy"):
            settings = engine.create_runtime_config()
            settings.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            # Kernels for a new shape are compiled at once, not behind the first batches that use it.
            settings.dynamic_shapes_kernel_specialization_strategy = (
                module.DynamicShapesKernelSpecializationStrategy.EAGER
            )
            context = engine.create_execution_context(runtime_config=settings)
        else:
            context = engine.create_execution_context()
        if context is None:
            raise OutOfDeviceMemory(f"no execution context: {self._library.messages.take()}")
        context.error_recorder = self._recorder
        return context

    def _activation_bytes(self) -> int:
        engine = self._engine
        name = "device_memory_size_v2" if hasattr(engine, "device_memory_size_v2") else "device_memory_size"
        return int(getattr(engine, name))

    def _largest_shapes(self, context: Any) -> tuple[dict[str, Shape], dict[str, Shape]]:
        """The largest size of each tensor over all profiles; of outputs, what the engine infers."""
        stream = self._device.driver.Stream()
        largest: dict[str, Shape] = {}
        for number, profile in enumerate(self._profiles):
            self._select(context, number, stream)
            shapes = {name: limits.largest for name, limits in profile.items()}
            shapes |= self._infer(context, shapes)
            for name, shape in shapes.items():
                largest[name] = max(largest.get(name, (0,)), shape, key=lambda one: int(np.prod(one)))
        stream.synchronize()
        self._select(context, 0, stream)
        stream.synchronize()
        return (
            {name: largest[name] for name in self._inputs},
            {name: largest[name] for name in self._outputs},
        )

    def _select(self, context: Any, profile: int, stream: Any) -> None:
        if not context.set_optimization_profile_async(profile, stream.handle):
            raise GiveUp(f"profile {profile} is refused: {self._library.messages.take()}")

    def _infer(self, context: Any, shapes: dict[str, Shape]) -> dict[str, Shape]:
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise GiveUp(f"the engine refuses {name} of {shape}: {self._library.messages.take()}")
        missing = context.infer_shapes()
        if missing:
            raise GiveUp(f"the engine cannot tell the shapes of {missing}")
        return {name: tuple(context.get_tensor_shape(name)) for name in self._outputs}

    def _start(self, lane: _Lane, inputs: Tensors, profile: int) -> None:
        context, slot = lane.context, lane.slot
        if lane.profile != profile:
            self._select(context, profile, slot.stream)
            lane.profile = profile
        outputs = self._infer(context, {name: values.shape for name, values in inputs.items()})
        for name in (*self._inputs, *self._outputs):
            if not context.set_tensor_address(name, slot.address(name)):
                raise GiveUp(f"the engine refuses the buffer of {name}: {self._library.messages.take()}")
        slot.enter(inputs)
        if not context.execute_async_v3(slot.stream.handle):
            raise DeviceFault(f"the engine did not start: {self._library.messages.take()}")
        slot.leave(outputs)
