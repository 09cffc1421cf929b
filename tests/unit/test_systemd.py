"""The systemd units: one for each process, accepted by systemd, and with the limits of `appliance run`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.config.load import load
from appliance.services.supervise import limits
from tests.support.processes import ROOT, program

UNITS = ROOT / "systemd"
LIMITS = limits(load(ROOT / "config" / "site.yaml"))


def unit(name: str) -> str:
    return (UNITS / f"appliance-{name}.service").read_text()


@pytest.mark.parametrize("name", LIMITS)
def test_every_process_has_a_unit_that_the_target_wants(name: str) -> None:
    assert f"ExecStart=/opt/appliance/bin/appliance {name} --config" in unit(name)
    assert f"appliance-{name}.service" in (UNITS / "appliance.target").read_text()


@pytest.mark.parametrize("name", LIMITS)
def test_the_watchdog_is_that_of_the_supervisor(name: str) -> None:
    found = re.search(r"^WatchdogSec=(\d+)$", unit(name), flags=re.MULTILINE)
    assert found is not None
    assert float(found[1]) == LIMITS[name].silence_s


def test_only_inference_sees_devices_and_only_those_who_must_have_the_network() -> None:
    assert [name for name in LIMITS if "PrivateDevices=yes" not in unit(name)] == ["infer"]
    assert [name for name in LIMITS if "PrivateNetwork=yes" in unit(name)] == ["plan", "infer"]


def test_a_triton_server_is_the_only_network_that_inference_may_get() -> None:
    granted = (UNITS / "triton.conf").read_text().splitlines()
    assert "IPAddressDeny=any" in granted
    assert [line for line in granted if line.startswith("IPAddressAllow=")] == ["IPAddressAllow=localhost"]


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    analyze = program("/usr/bin/systemd-analyze", "systemd")
    shutil.copytree(UNITS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "appliance-infer.service.d").mkdir()
    (tmp_path / "triton.conf").rename(tmp_path / "appliance-infer.service.d" / "triton.conf")
    for path in tmp_path.glob("*.service"):
        # systemd looks for the program, which is installed elsewhere or not at all here.
        path.write_text(path.read_text().replace("/opt/appliance/bin/appliance", "/bin/true"))
    answer = subprocess.run(
        [
            analyze,
            "verify",
            "--man=no",
            *[str(path) for path in sorted(tmp_path.glob("appliance*")) if path.is_file()],
        ],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    about_ours = [line for line in answer.stderr.splitlines() if "appliance" in line]
    assert (answer.returncode, about_ours) == (0, [])
