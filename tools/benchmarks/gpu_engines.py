"""Engines on a GPU: built, held to ONNX Runtime, and our runner timed beside the bare library."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from appliance.domain.errors import GiveUp
from appliance.runtime.base import Profile, Tensors, fitting_profile
from appliance.runtime.cuda import Device, wait_until
from appliance.runtime.engine_worker import profiles_from_plain
from appliance.runtime.golden import read_golden
from appliance.runtime.parity import compare, tiled
from appliance.runtime.trt import EngineRunner
from appliance.runtime.trt_build import build_engine
from appliance.runtime.trt_library import Flavour, Library, load_library

ENGINES = Path(__file__).resolve().parents[2] / "engines"
_MEMORY = 8 << 30
_STEP_S = 20.0
_BATCHES = (1, 4, 16)
_SIZES = (256, 512, 1024)
_TURNS = 5
_RUNS = 30


def measure(
    device: Device, flavour: Flavour, *, seconds: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """All shipped models with one library, as long as there are `seconds` left.

    Raises:
        Unavailable: the library is not here.
        GiveUp, TryAgain: it refuses the GPU or an engine, or the GPU failed.
    """
    started = time.monotonic()
    library = load_library(flavour)
    models: dict[str, Any] = {}
    for folder in sorted(path.parent for path in ENGINES.glob("*/model.yaml")):
        if time.monotonic() - started > seconds:
            models[folder.name] = {"state": "left out: no time left"}
            continue
        say(f"{flavour}: {folder.name}")
        models[folder.name] = _model(library, device, folder)
    return {"version": library.version, "models": models}


def _model(library: Library, device: Device, folder: Path) -> dict[str, Any]:
    # Without the manifest's schema: a bare machine need not have pydantic.
    manifest = yaml.safe_load((folder / "model.yaml").read_text(encoding="utf-8"))
    rules = manifest["engine"]
    profiles = profiles_from_plain(rules["profiles"])
    golden = read_golden(folder / rules["golden"]["file"], rules["golden"]["sha256"])
    graph = (folder / manifest["weights"]["file"]).read_bytes()
    started = time.perf_counter()
    plan = build_engine(
        library,
        graph,
        profiles=profiles,
        targets=(device.facts.target,) if library.builds_for_absent_gpus else (),
        memory_bytes=_MEMORY // 2,
        progress=lambda _phase, _step, _steps: None,
    )
    built = time.perf_counter()
    runner = EngineRunner(library, device, plan, profiles=profiles, memory_bytes=_MEMORY, step_s=_STEP_S)
    try:
        loaded = time.perf_counter()
        return {
            "build_s": round(built - started, 2),
            "load_s": round(loaded - built, 2),
            "engine_bytes": len(plan),
            "parity": _parity(
                runner, folder / manifest["weights"]["file"], golden, profiles, rules["parity"]
            ),
            "cases": _cases(library, device, plan, runner, golden[0], profiles),
        }
    finally:
        runner.close()


def _parity(
    runner: EngineRunner,
    weights: Path,
    golden: list[Tensors],
    profiles: list[Profile],
    limits: dict[str, float],
) -> Any:
    try:
        from appliance.runtime.onnx import OnnxRunner
    except ImportError as error:
        return f"not compared: {error}"
    reference = OnnxRunner(weights, threads=0, cpu_only=True)
    return compare(runner, reference, golden, profiles, limits).as_dict()


def _cases(
    library: Library,
    device: Device,
    plan: bytes,
    runner: EngineRunner,
    golden: Tensors,
    profiles: list[Profile],
) -> list[dict[str, Any]]:
    fixed = all(limits.smallest[2:] == limits.largest[2:] for one in profiles for limits in one.values())
    results = []
    for size in (None,) if fixed else _SIZES:
        for batch in _BATCHES:
            inputs = {
                name: tiled(values, _shape(values.shape, batch, size)) for name, values in golden.items()
            }
            profile = fitting_profile(profiles, inputs)
            if profile is not None:
                bare = Bare(library, device, plan, inputs, profiles, profile)
                results.append(
                    {"batch": batch, "size": size or "fixed", **_timed(runner, bare, inputs, batch)}
                )
                bare.close()
    return results


def _shape(shape: tuple[int, ...], batch: int, size: int | None) -> tuple[int, ...]:
    return (batch, shape[1], size, size) if size is not None and len(shape) == 4 else (batch, *shape[1:])


def _timed(runner: EngineRunner, bare: Bare, inputs: Tensors, batch: int) -> dict[str, Any]:
    """Our runner, one batch at a time and overlapped, beside the bare library, in turns."""
    single, overlapped, plain = [], [], []
    runner.run(inputs)
    bare.run(inputs)
    for _ in range(_TURNS):
        plain.append(_seconds(lambda: [bare.run(inputs) for _ in range(_RUNS)]) / _RUNS)
        single.append(_seconds(lambda: [runner.run(inputs) for _ in range(_RUNS)]) / _RUNS)
        overlapped.append(_seconds(lambda: list(runner.run_each(repeat(inputs, _RUNS)))) / _RUNS)
    best = statistics.median(plain)
    return {
        "run_ms": round(statistics.median(single) * 1000, 3),
        "overlapped_ms": round(statistics.median(overlapped) * 1000, 3),
        "bare_ms": round(best * 1000, 3),
        "slices_per_s": round(batch / statistics.median(overlapped), 1),
        "run_vs_bare": round(best / statistics.median(single), 3),
        "overlapped_vs_bare": round(best / statistics.median(overlapped), 3),
    }


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


class Bare:
    """The library with as little around it as can be: pinned buffers, one stream, one batch at a time."""

    def __init__(
        self,
        library: Library,
        device: Device,
        plan: bytes,
        inputs: Tensors,
        profiles: list[Profile],
        profile: int,
    ) -> None:
        """Load `plan` for inputs of these shapes, cut to the profile's batch."""
        self._driver = device.driver
        self._engine = library.module.Runtime(library.logger).deserialize_cuda_engine(plan)
        if self._engine is None:
            raise GiveUp(f"the library refuses the engine: {library.messages.take()}")
        self._context = self._engine.create_execution_context()
        self._stream = self._driver.Stream()
        self._most = min(limits.largest[0] for limits in profiles[profile].values())
        self._context.set_optimization_profile_async(profile, self._stream.handle)
        self._host: dict[str, Any] = {}
        self._device: dict[str, Any] = {}
        self._inputs = tuple(inputs)
        part = {name: values[: self._most] for name, values in inputs.items()}
        for name, values in part.items():
            self._context.set_input_shape(name, values.shape)
            self._allocate(name, values.shape)
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            if name not in part:
                self._allocate(name, tuple(self._context.get_tensor_shape(name)))
            self._context.set_tensor_address(name, int(self._device[name]))

    def _allocate(self, name: str, shape: tuple[int, ...]) -> None:
        self._host[name] = self._driver.pagelocked_empty(shape, np.float32)
        self._device[name] = self._driver.mem_alloc(self._host[name].nbytes)

    def run(self, inputs: Tensors) -> dict[str, Any]:
        """One batch, in parts where the profile is smaller."""
        count = len(next(iter(inputs.values())))
        outputs: list[dict[str, Any]] = []
        for first in range(0, count, self._most):
            for name in self._inputs:
                self._host[name][...] = inputs[name][first : first + self._most]
                self._driver.memcpy_htod_async(self._device[name], self._host[name], self._stream)
            self._context.execute_async_v3(self._stream.handle)
            answers = self._host.keys() - set(self._inputs)
            for name in answers:
                self._driver.memcpy_dtoh_async(self._host[name], self._device[name], self._stream)
            end = self._driver.Event()
            end.record(self._stream)
            wait_until(end.query, _STEP_S, "a batch of the bare library")
            outputs.append({name: self._host[name].copy() for name in answers})
        return {name: np.concatenate([one[name] for one in outputs]) for name in outputs[0]}

    def close(self) -> None:
        """Release everything, in order."""
        self._context = None
        self._engine = None
        for buffer in self._device.values():
            buffer.free()
        self._host.clear()
