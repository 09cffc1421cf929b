"""Fixtures that more than one folder of tests uses. The classes behind them live in tests/support."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.journal_samples import close_journals
from tests.support.pacs import Orthanc, StoreScp
from tests.support.processes import ROOT
from tests.support.running import RunningAppliance

# A fifth of the examples, the same in every run. No deadlines: they would measure what else the machine does.
hypothesis.settings.register_profile("fast", max_examples=20, derandomize=True, deadline=None)
hypothesis.settings.register_profile("whole", deadline=None)


def pytest_configure(config: pytest.Config) -> None:
    """Draw fewer examples where only the fast tests are asked for, unless --hypothesis-profile says which."""
    if config.getoption("--hypothesis-profile") is None:
        fast = config.getoption("markexpr") == "not slow"
        hypothesis.settings.load_profile("fast" if fast else "whole")


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """`real_data("ct/human-lung")`: that path in the folder of real data, or the test is skipped.

    The folder is $APPLIANCE_TEST_DATA, by default ../shared/data beside the repository.
    """
    folder = Path(os.environ.get("APPLIANCE_TEST_DATA") or ROOT.parent / "shared" / "data")

    def find(path: str) -> Path:
        if not (folder / path).exists():
            pytest.skip(f"no real data {path!r}: point APPLIANCE_TEST_DATA to a folder that has it")
        return folder / path

    return find


@pytest.fixture(autouse=True)
def no_journal_stays_open() -> Iterator[None]:
    """Close the journals that the test opened with `open_journal`."""
    yield
    close_journals()


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[StoreScp]:
    """DCMTK's storescp as PACS, listening; it writes into `storescp.folder`."""
    pacs = StoreScp(tmp_path / "storescp")
    try:
        yield pacs.start()
    finally:
        pacs.stop()


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    """Orthanc as PACS, listening."""
    pacs = Orthanc(tmp_path / "orthanc")
    try:
        yield pacs.start()
    finally:
        pacs.stop()


StartAppliance = Callable[..., RunningAppliance]


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[StartAppliance]:
    """`appliance(pacs.port, settings={...})` starts an appliance that delivers to that port.

    At the end of the test it must end with status 0 on SIGTERM.
    """
    with ExitStack() as running:

        def start(pacs_port: int, *, settings: Mapping[str, Any] | None = None) -> RunningAppliance:
            started = RunningAppliance(tmp_path / "appliance", pacs_port=pacs_port, settings=settings)
            running.callback(started.stop)
            return started.start()

        yield start
