"""`tools/bench gpu`: all that needs a GPU, unattended, on a bare machine, into one JSON file.

It needs numpy and pycuda for the first part (a kernel that nvcc compiles), PyYAML, ONNX Runtime and TensorRT
or TensorRT-RTX for the second; each part that cannot run says why. Wheels that were carried in are installed
with `pip install --no-index`. Without a GPU it says so and ends with status 2. No part starts after nine
minutes.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from appliance.runtime.base import DeviceFault, OutOfDeviceMemory, Unavailable
from appliance.runtime.cuda import Device, Slot, wait_until
from appliance.runtime.trt_library import FLAVOURS, Flavour

LIMIT_S = 540.0
_SHAPE = (4, 1, 512, 512)
_BATCHES = 200
_SPIN_TICKS = 2_000_000_000  # about a second
_KERNEL = """
extern "C" __global__ void scale(const float *x, float *y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = 3.0f * x[i] + 1.0f;
}
extern "C" __global__ void spin(long long ticks) {
    long long start = clock64();
    while (clock64() - start < ticks) { }
}
"""
_PACKAGES = ("numpy", "pycuda", "onnxruntime", "tensorrt", "tensorrt_rtx_cu13_bindings", "torch")

Figures = dict[str, Any]


def main() -> int:
    """Measure; returns 0, or 2 without a GPU, or 1 if a part failed that should have worked."""
    parser = argparse.ArgumentParser(prog="tools/bench gpu", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", default=Path("gpu.json"))
    path: Path = parser.parse_args().json
    report: Figures = {
        "command": "tools/bench gpu",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": _machine(),
        "parts": {},
    }
    parts: dict[str, Figures] = report["parts"]
    started = time.monotonic()
    try:
        device = Device()
    except Unavailable as error:
        report["result"] = f"nothing was executed: {error}"
        _write(path, report)
        return 2
    report["machine"]["gpu"] = vars(device.facts)
    try:
        _part(parts, "kernel", lambda: prove(device))
        for flavour in FLAVOURS:
            left = LIMIT_S - (time.monotonic() - started)
            _part(parts, flavour, partial(_engines, device, flavour, left))
    finally:
        device.close()
    failed = [name for name, part in parts.items() if part["state"] == "failed"]
    report["result"] = f"failed: {', '.join(failed)}" if failed else "all that could run has run"
    _write(path, report)
    return 1 if failed else 0


def prove(device: Device) -> Figures:
    """Slots, streams, events and the watchdog of `runtime/cuda.py`, with a kernel instead of a model.

    Raises:
        AssertionError: a value that came back is wrong, or something that must fail did not.
    """
    from pycuda.compiler import SourceModule

    module = SourceModule(_KERNEL, no_extern_c=True)
    scale, spin = module.get_function("scale"), module.get_function("spin")
    inputs = [{"x": np.random.default_rng(seed).random(_SHAPE, np.float32)} for seed in range(4)]
    figures: Figures = {"slot_mib": Slot.device_bytes({"x": _SHAPE}, {"y": _SHAPE}) / 2**20}
    free_before = device.driver.mem_get_info()[0]
    for depth in (1, 2):
        slots = [Slot(device, {"x": _SHAPE}, {"y": _SHAPE}) for _ in range(depth)]
        figures[f"batches_per_s_with_{depth}_in_flight"] = round(_stream(slots, scale, inputs), 1)
        for slot in slots:
            slot.close()
    figures["memory_that_stayed_taken_mib"] = (free_before - device.driver.mem_get_info()[0]) / 2**20

    event, stream = device.driver.Event(), device.driver.Stream()
    spin(np.int64(_SPIN_TICKS), grid=(1, 1), block=(1, 1, 1), stream=stream)
    event.record(stream)
    try:
        wait_until(event.query, 0.1, "the spinning kernel")
        raise AssertionError("a kernel that spins for a second was not noticed after a tenth of it")
    except DeviceFault as error:
        figures["watchdog"] = str(error)
    wait_until(event.query, 10.0, "the spinning kernel")

    try:
        device.guarded(partial(device.driver.mem_alloc, 1 << 40), "a terabyte")
        raise AssertionError("a terabyte was given")
    except OutOfDeviceMemory as error:
        figures["out_of_memory"] = str(error)
    return figures


def _stream(slots: list[Slot], scale: Any, inputs: list[dict[str, Any]]) -> float:
    """Batches a second through `slots`, in turns; every answer is checked."""
    count = int(np.prod(_SHAPE))
    flying: list[int] = []
    started = time.perf_counter()
    for number in range(_BATCHES + len(slots)):
        slot = slots[number % len(slots)]
        if number >= len(slots):
            done = flying.pop(0)
            answer = slot.collect(5.0)["y"]
            expected = 3.0 * inputs[done % len(inputs)]["x"] + 1.0
            assert np.allclose(answer, expected, rtol=1e-6), f"batch {done} came back wrong"
        if number < _BATCHES:
            slot.enter(inputs[number % len(inputs)])
            scale(
                np.intp(slot.address("x")),
                np.intp(slot.address("y")),
                np.int32(count),
                grid=((count + 255) // 256, 1),
                block=(256, 1, 1),
                stream=slot.stream,
            )
            slot.leave({"y": _SHAPE})
            flying.append(number)
    return _BATCHES / (time.perf_counter() - started)


def _engines(device: Device, flavour: Flavour, seconds: float) -> Figures:
    from tools.benchmarks import gpu_engines  # which needs more than the kernel does

    return gpu_engines.measure(device, flavour, seconds=seconds, say=_say)


def _part(parts: dict[str, Figures], name: str, run: Callable[[], Figures]) -> None:
    """Run one part; what goes wrong in it is a result, and the others still run."""
    _say(name)
    started = time.monotonic()
    try:
        part = {"state": "ran", **run()}
    except (Unavailable, ImportError) as error:
        part = {"state": "absent", "reason": str(error)}
    except Exception as error:  # noqa: BLE001 - the boundary of a part: whatever fails in it is its result
        part = {"state": "failed", "reason": f"{type(error).__name__}: {error}"}
    parts[name] = {**part, "seconds": round(time.monotonic() - started, 1)}
    _say(f"{name}: {part['state']} {part.get('reason', '')}")


def _machine() -> Figures:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    facts: Figures = {"python": platform.python_version(), "kernel": platform.release(), "packages": versions}
    query = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,memory.total,compute_cap",
        "--format=csv,noheader",
    ]
    for name, command in (("nvidia_smi", query), ("nvcc", ["nvcc", "--version"])):
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
            facts[name] = answer.stdout.strip().splitlines()[-2:] or [answer.stderr.strip()]
        except (OSError, subprocess.TimeoutExpired) as error:
            facts[name] = [f"absent: {error}"]
    return facts


def _write(path: Path, report: Figures) -> None:
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _say(f"{report['result']}; written to {path}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
