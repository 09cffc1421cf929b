"""Builds one engine, or compares one with ONNX Runtime, in a process of its own: a crash ends nothing else.

`python -m appliance.runtime.engine_worker` reads one request as JSON from standard input and writes JSON
lines: progress first, then the answer.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from appliance.domain.errors import ApplianceError, GiveUp, TryAgain
from appliance.runtime.base import Limits, Profile, Tensors
from appliance.runtime.trt_build import Progress, build_engine
from appliance.runtime.trt_library import Flavour, load_library

_NICENESS = 10
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


def read_golden(path: Path, sha256: str) -> list[Tensors]:
    """The golden cases in an .npz file with arrays named `<case>.<input>`, as float32.

    Raises:
        GiveUp: the file is missing, has another checksum, or holds something else.
    """
    _checked(path, sha256)
    cases: dict[str, dict[str, Any]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            case, _, tensor = name.partition(".")
            cases.setdefault(case, {})[tensor] = np.ascontiguousarray(arrays[name], np.float32)
    if not cases:
        raise GiveUp(f"{path.name} holds no golden inputs")
    return [cases[case] for case in sorted(cases)]


def work(request: Request, say: Callable[[dict[str, Any]], None], *, limit_s: float) -> dict[str, Any]:
    """Have a process of its own do `request`; `say` gets each line of progress. Returns its answer.

    Raises:
        GiveUp: it said that it cannot be done.
        TryAgain: the process died or took longer than `limit_s`.
    """
    command = [sys.executable, "-m", "appliance.runtime.engine_worker"]
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(limit_s, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(dataclasses.asdict(request)) + "\n")
            process.stdin.close()
            answer = _last_answer(process.stdout, say)
            status = process.wait()
        except BrokenPipeError:
            answer, status = None, process.wait()
        finally:
            timer.cancel()
            process.kill()
    if answer is None:
        raise TryAgain(f"the process that had to {request.task} an engine ended with status {status}")
    if "error" in answer:
        raise (TryAgain if answer["again"] else GiveUp)(answer["error"])
    return answer


def _last_answer(lines: Any, say: Callable[[dict[str, Any]], None]) -> dict[str, Any] | None:
    answer = None
    for line in lines:
        try:
            message = json.loads(line)
        except ValueError:  # the library writes to standard output too
            continue
        if not isinstance(message, dict):
            continue
        if message.get("kind") == "progress":
            say(message)
        elif message.get("kind") == "answer":
            answer = message
    return answer


def _build(request: Request, progress: Progress) -> dict[str, Any]:
    library = load_library(request.flavour)
    graph = _checked(Path(request.graph), request.graph_sha256)
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
    _checked(Path(request.graph), request.graph_sha256)
    reference = OnnxRunner(Path(request.graph), threads=0, cpu_only=True)
    plan = _checked(Path(request.engine), request.engine_sha256)
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


def _checked(path: Path, sha256: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GiveUp(f"{path.name} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise GiveUp(f"{path.name} has another checksum than it should have")
    return content


def main() -> int:
    """Do the request on standard input; returns 0 when there is an answer, also a negative one."""
    os.nice(_NICENESS)
    values = json.loads(sys.stdin.readline())
    request = Request(**{**values, "targets": tuple(values["targets"])})
    last = -_PROGRESS_EVERY_S

    def progress(phase: str, step: int, steps: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _PROGRESS_EVERY_S:
            last = time.monotonic()
            _say({"kind": "progress", "phase": phase, "step": step, "steps": steps})

    task = {"build": _build, "gate": _gate}[request.task]
    try:
        answer = task(request, progress)
    except ApplianceError as error:
        answer = {"error": str(error), "again": isinstance(error, TryAgain)}
    _say({"kind": "answer", **answer})
    return 0


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
