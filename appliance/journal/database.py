"""The journal's database: opening it, transactions, and `move()`, the only writer of a state."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Literal

from appliance.domain.errors import ApplianceError, GiveUp, TryAgain
from appliance.domain.states import Lifecycle, apply
from appliance.journal.clock import boot_id, boot_seconds, wall_time

_BUSY_TIMEOUT_S = 15.0

# Which table and key column hold the state of each life cycle.
_TABLES = {
    "series": ("series", "series_instance_uid"),
    "job": ("jobs", "id"),
    "delivery": ("deliveries", "id"),
    "commitment": ("commitments", "id"),
    "transaction": ("commitment_transactions", "id"),
    "file": ("files", "id"),
    "model": ("model_health", "model"),
}


class UnknownAggregate(ApplianceError):
    """A state was to be moved that the journal does not hold."""


class Journal:
    """One process's access to the journal; each thread gets a connection of its own.

    `durability` is SQLite's `synchronous`: NORMAL never corrupts but may forget the last transactions
    in a power cut, which the spool makes good for received instances and a resend under the same UID
    for deliveries. FULL forgets nothing: for results, whose first bytes are the result for good.

    Raises:
        TryAgain: the database is locked, or its folder full or away.
        GiveUp: the file is not a database, or damaged.
    """

    def __init__(self, path: Path, durability: Literal["NORMAL", "FULL"] = "NORMAL") -> None:
        self.path = path
        self._durability = durability
        self._local = threading.local()
        # SQLite lets those who wait for its lock sleep and try again; threads of one process can queue.
        self._writing = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = self._connection()
        try:
            connection.executescript(files("appliance.journal").joinpath("schema.sql").read_text("utf-8"))
        except sqlite3.OperationalError as error:
            raise TryAgain(f"the journal {path} cannot be opened: {error}") from error
        self._notice_reboot()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._open()
        return connection

    def _open(self) -> sqlite3.Connection:
        connection = None
        try:
            connection = sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {self._durability}")
            connection.execute("PRAGMA foreign_keys = ON")
        except sqlite3.DatabaseError as error:
            if connection is not None:
                connection.close()
            if isinstance(error, sqlite3.OperationalError):
                raise TryAgain(f"the journal {self.path} cannot be opened: {error}") from error
            raise GiveUp(
                f"the journal {self.path} is damaged ({error}): move it away, and the next start makes"
                " a new one from the spool"
            ) from error
        return connection

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One write transaction: all of the block or nothing of it.

        Raises:
            TryAgain: the database is locked, full or unreadable; nothing was written.
        """
        if not self._writing.acquire(timeout=_BUSY_TIMEOUT_S):
            raise TryAgain("the journal cannot be written: another thread is at it")
        try:
            with self._transaction() as connection:
                yield connection
        finally:
            self._writing.release()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection()
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise TryAgain(f"the journal cannot be written: {error}") from error
        try:
            yield connection
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise TryAgain(f"the journal cannot be written: {error}") from error
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """One consistent view of the journal.

        Raises:
            TryAgain: the database is locked or unreadable.
        """
        connection = self._connection()
        try:
            connection.execute("BEGIN")
            yield connection
        except sqlite3.OperationalError as error:
            raise TryAgain(f"the journal cannot be read: {error}") from error
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close this thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            del self._local.connection

    def _notice_reboot(self) -> None:
        """Stored boot-clock values mean nothing after a reboot: all is due, and all silence starts now."""
        current = boot_id()
        with self.write() as connection:
            row = connection.execute("SELECT boot_id FROM boot").fetchone()
            if row is not None and row["boot_id"] == current:
                return
            now = boot_seconds()
            connection.execute("INSERT OR REPLACE INTO boot VALUES (1, ?)", (current,))
            connection.execute("UPDATE series SET first_s = ?, last_s = ? WHERE state = 'open'", (now, now))
            connection.execute(
                "UPDATE jobs SET due_s = 0, since_s = ? WHERE state IN ('queued', 'running')", (now,)
            )
            connection.execute(
                "UPDATE commitments SET due_s = 0, since_s = ? WHERE due_s IS NOT NULL", (now,)
            )
            connection.execute("UPDATE uncommitted SET due_s = 0 WHERE due_s IS NOT NULL")
            connection.execute("UPDATE commitment_transactions SET since_s = ? WHERE state = 'asked'", (now,))
            connection.execute("UPDATE model_health SET due_s = 0 WHERE due_s IS NOT NULL")
            # What was kept for its time is kept for the whole of it again: never shorter than promised.
            connection.execute(
                "UPDATE files SET kept_s = ?, look_s = 0, settled_s = NULL WHERE state = 'kept'", (now,)
            )
            connection.execute("UPDATE deliveries SET due_s = 0 WHERE state = 'pending' AND due_s > 0")
            connection.execute(
                "UPDATE deliveries SET created_s = ? WHERE state IN ('pending', 'sending')", (now,)
            )


def move(
    connection: sqlite3.Connection,
    lifecycle: Lifecycle,
    key: str | int,
    event: str,
    *,
    detail: str | None = None,
) -> str:
    """Apply `event` to one aggregate, write its history row, and return the new state.

    To be called inside `Journal.write()`, where facts that belong to the event are updated as well.

    Raises:
        IllegalEvent: the life cycle does not allow the event now; nothing was changed.
        UnknownAggregate: there is no such row.
    """
    table, key_column = _TABLES[lifecycle.name]
    row = connection.execute(f"SELECT state FROM {table} WHERE {key_column} = ?", (key,)).fetchone()
    if row is None:
        raise UnknownAggregate(f"{lifecycle.name} {key} is not in the journal")
    source: str = row["state"]
    target = apply(lifecycle, source, event)
    connection.execute(f"UPDATE {table} SET state = ? WHERE {key_column} = ?", (target, key))
    connection.execute(
        "INSERT INTO history (aggregate, aggregate_id, event, source, target, detail, at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (lifecycle.name, str(key), event, source, target, detail, wall_time()),
    )
    return target
