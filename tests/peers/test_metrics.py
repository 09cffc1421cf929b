"""Prometheus's own checker reads what the running appliance serves."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from tests.support.pacs import StoreScp
from tests.support.processes import program
from tests.support.running import RunningAppliance


@pytest.mark.slow
def test_promtool_finds_nothing_to_complain_about(
    storescp: StoreScp, appliance: Callable[..., RunningAppliance]
) -> None:
    promtool = program("/usr/bin/promtool", "prometheus")
    running = appliance(storescp.port)
    page = running.get("/metrics")
    for process in ("run", "receive", "plan", "infer", "forward", "monitor"):
        assert f'appliance_process_up{{process="{process}"}} 1.0' in page
    answer = subprocess.run(
        [promtool, "check", "metrics"],
        input=page,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    assert running.get("/healthz") == "ok\n"
    assert running.get("/readyz") == "ready\n"
