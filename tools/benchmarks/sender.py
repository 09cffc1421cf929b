"""DCMTK's `dcmsend` as the scanner: one association or several at once, timed by what it says."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

DCMSEND = Path("/usr/bin/dcmsend")

# Without it DCMTK sends and receives about 20 images a second on the loopback interface.
DCMTK_ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}

_BEGIN, _END = b"Requesting Association", b"Releasing Association"


class NotSent(Exception):
    """Not every image was taken; the message ends with the last words of the sender."""


def send(paths: Sequence[Path], port: int, *, called: str, associations: int = 1) -> float:
    """Send all files, shared out evenly; seconds from the first request to the last release.

    Raises:
        NotSent: an association or an image was refused.
    """
    senders = [_Sender(paths[first::associations], port, called) for first in range(associations)]
    for one in senders:
        one.join()
    return max(one.end_s for one in senders) - min(one.begin_s for one in senders)


class _Sender(threading.Thread):
    """One `dcmsend`, whose messages are stamped with the time of their arrival."""

    def __init__(self, paths: Sequence[Path], port: int, called: str) -> None:
        super().__init__(daemon=True)
        self.begin_s = self.end_s = 0.0
        self._stored = 0
        self._count = len(paths)
        self._last: list[bytes] = []
        command = [str(DCMSEND), "--verbose", "--decompress-never", "--call", called, "127.0.0.1", str(port)]
        self._process = subprocess.Popen(
            [*command, *map(str, paths)],
            env=DCMTK_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self.start()

    def run(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if _BEGIN in line:
                self.begin_s = time.monotonic()
            elif _END in line:
                self.end_s = time.monotonic()
            elif b"Response (Success)" in line:
                self._stored += 1
            else:
                self._last = [*self._last[-4:], line]
        self._process.stderr.close()
        self._process.wait()

    def join(self, timeout: float | None = None) -> None:
        super().join(timeout)
        if self._process.returncode != 0 or self._stored != self._count:
            words = b"".join(self._last).decode(errors="replace")
            raise NotSent(f"{self._stored} of {self._count} images were taken; dcmsend said:\n{words}")
