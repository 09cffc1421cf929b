"""The two clocks. The boot clock drives every timer; the wall clock is for people only.

The boot clock is one for all processes and survives their restart, so its values may be stored; a
reboot, which resets it, is told by the kernel's boot id.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_seconds() -> float:
    """Seconds since boot, suspension included; never set, never set back."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Names the present boot of the kernel."""
    return _BOOT_ID.read_text(encoding="ascii").strip()


def wall_time() -> str:
    """The time of day for people, UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
