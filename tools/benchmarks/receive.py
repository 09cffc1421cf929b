"""`tools/bench receive`: the appliance beside other receivers, with the same files and the same sender.

Every run starts its receiver anew with an empty folder, sends some images to warm it up, lets the disk
come to rest, and then measures. The runs of all cases alternate, so that a busy minute hits all alike.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.benchmarks.past import fill
from tools.benchmarks.processes import PeakMemory, cpu_seconds
from tools.benchmarks.receivers import (
    ORTHANC,
    STORESCP,
    Appliance,
    Orthanc,
    Receiver,
    StockPynetdicom,
    Storescp,
)
from tools.benchmarks.report import Report, Result
from tools.benchmarks.sender import send
from tools.benchmarks.slices import Slices
from tools.benchmarks.spool import Flushed, WriteOnly, median_seconds
from tools.benchmarks.stream import FRAME_BYTES, Stream, store_at_once

CORES = os.cpu_count() or 1
_WARM_UP = 8
_IDLE_ASSOCIATIONS = 64
_IDLE_S = 10.0
_REST_S = 2.0
_STATUS_RUNS = 3
_FRAMES_OF_2_GIB = 2**31 // FRAME_BYTES

Say = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    """One way to receive. `keep` is a folder to use instead of a new one for each run."""

    name: str
    make: Callable[[Path], Receiver]
    associations: int
    program: Path | None = None
    keep: Path | None = None


@dataclass(frozen=True)
class Run:
    """The figures of one run."""

    images_per_s: float
    mb_per_s: float
    cpu_s_per_image: float
    peak_resident_mib: float


CASES = (
    Case("appliance, 1 association", Appliance, 1),
    Case("appliance, 4 associations", Appliance, 4),
    Case("appliance, 1 association, a process for each core", lambda at: Appliance(at, processes=CORES), 1),
    Case("appliance, 4 associations, a process for each core", lambda at: Appliance(at, processes=CORES), 4),
    Case("DCMTK storescp +B, 1 association, no flush", Storescp, 1, STORESCP),
    Case("DCMTK storescp --fork, 4 associations, no flush", lambda at: Storescp(at, fork=True), 4, STORESCP),
    Case("stock pynetdicom, 1 association", StockPynetdicom, 1),
    Case("stock pynetdicom, 4 associations", StockPynetdicom, 4),
    Case("Orthanc, 1 association", Orthanc, 1, ORTHANC),
)
_ONE, _FOUR_PROCESSES, _DCMTK, _FORK, _STOCK, _ORTHANC = (CASES[n].name for n in (0, 3, 4, 5, 6, 8))
_DCMTK_FLUSHING = "DCMTK storescp +B, if it flushed each image"
_FLUSHES = 100
_PAST = "appliance, 1 association, journal with past instances"


def benchmark(folder: Path, *, runs: int, images: int, past: int, command: str, say: Say) -> Report:
    """Run everything in `folder`; with `past` 0 no journal is filled beforehand."""
    say(f"makes {images} slices")
    slices = Slices(folder / "slices", images)
    cases = [case for case in CASES if case.program is None or os.access(case.program, os.X_OK)]
    notes = [
        f"{case.name}: {case.program} is not installed, so the case is left out."
        for case in CASES
        if case not in cases
    ]
    full = folder / "past"
    if past:
        say(f"fills a journal with {past} past instances")
        fill(Appliance(full).journal_path, past)
        cases.append(Case(_PAST, Appliance, 1, keep=full))
    measured: dict[str, list[Run]] = {case.name: [] for case in cases}
    for number in range(runs):
        for case in cases:
            measured[case.name].append(_run(case, slices, case.keep or folder / "run"))
            say(f"run {number + 1}  {case.name}: {measured[case.name][-1].images_per_s:.0f} images/s")
    rates = {name: statistics.median(run.images_per_s for run in found) for name, found in measured.items()}
    say("flushes images")
    flush_s = _flush_s(folder / "flush")
    ratios = _ratios(rates, past, flush_s)
    results = [_median(name, found) for name, found in measured.items()]
    results.append({"case": "the flush of one image", "median_ms": 1000.0 * flush_s})
    if past:
        times = _status_times(Appliance(full), Appliance(folder / "empty"))
        results.append(times)
        ratios["status_1M_vs_empty"] = float(times["empty_s"]) / float(times["past_s"])
    results += _resources(folder, say)
    return Report(command, tuple(results), ratios, tuple(notes))


def _run(case: Case, slices: Slices, folder: Path) -> Run:
    try:
        with case.make(folder) as receiver:
            before = receiver.stored()
            slices.renew()
            send(slices.paths[:_WARM_UP], receiver.port, called=receiver.title)
            receiver.settle(before + _WARM_UP)
            slices.renew()
            os.sync()
            used_s = cpu_seconds(receiver.process_ids)
            with PeakMemory(receiver.process_ids) as memory:
                seconds = send(
                    slices.paths, receiver.port, called=receiver.title, associations=case.associations
                )
                receiver.settle(before + _WARM_UP + len(slices.paths))
            used_s = cpu_seconds(receiver.process_ids) - used_s
    finally:
        if case.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    count = len(slices.paths)
    return Run(count / seconds, slices.total_bytes / seconds / 1e6, used_s / count, memory.mib)


def _median(name: str, runs: list[Run]) -> Result:
    rates = [run.images_per_s for run in runs]
    return {
        "case": name,
        "images_per_s": statistics.median(rates),
        "slowest": min(rates),
        "fastest": max(rates),
        "mb_per_s": statistics.median(run.mb_per_s for run in runs),
        "cpu_s_per_image": statistics.median(run.cpu_s_per_image for run in runs),
        "peak_resident_mib": max(run.peak_resident_mib for run in runs),
    }


def _flush_s(folder: Path) -> float:
    """What the flush of a new file of the size of an image takes on this disk, beside writing it."""
    folder.mkdir()
    medians = median_seconds(folder, (WriteOnly, Flushed), _FLUSHES)
    shutil.rmtree(folder)
    return medians[Flushed] - medians[WriteOnly]


def _ratios(rates: dict[str, float], past: int, flush_s: float) -> dict[str, float]:
    """The goals of the project are about these; one whose peer is missing is left out.

    `receive_1_vs_dcmtk_and_flush` compares with a DCMTK that would flush each image.
    """
    if _DCMTK in rates:
        rates = {**rates, _DCMTK_FLUSHING: 1.0 / (1.0 / rates[_DCMTK] + flush_s)}
    pairs = {
        "receive_1_vs_dcmtk": (_ONE, _DCMTK),
        "receive_1_vs_dcmtk_and_flush": (_ONE, _DCMTK_FLUSHING),
        "receive_4_vs_dcmtk_fork": (_FOUR_PROCESSES, _FORK),
        "receive_1_vs_pynetdicom": (_ONE, _STOCK),
        "receive_1_vs_orthanc": (_ONE, _ORTHANC),
        "receive_1M_vs_empty": (_PAST, _ONE),
    }
    return {
        name: rates[ours] / rates[theirs]
        for name, (ours, theirs) in pairs.items()
        if ours in rates and theirs in rates
    }


def _status_times(full: Appliance, empty: Appliance) -> Result:
    """How long `appliance status` takes with either journal; the start of Python is in both."""
    with empty:
        pass
    seconds: dict[str, list[float]] = {"empty_s": [], "past_s": []}
    for _ in range(_STATUS_RUNS):
        for name, appliance in (("empty_s", empty), ("past_s", full)):
            begin = time.monotonic()
            subprocess.run(
                appliance.command("status", "--json"),
                stdout=subprocess.DEVNULL,
                check=True,
            )
            seconds[name].append(time.monotonic() - begin)
    return {"case": "appliance status", **{name: statistics.median(found) for name, found in seconds.items()}}


def _resources(folder: Path, say: Say) -> list[Result]:
    """What idle associations cost, and whether memory depends on the size of the objects."""
    say(f"{_IDLE_ASSOCIATIONS} idle associations")
    results = [_idle(folder / "idle")]
    for name, associations, frames in (
        ("memory_64_of_0.5_mb", _IDLE_ASSOCIATIONS, 1),
        ("memory_64_of_20_mb", _IDLE_ASSOCIATIONS, 40),
        ("memory_1_of_2_gib", 1, _FRAMES_OF_2_GIB),
    ):
        say(f"{associations} associations with {frames * FRAME_BYTES / 1e6:.1f} MB each")
        results.append(_memory(folder / "memory", name, associations, frames))
    return results


def _idle(folder: Path) -> Result:
    with Appliance(folder) as appliance:
        streams = [Stream(appliance.port, appliance.title) for _ in range(_IDLE_ASSOCIATIONS)]
        time.sleep(_REST_S)
        used_s = cpu_seconds(appliance.process_ids)
        time.sleep(_IDLE_S)
        used_s = cpu_seconds(appliance.process_ids) - used_s
        for stream in streams:
            stream.close()
    shutil.rmtree(folder)
    return {"case": f"idle_{_IDLE_ASSOCIATIONS}", "cpu_core_percent": 100.0 * used_s / _IDLE_S}


def _memory(folder: Path, name: str, associations: int, frames: int) -> Result:
    with Appliance(folder) as appliance, PeakMemory(appliance.process_ids) as memory:
        begin = time.monotonic()
        store_at_once(appliance.port, appliance.title, associations, frames)
        seconds = time.monotonic() - begin
        appliance.settle(associations)
    shutil.rmtree(folder)
    megabytes = associations * frames * FRAME_BYTES / 1e6
    return {"case": name, "peak_resident_mib": memory.mib, "mb_per_s": megabytes / seconds}
