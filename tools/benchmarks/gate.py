"""What the gate costs for each derived slice of 512 x 512: `python -m tools.benchmarks.gate`."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

from appliance.dicom.codes import ARTIFICIAL_INTELLIGENCE
from appliance.dicom.outcome import Enhanced, Identity, ModelIdentity, StationIdentity
from appliance.dicom.volume import load_volume
from appliance.results.conformance import check, sources_of
from appliance.results.derived import derive_images
from tools.benchmarks.slices import Slices

_SLICES, _ROUNDS = 8, 20


def milliseconds() -> list[float]:
    """Processor time of each check, in ms."""
    with tempfile.TemporaryDirectory() as folder:
        volume = load_volume(Slices(Path(folder) / "slices", _SLICES).paths)
        identity = Identity(
            station=StationIdentity("EDGE", "Benchmark", "Appliance", "1", "1", "2.25.1"),
            model=ModelIdentity("model", "1", "Model", "Benchmark", "0" * 64),
            pipeline_digest="benchmark",
            revision=1,
            created=datetime.now(timezone.utc),
            parameters={},
        )
        outcome = Enhanced(volume.voxels[:], "Benchmark", "AI", (ARTIFICIAL_INTELLIGENCE,))
        images = list(derive_images(outcome, volume, identity))
        sources = sources_of(volume.sources)
        times = []
        for _ in range(_ROUNDS):
            for image in images:
                started = time.process_time_ns()
                check(image, sources)
                times.append((time.process_time_ns() - started) / 1e6)
    return times


if __name__ == "__main__":
    measured = milliseconds()
    sys.stdout.write(f"{min(measured):.2f} ms at best, {statistics.median(measured):.2f} ms in the median\n")
