"""Entry point of `tools/demo`."""

from __future__ import annotations

import typer

from tools.demonstrate.story import demonstrate

typer.run(demonstrate)
