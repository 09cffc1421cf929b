"""How far originals lag behind: from a scanner's first byte of an image to the whole image at the PACS.

The scanner sends as fast as the appliance answers, while the models have nothing to do, work, hang, or
are not configured at all. Forwarding must not notice any of it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmread

from tools.benchmarks.forward_pacs import StampingStorescp
from tools.benchmarks.slices import Slices
from tools.campaigns.raw_sender import RawSender, Refused, read_object, send_raw
from tools.campaigns.tree import Tree
from tools.simulate.head_series import write_series

ABSENT, IDLE, BUSY, HUNG = "absent", "idle", "busy", "hung"
STATES = (ABSENT, IDLE, BUSY, HUNG)
_STATION = "WORK"
"""Station name of the series that keeps the models busy; they do not take the measured one."""
_WORK_SLICES = 48
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Lag:
    """Seconds by which originals lag behind in one run."""

    p50_s: float
    p95_s: float
    p99_s: float
    last_behind_s: float
    """From the last answer to the scanner to the last image at the PACS."""
    images_per_s: float
    """What the scanner got acknowledged."""


def work(folder: Path) -> list[Path]:
    """A series that keeps the models busy for longer than a measurement takes."""
    paths = write_series(folder, seed=1, bleed=False, slices=_WORK_SLICES, size=512)
    for path in paths:
        image = dcmread(path)
        image.StationName = _STATION
        image.save_as(path)
    return paths


def measure(state: str, folder: Path, slices: Slices, busy_with: Sequence[Path]) -> Lag:
    """Forward the slices to a new PACS with inference in one of `STATES`, in `folder`, which is removed.

    Raises:
        RuntimeError: inference was not in that state, or something did not arrive.
        Refused: the appliance did not take an image.
    """
    pacs = StampingStorescp(folder / "pacs")
    tree = Tree(folder / "appliance", pacs.port, _settings(state))
    try:
        with pacs, _running(tree), _inference(tree, state, busy_with):
            before = len(busy_with) if state in (BUSY, HUNG) else 0
            if before:
                pacs.wait_for(before, _PATIENCE_S)
            slices.renew()
            os.sync()
            lag = _forward(tree.port, slices, pacs, before)
            running = _jobs(tree)["running"]
        if (running > 0) != (state in (BUSY, HUNG)):
            raise RuntimeError(f"{running} jobs were running when inference was to be {state}")
        return lag
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _settings(state: str) -> dict[str, Any]:
    match = {"station_name": [_STATION]}
    models = [] if state == ABSENT else ["ct-denoise", "head-ct-triage"]
    pipelines = [{"model": model, "destinations": ["pacs"], "match": match} for model in models]
    return {"pipelines": pipelines, "log": {"level": "warning"}}


@contextmanager
def _running(tree: Tree) -> Iterator[None]:
    tree.start()
    try:
        yield
    finally:
        tree.stop()


@contextmanager
def _inference(tree: Tree, state: str, busy_with: Sequence[Path]) -> Iterator[None]:
    """Have inference in that state while open."""
    if state not in (BUSY, HUNG):
        yield
        return
    send_raw(tree.port, map(read_object, busy_with))
    end = time.monotonic() + _PATIENCE_S
    while not _jobs(tree)["running"]:
        if time.monotonic() > end:
            raise RuntimeError("inference does not begin")
    process = tree.processes()["infer"]
    if state == HUNG:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # the supervisor may have lost patience with it
            os.kill(process, signal.SIGKILL)  # it would finish the whole series first


def _jobs(tree: Tree) -> dict[str, int]:
    answer = subprocess.run(tree.command("status", "--json"), capture_output=True, check=True)
    jobs: dict[str, int] = json.loads(answer.stdout)["jobs"]
    return jobs


def _forward(port: int, slices: Slices, pacs: StampingStorescp, before: int) -> Lag:
    objects = [read_object(path) for path in slices.paths]
    sent: dict[str, float] = {}
    with RawSender(port, {one.context for one in objects}) as sender:
        for one in objects:
            sent[one.sop_instance_uid] = time.time()
            if (status := sender.store(one)) != 0x0000:
                raise Refused(f"the appliance answers 0x{status:04X}")
        answered = time.time()
    arrived = pacs.wait_for(before + len(objects), _PATIENCE_S)
    lags = sorted(arrived[uid] - at for uid, at in sent.items())
    return Lag(
        _quantile(lags, 0.50),
        _quantile(lags, 0.95),
        _quantile(lags, 0.99),
        max(arrived[uid] for uid in sent) - answered,
        len(objects) / (answered - min(sent.values())),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of all does not exceed."""
    return ordered[max(0, -(-int(share * 100) * len(ordered) // 100) - 1)]
