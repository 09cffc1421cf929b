"""Writes what became of deliveries: those of all workers together, a moment after each."""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable

from appliance.domain.errors import TryAgain
from appliance.journal.database import Journal

GATHER_S = 0.05
"""A destination's answer is in the journal this long after it came: a crash in between sends once more."""
_RETRY_S = 2.0

_log = logging.getLogger(__name__)

Change = Callable[[sqlite3.Connection], None]


class Ledger:
    """Takes changes from many threads and writes them in order, many in one transaction.

    A change that the journal does not take for the moment is kept and tried again: what was claimed must
    not stay claimed.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._waiting: queue.SimpleQueue[Change | threading.Event | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """False once the ledger is closed, or a fault in it has ended it."""
        return self._thread.is_alive()

    def put(self, change: Change) -> None:
        """Have a change written soon."""
        self._waiting.put(change)

    def flush(self) -> None:
        """Return when all that this thread has put is written, or never will be."""
        written = threading.Event()
        self._waiting.put(written)
        while not written.wait(1.0) and self._thread.is_alive():
            pass

    def close(self, timeout_s: float) -> None:
        """Write what is waiting, and stop. What cannot be written now is sent again at the next start."""
        self._closing.set()
        self._waiting.put(None)
        self._thread.join(timeout_s)

    def _work(self) -> None:
        last = False
        while not last:
            changes: list[Change] = []
            flushes: list[threading.Event] = []
            deadline = None
            while deadline is None or time.monotonic() < deadline:
                try:
                    entry = self._waiting.get(timeout=self._time_to(deadline))
                except queue.Empty:
                    break
                if entry is None:
                    last = True
                    break
                if isinstance(entry, threading.Event):
                    flushes.append(entry)
                    break
                changes.append(entry)
                deadline = deadline or time.monotonic() + GATHER_S
            self._write(changes)
            for flush in flushes:
                flush.set()
        self._journal.close()

    @staticmethod
    def _time_to(deadline: float | None) -> float | None:
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def _write(self, changes: list[Change]) -> None:
        while changes:
            try:
                with self._journal.write() as connection:
                    for change in changes:
                        change(connection)
                return
            except TryAgain:
                _log.exception("journal_unavailable", extra={"changes": len(changes)})
                if self._closing.wait(_RETRY_S):
                    return
