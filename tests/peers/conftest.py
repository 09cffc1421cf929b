"""Simulated heads that several tests send: made once, read only."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.simulate.head_series import write_series


@pytest.fixture(scope="session")
def bleed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A head with a large bleed: the smallest series that the models take. It has no accession number."""
    return write_series(tmp_path_factory.mktemp("bleed"), seed=1, bleed=True, slices=16, size=256)


@pytest.fixture(scope="session")
def clear(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The like without a bleed."""
    return write_series(tmp_path_factory.mktemp("clear"), seed=1, bleed=False, slices=16, size=256)
