"""What every group of settings has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A group of settings: an unknown one is a mistake, and none changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
