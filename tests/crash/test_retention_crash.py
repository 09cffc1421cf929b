"""Kill the process that purges: nothing leaves that was not delivered, and nothing is left behind."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from tests.dicom_samples import CtSeries, write_series
from tests.support.pacs import StoreScp, send
from tests.support.processes import wait_until
from tests.support.running import RunningAppliance

IMAGES, KILLS = 120, 5


def kill_plan(appliance: RunningAppliance) -> None:
    """Kill the process that purges, if it runs; the supervisor starts it again."""
    command = ["pgrep", "-f", f"appliance plan --config {appliance.config}"]
    for number in subprocess.run(command, capture_output=True, text=True, check=False).stdout.split():
        os.kill(int(number), signal.SIGKILL)


def purged(journal: Path) -> dict[str, int]:
    """How many files there are in each state."""
    with sqlite3.connect(journal) as connection:
        rows = connection.execute("SELECT state, count(*) FROM files GROUP BY 1").fetchall()
    connection.close()
    return dict(rows)


@pytest.mark.slow
def test_a_killed_purge_is_taken_up_again(tmp_path: Path) -> None:
    pacs = StoreScp(tmp_path / "pacs")
    appliance = RunningAppliance(
        tmp_path / "edge",
        pacs_port=pacs.port,
        settings={
            "pipelines": [],
            "storage": {"path": "./var", "minimum_free_mb": 16, "keep_originals_h": 0.0},
        },
    )
    spool = tmp_path / "edge" / "var" / "spool" / "originals"
    moments = random.Random(20261123)
    try:
        appliance.start()
        send(write_series(tmp_path / "series", CtSeries(slices=IMAGES, rows=16, columns=16)), appliance.port)
        time.sleep(3.0)
        assert sum(1 for path in spool.glob("*/*.dcm") if path.stat().st_size) == IMAGES
        pacs.start()
        for _ in range(KILLS):
            time.sleep(moments.uniform(0.2, 2.0))
            kill_plan(appliance)
        journal = tmp_path / "edge" / "var" / "journal.sqlite"
        wait_until(lambda: purged(journal) == {"removed": IMAGES}, 60, "everything is purged")
    finally:
        appliance.stop()
        pacs.stop()
    assert len(pacs.files) == IMAGES
    assert not [path for path in spool.glob("*/*.dcm") if path.stat().st_size]
