"""No kill of the forwarder or the PACS loses an image or makes one twice.

The experiment itself is tools/campaigns/forward_crash.py; `tools/campaign forward` runs it with many more
points.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.processes import program
from tools.campaigns.forward_crash import bench, draw_kills, forward_crash, last_look

POINTS = 10


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [20261123])
def test_whoever_dies_while_images_leave_everything_arrives_once(tmp_path: Path, seed: int) -> None:
    program("/usr/bin/storescp", "dcmtk")
    with bench(tmp_path, senders=2) as running:
        crashes = [forward_crash(running, kill) for kill in draw_kills(POINTS, random.Random(seed))]
        found = last_look(running)
    assert not [one for one in crashes if one.problems]
    assert not found
    # The experiment is worth something only if it hit the forwarder while it had images in hand.
    assert sum(1 for one in crashes if one.sending) >= 3
