"""A thread that looks for something to do when the bell rings, and by itself every now and then."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from appliance.domain.errors import TryAgain
from appliance.journal.database import Journal

LOOK_S = 2.0
"""How long nobody looks, if neither the bell rings nor something is due earlier."""

_log = logging.getLogger(__name__)


class Looker:
    """Calls `look` again and again; what it returns is how many seconds to wait, if no bell rings.

    A `TryAgain` that `look` raises is logged, and the journal's connection is the thread's own.
    """

    def __init__(self, name: str, look: Callable[[], float], journal: Journal) -> None:
        self.name = name
        self._look = look
        self._journal = journal
        self._bell = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def ring(self) -> None:
        """There may be something to do."""
        self._bell.set()

    def stop(self) -> None:
        """Finish what is being done, and no more."""
        self._stopping.set()
        self._bell.set()

    @property
    def is_alive(self) -> bool:
        """False once the thread has stopped, or a fault in it has ended it."""
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has stopped."""
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._bell.clear()
            try:
                wait_s = self._look()
            except TryAgain:
                _log.exception("journal_unavailable")
                wait_s = LOOK_S
            self._bell.wait(wait_s)
        self._journal.close()
