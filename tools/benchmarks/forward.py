"""`tools/bench forward`: the appliance beside other senders, and how far originals lag behind a scanner.

Every run of a sender has a new storescp with an empty folder and files whose UIDs were never used. The
storescp itself says when: from the first association that carried an object to the last byte of the last
object in its file. The runs of all cases alternate, so that a busy minute hits all alike.
"""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.benchmarks import forward_lag
from tools.benchmarks.forward_lag import ABSENT, HUNG, STATES, Lag
from tools.benchmarks.forward_pacs import StampingStorescp
from tools.benchmarks.forward_senders import Sender, appliance, dcmsend, orthanc, stock_pynetdicom
from tools.benchmarks.receivers import ORTHANC
from tools.benchmarks.report import Report, Result
from tools.benchmarks.slices import Slices

_PATIENCE_S = 120.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    """One way to send."""

    name: str
    sender: Sender
    program: Path | None = None


@dataclass(frozen=True)
class Run:
    """The figures of one run."""

    images_per_s: float
    mb_per_s: float


CASES = (
    Case("appliance, 1 association", appliance({"associations": 1})),
    Case("appliance, default associations", appliance({})),
    Case("DCMTK dcmsend, 1 association", dcmsend),
    Case("stock pynetdicom, 1 association", stock_pynetdicom),
    Case("Orthanc, store to a modality", orthanc, ORTHANC),
)
_ONE, _DCMSEND, _STOCK = (CASES[number].name for number in (0, 2, 3))


def benchmark(folder: Path, *, runs: int, images: int, command: str, say: Say) -> Report:
    """Run everything in `folder`."""
    say(f"makes {images} slices")
    slices = Slices(folder / "slices", images)
    cases = [case for case in CASES if case.program is None or os.access(case.program, os.X_OK)]
    notes = [
        f"{case.name}: {case.program} is not installed, so the case is left out."
        for case in CASES
        if case not in cases
    ]
    busy_with = forward_lag.work(folder / "work")
    sent: dict[str, list[Run]] = {case.name: [] for case in cases}
    lags: dict[str, list[Lag]] = {state: [] for state in STATES}
    for number in range(runs):
        for case in cases:
            sent[case.name].append(_run(case, slices, folder / "run"))
            say(f"run {number + 1}  {case.name}: {sent[case.name][-1].images_per_s:.0f} images/s")
        for state in STATES:
            lags[state].append(forward_lag.measure(state, folder / "run", slices, busy_with))
            say(f"run {number + 1}  inference {state}: p99 of the lag {lags[state][-1].p99_s:.3f} s")
    results = [_rates(name, found) for name, found in sent.items()]
    results += [_lags(state, found) for state, found in lags.items()]
    return Report(command, tuple(results), _ratios(sent, lags), tuple(notes))


def _run(case: Case, slices: Slices, folder: Path) -> Run:
    slices.renew()
    pacs = StampingStorescp(folder / "pacs")
    try:
        with ExitStack() as running:
            go = running.enter_context(case.sender(folder / "sender", slices, pacs.port))
            running.enter_context(pacs)
            os.sync()
            go()
            arrived = pacs.wait_for(len(slices.paths), _PATIENCE_S)
            seconds = max(arrived.values()) - pacs.begun_s()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Run(len(arrived) / seconds, slices.total_bytes / seconds / 1e6)


def _rates(name: str, runs: list[Run]) -> Result:
    rates = [run.images_per_s for run in runs]
    return {
        "case": name,
        "images_per_s": statistics.median(rates),
        "slowest": min(rates),
        "fastest": max(rates),
        "mb_per_s": statistics.median(run.mb_per_s for run in runs),
    }


def _lags(state: str, runs: list[Lag]) -> Result:
    """Medians over the runs, and the worst p99."""
    figures = [asdict(run) for run in runs]
    medians = {name: statistics.median(run[name] for run in figures) for name in figures[0]}
    return {"case": f"lag, inference {state}", **medians, "worst_p99_s": max(run.p99_s for run in runs)}


def _ratios(sent: dict[str, list[Run]], lags: dict[str, list[Lag]]) -> dict[str, float]:
    """The goals of the project are about these."""
    rate = {name: statistics.median(run.images_per_s for run in found) for name, found in sent.items()}
    p99 = {state: statistics.median(run.p99_s for run in found) for state, found in lags.items()}
    return {
        "send_vs_dcmsend": rate[_ONE] / rate[_DCMSEND],
        "send_vs_pynetdicom": rate[_ONE] / rate[_STOCK],
        "lag_p99_hung_minus_absent_s": p99[HUNG] - p99[ABSENT],
    }
