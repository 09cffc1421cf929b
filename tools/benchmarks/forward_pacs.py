"""The PACS of the forwarding benchmark: DCMTK's storescp, which says when each object was on its disk."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tools.benchmarks.receivers import Storescp

_LAYOUT = """\
log4cplus.rootLogger = INFO, log
log4cplus.appender.log = log4cplus::ConsoleAppender
log4cplus.appender.log.logToStdErr = true
log4cplus.appender.log.ImmediateFlush = true
log4cplus.appender.log.layout = log4cplus::PatternLayout
log4cplus.appender.log.layout.ConversionPattern = %D{%s.%q} %i %m%n
"""
_ASSOCIATION, _OBJECT = "Association Received", "Received Store Request"
_REST_S = 0.3


class StampingStorescp(Storescp):
    """`storescp --fork` with a message for each association and object, stamped by its own clock.

    When an object was whole is the time of last change of its file, which bears the object's UID.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, fork=True)
        self._layout = folder / "log.cfg"
        self._layout.write_text(_LAYOUT)

    def commands(self) -> list[list[str]]:
        (command,) = super().commands()
        return [[*command[:-1], "--accept-all", "--log-config", str(self._layout), command[-1]]]

    def begun_s(self) -> float:
        """When the first association that carried an object was received, in seconds of the wall clock."""
        associations: dict[str, float] = {}
        for line in (self.folder / "log").read_text(errors="replace").splitlines():
            stamp, _, rest = line.partition(" ")
            process, _, message = rest.partition(" ")
            if message.startswith(_ASSOCIATION):
                associations[process] = float(stamp)
            elif message.startswith(_OBJECT):
                return associations[process]
        raise RuntimeError("no object came to storescp")

    def arrivals(self) -> dict[str, float]:
        """When each object was whole, in seconds of the wall clock, by SOP Instance UID."""
        with os.scandir(self.folder / "files") as entries:
            return {entry.name.partition(".")[2]: entry.stat().st_mtime for entry in entries}

    def wait_for(self, objects: int, seconds: float) -> dict[str, float]:
        """`arrivals` once that many objects are whole.

        Raises:
            RuntimeError: they have not come in time.
        """
        end = time.monotonic() + seconds
        # `stored` counts names, `arrivals` wants files that nobody writes any more.
        while self.stored() < objects or time.time() - max(self.arrivals().values()) < _REST_S:
            if time.monotonic() > end:
                raise RuntimeError(f"{self.stored()} of {objects} objects came to storescp")
            time.sleep(0.05)
        return self.arrivals()
