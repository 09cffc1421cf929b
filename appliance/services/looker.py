"""Threads that look for something to do when the bell rings, and by themselves every now and then."""

from __future__ import annotations

import logging
import threading
from abc import abstractmethod
from collections.abc import Callable

from appliance.domain.errors import TryAgain
from appliance.journal.database import Journal

LOOK_S = 2.0
"""How long nobody looks, if neither the bell rings nor something is due earlier."""

_log = logging.getLogger(__name__)


class RungThread:
    """A thread with a bell, for what `_work` of a subclass does; the journal's connection is its own."""

    def __init__(self, name: str, journal: Journal) -> None:
        self.name = name
        self._journal = journal
        self._bell = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to work."""
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

    def _run(self) -> None:
        self._work()
        self._journal.close()

    @abstractmethod
    def _work(self) -> None:
        """Until `_stopping` is set, which rings the bell as well."""


class Looker(RungThread):
    """Calls `look` again and again; what it returns is how many seconds to wait, if no bell rings.

    A `TryAgain` that `look` raises is logged.
    """

    def __init__(self, name: str, look: Callable[[], float], journal: Journal) -> None:
        super().__init__(name, journal)
        self._look = look

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._bell.clear()
            try:
                wait_s = self._look()
            except TryAgain:
                _log.exception("journal_unavailable")
                wait_s = LOOK_S
            self._bell.wait(wait_s)
