"""`tools/demo`, the command that a newcomer runs first."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_demonstration_passes_from_any_folder(tmp_path: Path) -> None:
    table, report = tmp_path / "table.json", tmp_path / "report.html"
    answer = subprocess.run(
        [ROOT / "tools" / "demo", "--json", table.name, "--report", report.name],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert str(report) in answer.stdout

    result = json.loads(table.read_text())
    assert result["passed"] is True
    series = result["series"]
    assert all(row["forwarded"] == row["images_in"] > 0 and not row["problems"] for row in series)
    bleed, clear = series[0], series[1]
    assert (bleed["bleed"], clear["bleed"]) == (True, False)
    assert bleed["enhanced"] == clear["enhanced"] == 24
    assert bleed["triage"].startswith("positive")
    assert clear["triage"].startswith("negative")
    scanners = [row for row in series if row["bleed"] is None]
    assert len(scanners) >= 15
    assert any(row["triage"] == "not analysed" for row in scanners)

    page = report.read_text()
    assert page.count("data:image/png;base64,") >= 7
    assert not re.search(r'(?:src|href)="(?!data:)', page), "the report needs another file"
