"""Lets files leave the spool: once nobody needs them any more, and their time has passed since.

First the journal says that a file is given up, so that this survives a power cut; then the file goes.
Whatever happens in between, the next look removes what is left.
"""

from __future__ import annotations

import logging
import sqlite3

from appliance.config.schema import Config
from appliance.domain.retention import kept_for
from appliance.journal import files
from appliance.journal.clock import boot_seconds
from appliance.journal.database import Journal
from appliance.journal.files import SpoolFile
from appliance.observe import metrics
from appliance.services.storage import Storage

_BATCH = 100
_NEXT_LOOK_SHARE = 0.01  # of the retention time: a purge may be that much late
_NEXT_LOOK_MINIMUM_S = 1.0
_NEXT_LOOK_MAXIMUM_S = 600.0

_log = logging.getLogger(__name__)


class Retention:
    """Looks at the files of the spools, a few at a time."""

    def __init__(self, config: Config, storage: Storage) -> None:
        self._duties = config.duties
        self._spools = {"originals": storage.originals, "results": storage.results}
        self._keep_s = {
            "originals": config.storage.keep_originals_h * 3600.0,
            "results": config.storage.keep_results_h * 3600.0,
        }
        # What a power cut makes the journal forget must not be missing in the spool.
        self._journal = Journal(config.journal_path, "FULL")
        if not any(duty.required for duty in self._duties.values()):
            _log.warning("nothing_is_purged", extra={"reason": "no destination is required"})

    def look(self) -> bool:
        """Look at what is due, at most a batch; returns whether there may be more.

        Raises:
            TryAgain: the journal cannot be written, or a spool.
        """
        self._remove()
        with self._journal.read() as connection:
            if not files.due(connection, limit=1):
                return False
        with self._journal.write() as connection:
            due = files.due(connection, limit=_BATCH)
            for file in due:
                self._decide(connection, file)
        self._remove()
        return len(due) == _BATCH

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def _decide(self, connection: sqlite3.Connection, file: SpoolFile) -> None:
        keep_s, now = self._keep_s[file.spool], boot_seconds()
        reason = kept_for(files.claims(connection, file, self._duties))
        if reason is not None:
            look_in_s = min(_NEXT_LOOK_MAXIMUM_S, max(_NEXT_LOOK_MINIMUM_S, keep_s * _NEXT_LOOK_SHARE))
            files.hold(connection, file, reason, look_in_s=look_in_s)
            return
        since_s = now if file.settled_s is None else file.settled_s
        remaining_s = since_s + keep_s - now
        if remaining_s > 0:
            files.settle(connection, file, since_s=since_s, look_in_s=remaining_s)
        else:
            files.purge(connection, file)

    def _remove(self) -> None:
        with self._journal.read() as connection:
            purged = files.purged(connection, limit=2 * _BATCH)
        if not purged:
            return
        for name, spool in self._spools.items():
            spool.purge([file.spool_key for file in purged if file.spool == name])
        with self._journal.write() as connection:
            for file in purged:
                files.removed(connection, file)
        for file in purged:
            metrics.PURGED_FILES.labels(spool=file.spool).inc()
            metrics.PURGED_BYTES.labels(spool=file.spool).inc(file.size)
        _log.info("purged", extra={"files": len(purged), "bytes": sum(file.size for file in purged)})
