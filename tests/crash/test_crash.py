"""No crash loses an acknowledged image, and none makes a result twice.

The experiment itself is tools/campaigns/crash.py; `tools/campaign crash` runs it with many more points.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.processes import program
from tools.campaigns.crash import bench, crash, draw_points, last_look

POINTS = 10


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [20261123])
def test_whatever_dies_everything_arrives_once(tmp_path: Path, seed: int) -> None:
    program("/usr/bin/storescp", "dcmtk")
    with bench(tmp_path) as running:
        crashes = [crash(running, point) for point in draw_points(running, POINTS, random.Random(seed))]
        found = last_look(running)
    assert not [one for one in crashes if one.problems]
    assert not found
    # The experiment is worth something only if it hit the work while it was done.
    assert len({one.stage for one in crashes}) >= 3
