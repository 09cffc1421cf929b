"""What the standard's checkers say of files: dciodvfy, dcentvfy (dicom3tools), dsrdump, dsr2html (DCMTK)."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

DCIODVFY = Path("/usr/bin/dciodvfy")
DCENTVFY = Path("/usr/bin/dcentvfy")
DSRDUMP = Path("/usr/bin/dsrdump")
DSR2HTML = Path("/usr/bin/dsr2html")


def dciodvfy_errors(path: Path) -> list[str]:
    """The `Error` lines of one object; empty if it conforms to its IOD."""
    return [line for line in _lines([DCIODVFY, path]) if line.startswith("Error")]


def dcentvfy_problems(paths: Sequence[Path]) -> list[str]:
    """Contradictions between objects about the same patient, study, series or frame of reference.

    The tool also warns that it files some attribute under another entity in another IOD
    ("Different information entities"), which says nothing about the values.
    """
    return [line.strip() for line in _lines([DCENTVFY, *paths]) if line.strip().startswith("Error")]


def report_text(path: Path) -> str:
    """The content tree of a structured report, as DCMTK reads it. Raises if DCMTK cannot."""
    done = subprocess.run(
        [DSRDUMP, "--print-long-values", "--print-all-codes", path],
        capture_output=True,
        text=True,
        check=True,
    )
    return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)


def report_page(path: Path) -> str:
    """A structured report as HTML, as DCMTK shows it. Raises if DCMTK cannot."""
    done = subprocess.run([DSR2HTML, path], capture_output=True, encoding="utf-8", check=True)
    return done.stdout


def _lines(command: Sequence[str | Path]) -> list[str]:
    done = subprocess.run(command, capture_output=True, encoding="latin-1", check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{Path(command[0]).name} ended with {done.returncode}: {done.stderr[-500:]}")
    return (done.stdout + done.stderr).splitlines()
