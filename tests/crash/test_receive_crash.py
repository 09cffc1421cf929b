"""No kill while several scanners send loses an acknowledged image or makes one twice.

The experiment itself is tools/campaigns/receive_crash.py; `tools/campaign receive` runs it with many
more points.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.processes import program
from tools.campaigns.receive_crash import bench, draw_kills, last_look, receive_crash

POINTS = 10


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [20261123])
def test_whoever_dies_while_scanners_send_every_acknowledged_image_arrives(tmp_path: Path, seed: int) -> None:
    program("/usr/bin/storescp", "dcmtk")
    with bench(tmp_path, senders=4, receivers=2) as running:
        crashes = [receive_crash(running, kill) for kill in draw_kills(running, POINTS, random.Random(seed))]
        found = last_look(running)
    assert not [one for one in crashes if one.problems]
    assert not found
    # The experiment is worth something only if it hit the scanners while they sent.
    assert sum(1 for one in crashes if one.associations > one.senders) >= 2
