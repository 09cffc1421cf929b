"""A boot clock that tests set, for what happens within hours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from appliance.journal import clock


class BootClock:
    """Seconds of the journal's boot clock, as long as `stopped_clock` is in effect."""

    def __init__(self) -> None:
        self.now = 1000.0

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


@contextmanager
def stopped_clock() -> Iterator[BootClock]:
    """The journal's boot clock stands still but for `advance`."""
    boot = BootClock()
    with pytest.MonkeyPatch.context() as patch:
        time = SimpleNamespace(CLOCK_BOOTTIME=0, clock_gettime=lambda _clock: boot.now)
        patch.setattr(clock, "time", time)
        yield boot
