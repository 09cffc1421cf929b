"""Health of the models: one that fails several jobs in a row is given none until a test of it succeeds."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from appliance.domain.states import MODEL
from appliance.journal.clock import boot_seconds, wall_time
from appliance.journal.database import move


@dataclass(frozen=True)
class Health:
    """Whether a model is given series; if not, why, and what the last test since then found wrong.

    `failures` counts the jobs in a row that it failed. `since_at` is a wall-clock time.
    """

    model: str
    in_service: bool
    failures: int
    since_at: str
    why: str | None
    retest: str | None


def register(connection: sqlite3.Connection, models: Mapping[str, str]) -> None:
    """Make `models` (SHA-256 of their files, by id) those whose health is known, and all others unknown.

    What is known of a model ends with its file: another one starts in service.
    """
    known = {
        row["model"]: row for row in connection.execute("SELECT model, model_sha256, state FROM model_health")
    }
    for model in known.keys() - models.keys():
        connection.execute("DELETE FROM model_health WHERE model = ?", (model,))
    for model, sha256 in models.items():
        if model not in known:
            connection.execute(
                "INSERT INTO model_health (model, model_sha256, state, since_at) VALUES (?, ?, ?, ?)",
                (model, sha256, MODEL.initial, wall_time()),
            )
        elif known[model]["model_sha256"] != sha256:
            if known[model]["state"] != MODEL.initial:
                _put_back(connection, model, "another model file")
            connection.execute(
                "UPDATE model_health SET model_sha256 = ?, failures = 0 WHERE model = ?", (sha256, model)
            )


def failed(
    connection: sqlite3.Connection, model: str, why: str, *, failures_in_a_row: int, retest_s: float
) -> bool:
    """Count a job that the model failed; returns whether that took it out of service.

    It is tested again after `retest_s`.
    """
    row = connection.execute(
        "UPDATE model_health SET failures = failures + 1 WHERE model = ? RETURNING failures, state", (model,)
    ).fetchone()
    if row is None or row["state"] != MODEL.initial or row["failures"] < failures_in_a_row:
        return False
    take_out(
        connection, model, f"failed {row['failures']} series in a row, the last: {why}", retest_s=retest_s
    )
    return True


def load_begins(connection: sqlite3.Connection, model: str) -> int:
    """Note that the model is about to be loaded; returns how often in a row that did not end before."""
    row = connection.execute(
        "UPDATE model_health SET loads = loads + 1 WHERE model = ? RETURNING loads", (model,)
    ).fetchone()
    return int(row["loads"]) - 1


def load_ended(connection: sqlite3.Connection, model: str) -> None:
    """The process lived through it, whatever came of it."""
    connection.execute("UPDATE model_health SET loads = 0 WHERE model = ?", (model,))


def answered(connection: sqlite3.Connection, model: str) -> None:
    """The model answered as it should: what it failed before does not count any more."""
    connection.execute("UPDATE model_health SET failures = 0 WHERE model = ? AND failures > 0", (model,))


def take_out(connection: sqlite3.Connection, model: str, why: str, *, retest_s: float) -> None:
    """Give the model no series until a test of it succeeds, the first one after `retest_s`."""
    move(connection, MODEL, model, "take_out", detail=why)
    connection.execute(
        "UPDATE model_health SET since_at = ?, why = ?, retest = NULL, due_s = ? WHERE model = ?",
        (wall_time(), why, boot_seconds() + retest_s, model),
    )


def tested(connection: sqlite3.Connection, model: str, problem: str | None, *, retest_s: float) -> None:
    """Put the model back into service if its test found no problem; else it stays out for `retest_s` more.

    A model that is in service stays there: whether it fails is for its jobs to say.
    """
    if find(connection, model).in_service:
        return
    if problem is None:
        _put_back(connection, model, "a test of it succeeded")
        return
    move(connection, MODEL, model, "fail", detail=problem)
    connection.execute(
        "UPDATE model_health SET retest = ?, due_s = ? WHERE model = ?",
        (problem, boot_seconds() + retest_s, model),
    )


def due(connection: sqlite3.Connection) -> str | None:
    """The model out of service that has waited longest for a test that is due."""
    row = connection.execute(
        "SELECT model FROM model_health WHERE due_s <= ? ORDER BY due_s LIMIT 1", (boot_seconds(),)
    ).fetchone()
    return None if row is None else str(row["model"])


def find(connection: sqlite3.Connection, model: str) -> Health:
    """The health of one model that was registered.

    Raises:
        KeyError: it was not.
    """
    row = connection.execute("SELECT * FROM model_health WHERE model = ?", (model,)).fetchone()
    if row is None:
        raise KeyError(model)
    return _health(row)


def all_models(connection: sqlite3.Connection) -> list[Health]:
    """The health of every model, by id."""
    return [_health(row) for row in connection.execute("SELECT * FROM model_health ORDER BY model")]


def _put_back(connection: sqlite3.Connection, model: str, detail: str) -> None:
    move(connection, MODEL, model, "put_back", detail=detail)
    connection.execute(
        "UPDATE model_health SET failures = 0, loads = 0, since_at = ?, why = NULL, retest = NULL,"
        " due_s = NULL WHERE model = ?",
        (wall_time(), model),
    )


def _health(row: sqlite3.Row) -> Health:
    return Health(
        row["model"],
        row["state"] == MODEL.initial,
        row["failures"],
        row["since_at"],
        row["why"],
        row["retest"],
    )
