"""Asks a process of its own to do something with a model, so that a crash or a hang in it ends nothing else.

One request as JSON on standard input; JSON lines on standard output: progress first, then the answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from appliance.domain.errors import ApplianceError, GiveUp, TryAgain
from appliance.observe.process import die_with

_NICENESS = 10


def ask(
    module: str, request: dict[str, Any], say: Callable[[dict[str, Any]], None], *, what: str, limit_s: float
) -> dict[str, Any]:
    """The answer of `python -m module` to `request`; `say` gets each line of progress.

    The process ends with the thread that asks. `what` says in messages what it was to do.

    Raises:
        GiveUp: it said that it cannot be done.
        TryAgain: the process died or took longer than `limit_s`.
    """
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    with subprocess.Popen(
        [sys.executable, "-m", module, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(limit_s, end)
        timer.start()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.close()
            answer = _last_answer(process.stdout, say)
            status = process.wait()
        except BrokenPipeError:
            answer, status = None, process.wait()
        finally:
            timer.cancel()
            process.kill()
    if answer is None:
        ending = f"took longer than {limit_s:g} s" if late.is_set() else f"ended with status {status}"
        raise TryAgain(f"the process that had to {what} {ending}")
    if "error" in answer:
        raise (TryAgain if answer["again"] else GiveUp)(answer["error"])
    return answer


def answer(task: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """Be such a process: do `task` with the request. Returns its exit code, 0 with any answer."""
    die_with(int(sys.argv[1]))
    os.nice(_NICENESS)
    try:
        result = task(json.loads(sys.stdin.readline()))
    except ApplianceError as error:
        result = {"error": str(error), "again": isinstance(error, TryAgain)}
    tell({"kind": "answer", **result})
    return 0


def tell(message: dict[str, Any]) -> None:
    """Write one line for who asked; `kind` is `progress` or `answer`."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _last_answer(lines: Iterable[str], say: Callable[[dict[str, Any]], None]) -> dict[str, Any] | None:
    found = None
    for line in lines:
        try:
            message = json.loads(line)
        except ValueError:  # a library writes to standard output too
            continue
        if not isinstance(message, dict):
            continue
        if message.get("kind") == "progress":
            say(message)
        elif message.get("kind") == "answer":
            found = message
    return found
