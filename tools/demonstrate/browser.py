"""Pages as pictures, taken by Chromium without a window."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

TALLEST = 12000
"""Pixels of a page that are looked at."""
_PATIENCE_S = 120


class NotInstalled(Exception):
    """A program that pictures are made with is missing; the message names it."""


def program(name: str) -> str:
    """Where a program is.

    Raises:
        NotInstalled: it is nowhere on the PATH.
    """
    found = shutil.which(name)
    if found is None:
        raise NotInstalled(f"{name} is not installed")
    return found


def photograph(page: Path, picture: Path, *, width: int, dark: bool) -> None:
    """The whole of a page, `width` pixels wide, as a PNG; `dark` is what its reader prefers.

    Raises:
        NotInstalled: there is no Chromium.
        subprocess.SubprocessError: it failed.
    """
    with tempfile.TemporaryDirectory() as profile:
        command = [
            program("chromium"),
            "--headless",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
            f"--window-size={width},{TALLEST}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            f"--screenshot={picture}",
            page.resolve().as_uri(),
        ]
        if os.geteuid() == 0:  # Chromium has no sandbox for root
            command.insert(1, "--no-sandbox")
        subprocess.run(command, check=True, capture_output=True, timeout=_PATIENCE_S)
    with Image.open(picture) as whole:
        pixels = np.asarray(whole.convert("RGB"))
    used = np.flatnonzero((pixels != pixels[-1]).any(axis=(1, 2)))
    Image.fromarray(pixels[: used[-1] + 24 if used.size else 1]).save(picture, optimize=True)
