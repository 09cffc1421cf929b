"""Builds one engine, or compares one with ONNX Runtime, in a process of its own: a crash ends nothing else.

`python -m appliance.runtime.engine_worker PARENT` reads one request; see `child`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from appliance.runtime.base import Limits, Profile
from appliance.runtime.child import answer, ask, tell
from appliance.runtime.golden import read_checked, read_golden
from appliance.runtime.trt_build import Progress, build_engine
from appliance.runtime.trt_library import Flavour, load_library

_PROGRESS_EVERY_S = 0.5


@dataclass(frozen=True)
class Request:
    """What to do. `engine` is written by `build` and read by `gate`, which also needs what follows it."""

    task: Literal["build", "gate"]
    flavour: Flavour
    graph: str
    graph_sha256: str
    profiles: list[dict[str, dict[str, list[int]]]]
    memory_bytes: int
    engine: str
    targets: tuple[str, ...] = ()
    engine_sha256: str = ""
    golden: str = ""
    golden_sha256: str = ""
    limits: dict[str, float] = dataclasses.field(default_factory=dict)
    step_s: float = 60.0


def profiles_as_plain(profiles: Sequence[Profile]) -> list[dict[str, dict[str, list[int]]]]:
    """Profiles for JSON."""
    return [
        {
            name: {
                "smallest": list(limits.smallest),
                "usual": list(limits.usual),
                "largest": list(limits.largest),
            }
            for name, limits in profile.items()
        }
        for profile in profiles
    ]


def profiles_from_plain(plain: Sequence[Mapping[str, Mapping[str, Sequence[int]]]]) -> list[Profile]:
    """The other way round."""
    return [
        {
            name: Limits(tuple(limits["smallest"]), tuple(limits["usual"]), tuple(limits["largest"]))
            for name, limits in profile.items()
        }
        for profile in plain
    ]


def work(request: Request, say: Callable[[dict[str, Any]], None], *, limit_s: float) -> dict[str, Any]:
    """Have a process of its own do `request`; `say` gets each line of progress. Returns its answer.

    Raises:
        GiveUp: it said that it cannot be done.
        TryAgain: the process died or took longer than `limit_s`.
    """
    return ask(
        "appliance.runtime.engine_worker",
        dataclasses.asdict(request),
        say,
        what=f"{request.task} an engine",
        limit_s=limit_s,
    )


def _build(request: Request, progress: Progress) -> dict[str, Any]:
    library = load_library(request.flavour)
    graph = read_checked(Path(request.graph), request.graph_sha256)
    started = time.monotonic()
    plan = build_engine(
        library,
        graph,
        profiles=profiles_from_plain(request.profiles),
        targets=request.targets,
        memory_bytes=request.memory_bytes,
        progress=progress,
    )
    seconds = time.monotonic() - started
    Path(request.engine).write_bytes(plan)
    return {"sha256": hashlib.sha256(plan).hexdigest(), "size": len(plan), "seconds": round(seconds, 3)}


def _gate(request: Request, _progress: Progress) -> dict[str, Any]:
    from appliance.runtime.cuda import Device
    from appliance.runtime.onnx import OnnxRunner
    from appliance.runtime.parity import compare
    from appliance.runtime.trt import EngineRunner

    profiles = profiles_from_plain(request.profiles)
    golden = read_golden(Path(request.golden), request.golden_sha256)
    read_checked(Path(request.graph), request.graph_sha256)
    reference = OnnxRunner(Path(request.graph), threads=0, cpu_only=True)
    plan = read_checked(Path(request.engine), request.engine_sha256)
    library, device = load_library(request.flavour), Device()
    try:
        candidate = EngineRunner(
            library,
            device,
            plan,
            profiles=profiles,
            memory_bytes=request.memory_bytes,
            step_s=request.step_s,
        )
        try:
            return {"parity": compare(candidate, reference, golden, profiles, request.limits).as_dict()}
        finally:
            candidate.close()
    finally:
        device.close()


def _do(values: dict[str, Any]) -> dict[str, Any]:
    request = Request(**{**values, "targets": tuple(values["targets"])})
    last = -_PROGRESS_EVERY_S

    def progress(phase: str, step: int, steps: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _PROGRESS_EVERY_S:
            last = time.monotonic()
            tell({"kind": "progress", "phase": phase, "step": step, "steps": steps})

    return {"build": _build, "gate": _gate}[request.task](request, progress)


if __name__ == "__main__":
    sys.exit(answer(_do))
