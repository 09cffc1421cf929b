"""Our runtime class beside the bare library: the same graph, the same inputs, one process, one core.

Both are asked in turns, in changing order, and each pair of answers gives one ratio; whatever else the
machine does at that moment meets both.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime

from appliance.models.manifest import load_manifest
from appliance.runtime.base import Tensors
from appliance.runtime.golden import read_golden
from appliance.runtime.onnx import OnnxRunner
from appliance.runtime.parity import tiled
from tools.benchmarks.report import Report, Result

ENGINES = Path(__file__).resolve().parents[2] / "engines"
MODELS = ("ct-denoise", "head-ct-triage")
BATCHES = (1, 4, 16)
SIZES = (256, 512, 1024)
_FEWEST, _MOST = 3, 200


@dataclass(frozen=True)
class Case:
    """One batch of one model."""

    model: str
    batch: int
    size: int
    inputs: Tensors


def cases(model: str) -> Iterator[Case]:
    """Every batch size at every image size that the model's graph takes, made of its golden inputs."""
    manifest = load_manifest(ENGINES / model)
    rules = manifest.engine
    assert rules is not None
    golden = read_golden(ENGINES / model / rules.golden.file, rules.golden.sha256)[0]
    fixed = all(
        shape.smallest[2:] == shape.largest[2:] for profile in rules.profiles for shape in profile.values()
    )
    for size in (None,) if fixed else SIZES:
        for batch in BATCHES:
            inputs = {
                name: tiled(
                    values,
                    (
                        batch,
                        *((values.shape[1], size, size) if size and values.ndim == 4 else values.shape[1:]),
                    ),
                )
                for name, values in golden.items()
            }
            yield Case(
                model, batch, max(max(values.shape[2:], default=0) for values in inputs.values()), inputs
            )


def benchmark(*, seconds: float, command: str, say: Callable[[str], None]) -> Report:
    """Measure every case for about `seconds`. What takes longer for a few turns is left out, and named."""
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    results: list[Result] = []
    ratios: list[float] = []
    notes = [
        "One thread on one core. `ours_vs_bare` is the median over pairs of runs of the bare library's time "
        "divided by ours, in processor time, which others on the core hardly change; `by_wall_clock` is the "
        "same by the clock.",
        "ONNX Runtime on the processor. PyTorch is not measured here; engines: `tools/bench gpu`.",
    ]
    for model in MODELS:
        weights = ENGINES / model / "model.onnx"
        ours, bare = OnnxRunner(weights, threads=1, cpu_only=True), _bare(weights)
        per_image = 0.0  # seconds of one image of the size measured last: a larger batch takes no less
        for case in cases(model):
            say(f"{model}, batch {case.batch}, {case.size} x {case.size}")
            expected = per_image * case.batch
            first = expected if expected * _FEWEST > seconds else _timed(partial(bare, case.inputs))
            per_image = first / case.batch
            if first * _FEWEST > seconds:
                which = f"{model}, batch {case.batch} of {case.size} x {case.size}"
                notes.append(f"{which}: at least {first:.0f} s a run, left out")
                continue
            result, ratio = _measure(case, ours, bare, max(_FEWEST, min(_MOST, int(seconds / 2 / first))))
            results.append(result)
            ratios.append(ratio)
    return Report(command, tuple(results), {"infer_vs_bare_min": min(ratios)} if ratios else {}, tuple(notes))


def _bare(weights: Path) -> Callable[[Tensors], object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, dict(inputs))


def _measure(
    case: Case, ours: OnnxRunner, bare: Callable[[Tensors], object], pairs: int
) -> tuple[Result, float]:
    ours.run(case.inputs)
    wall: dict[str, list[float]] = {"ours": [], "bare": []}
    processor: dict[str, list[float]] = {"ours": [], "bare": []}
    calls: dict[str, Callable[[], object]] = {
        "ours": lambda: ours.run(case.inputs),
        "bare": lambda: bare(case.inputs),
    }
    for number in range(pairs):
        for name in ("ours", "bare") if number % 2 else ("bare", "ours"):
            began = time.process_time()
            wall[name].append(_timed(calls[name]))
            processor[name].append(time.process_time() - began)
    ratio = _ratio(processor)
    latencies = np.array(wall["ours"]) * 1000.0
    return {
        "case": f"{case.model}, {ours.name}",
        "batch": case.batch,
        "size": case.size,
        "runs": pairs,
        "p50_ms": round(float(np.percentile(latencies, 50)), 3),
        "p95_ms": round(float(np.percentile(latencies, 95)), 3),
        "p99_ms": round(float(np.percentile(latencies, 99)), 3),
        "slices_per_s": round(case.batch / float(np.median(latencies)) * 1000.0, 2),
        "ours_vs_bare": round(ratio, 3),
        "by_wall_clock": round(_ratio(wall), 3),
    }, ratio


def _ratio(times: dict[str, list[float]]) -> float:
    """The median over the pairs of the bare library's time divided by ours."""
    return statistics.median(
        bare_s / ours_s for ours_s, bare_s in zip(times["ours"], times["bare"], strict=True)
    )


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
