"""One GPU through pycuda: its primary context, memory for batches in flight, and waiting that cannot hang.

Nothing here knows of TensorRT: `Slot.enter`, work on `Slot.stream`, `Slot.leave` is all that a kernel
needs. So a GPU can prove this module with a kernel of its own (`tools/bench gpu`). pycuda is imported only
when a device is opened; a machine without CUDA never notices. It has executed on no GPU yet.

The thread that opens a `Device` owns it: the context is current in that thread alone.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.runtime.base import DeviceFault, OutOfDeviceMemory, Outputs, Shape, Tensors, Unavailable

_ITEM_BYTES = np.dtype(np.float32).itemsize
_SPIN_S = 0.0005
_PAUSE_S = 0.0002


def driver() -> ModuleType:
    """pycuda's driver module, ready for use.

    Raises:
        Unavailable: pycuda, the driver's library or a GPU is missing.
    """
    try:
        module = importlib.import_module("pycuda.driver")
    except ImportError as error:  # also what a missing libcuda.so.1 ends in
        raise Unavailable(f"no CUDA: {error}") from error
    try:
        module.init()
        count = module.Device.count()
    except module.Error as error:
        raise Unavailable(f"no GPU: {error}") from error
    if count == 0:
        raise Unavailable("no GPU: the driver shows none")
    return module


@dataclass(frozen=True)
class DeviceFacts:
    """What an engine depends on. `target` is the compute capability as TensorRT-RTX spells it: SM86."""

    name: str
    target: str
    multiprocessors: int
    memory_bytes: int
    driver: str


def device_facts(number: int = 0) -> DeviceFacts:
    """What GPU `number` is, without a context on it.

    Raises:
        Unavailable: there is none.
    """
    module: Any = driver()
    if number >= module.Device.count():
        raise Unavailable(f"no GPU with the number {number}")
    device = module.Device(number)
    major, minor = device.compute_capability()
    return DeviceFacts(
        name=device.name(),
        target=f"SM{major}{minor}",
        multiprocessors=device.multiprocessor_count,
        memory_bytes=device.total_memory(),
        driver=str(module.get_driver_version()),
    )


class Device:
    """The primary context of one GPU, current in the thread that made this object until `close`."""

    def __init__(self, number: int = 0) -> None:
        """Open GPU `number`.

        Raises:
            Unavailable: there is none.
        """
        self.driver: Any = driver()
        self.facts = device_facts(number)
        # The primary context is the one that CUDA's runtime API, and so TensorRT, uses.
        self._context: Any = self.driver.Device(number).retain_primary_context()
        self._context.push()

    def close(self) -> None:
        """Give the context back. What was allocated in it must have been released before."""
        self._context.pop()
        self._context.detach()

    def guarded(self, call: Callable[[], Any], what: str) -> Any:
        """What `call` returns, with the driver's errors told as this project's.

        Raises:
            OutOfDeviceMemory: there is no memory for it.
            DeviceFault: anything else; errors of a context stay with it, so the process has to be restarted.
        """
        try:
            return call()
        except self.driver.MemoryError as error:
            raise OutOfDeviceMemory(f"the GPU has no memory for {what}") from error
        except self.driver.Error as error:
            raise DeviceFault(f"the GPU failed at {what}: {error}") from error


def wait_until(done: Callable[[], bool], deadline_s: float, what: str) -> None:
    """Return once `done` says so: at once while it is near, then with pauses that leave the core to others.

    Raises:
        DeviceFault: it took longer than `deadline_s`. A kernel that hangs cannot be stopped from here.
    """
    started = time.monotonic()
    while not done():
        waited = time.monotonic() - started
        if waited > deadline_s:
            raise DeviceFault(f"{what} did not end within {deadline_s:g} s")
        time.sleep(0.0 if waited < _SPIN_S else _PAUSE_S)


class Slot:
    """Room for one batch in flight: pinned host arrays, device buffers, a stream and an event of its own.

    Buffers are allocated once, for the largest shapes, so that no batch waits for memory or finds none.
    """

    def __init__(self, device: Device, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape]) -> None:
        """`inputs` and `outputs` map names to the largest shapes; all arrays are float32.

        Raises:
            OutOfDeviceMemory, DeviceFault: the buffers cannot be had.
        """
        self._device = device
        self._driver = device.driver
        self._inputs = dict(inputs)
        self._outputs = dict(outputs)
        self._pinned: dict[str, NDArray[np.float32]] = {}
        self._buffers: dict[str, Any] = {}
        self.stream: Any = None
        self._finished: Any = None
        try:
            device.guarded(self._allocate, "the buffers of a batch")
        except (OutOfDeviceMemory, DeviceFault):
            self.close()
            raise

    @staticmethod
    def device_bytes(inputs: Mapping[str, Shape], outputs: Mapping[str, Shape]) -> int:
        """Bytes on the device that a slot for these largest shapes takes."""
        return sum(prod(shape) * _ITEM_BYTES for shape in (*inputs.values(), *outputs.values()))

    def _allocate(self) -> None:
        for name, shape in (*self._inputs.items(), *self._outputs.items()):
            self._pinned[name] = self._driver.pagelocked_empty(prod(shape), np.float32)
            self._buffers[name] = self._driver.mem_alloc(prod(shape) * _ITEM_BYTES)
        self.stream = self._driver.Stream()
        self._finished = self._driver.Event(self._driver.event_flags.DISABLE_TIMING)

    def address(self, name: str) -> int:
        """The device address of an input's or output's buffer."""
        return int(self._buffers[name])

    def enter(self, inputs: Tensors) -> None:
        """Put the upload of `inputs` into the stream."""
        for name, values in inputs.items():
            pinned = self._pinned[name][: values.size]
            np.copyto(pinned.reshape(values.shape), values)
            self._device.guarded(partial(self._upload, name, pinned), "an upload")

    def _upload(self, name: str, pinned: NDArray[np.float32]) -> None:
        self._driver.memcpy_htod_async(self._buffers[name], pinned, self.stream)

    def leave(self, shapes: Mapping[str, Shape]) -> None:
        """Put the download of outputs of these shapes, and the mark of their end, into the stream."""
        self._shapes = dict(shapes)
        self._device.guarded(self._download, "a download")

    def _download(self) -> None:
        for name, shape in self._shapes.items():
            pinned = self._pinned[name][: prod(shape)]
            self._driver.memcpy_dtoh_async(pinned, self._buffers[name], self.stream)
        self._finished.record(self.stream)

    def collect(self, deadline_s: float) -> Outputs:
        """The outputs, copied out of the slot, once all in the stream has ended.

        Raises:
            DeviceFault: it failed, or did not end in time; the process has to be restarted.
        """
        wait_until(
            lambda: bool(self._device.guarded(self._finished.query, "a batch")),
            deadline_s,
            "a batch on the GPU",
        )
        return {
            name: self._pinned[name][: prod(shape)].reshape(shape).copy()
            for name, shape in self._shapes.items()
        }

    def close(self) -> None:
        """Release everything: what refers to the stream first."""
        self._finished = None
        self.stream = None
        for buffer in self._buffers.values():
            buffer.free()
        self._buffers.clear()
        self._pinned.clear()
