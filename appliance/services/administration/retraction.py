"""`appliance results`: the answers of the models, and taking one back.

Runs in the process of the command: only the journal and the spool are written, and the forwarder sends.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TypedDict

from rich.table import Table

from appliance.config.schema import Config
from appliance.domain.errors import GiveUp, TryAgain
from appliance.domain.rejection import Rejection
from appliance.journal import retractions
from appliance.journal.retractions import Answer, Made
from appliance.observe.log import hashed
from appliance.observe.process import ring
from appliance.services.administration.corrections import Corrections, Effect, Taking
from appliance.services.administration.interventions import operator
from appliance.services.administration.report import Row, table
from appliance.services.storage import Storage

_COLUMNS = ["job", "model", "outcome", "retracted", "series", "revision", "report", "created_at"]
_EFFECTS = ["destination", "kind", "series", "has", "may_have", "dropped", "told", "left"]
_PATIENCE_S = 10.0
_LOOK_S = 0.1


class Retraction(TypedDict):
    """What was done. `jobs` gave the answer; those in `unfinished` still make results of the same series.

    `corrections` go out; `destinations` says of each what it has, what was dropped, what it is told, and why
    a person has to see to what is left there.
    """

    jobs: list[int]
    corrections: int
    destinations: list[Row]
    unfinished: list[int]


def list_answers(config: Config, *, identifiers: bool, limit: int) -> list[Row]:
    """The answers of the models, the newest first; without UIDs unless `identifiers`.

    Raises:
        TryAgain: the journal cannot be read, or does not exist yet.
    """
    with _storage(config) as storage, storage.journal.read() as connection:
        return [_row(answer, identifiers) for answer in retractions.answers(connection, limit=limit)]


def answers_table(rows: Sequence[Row]) -> Table:
    """The answers as a table."""
    return table("Answers", _COLUMNS, list(rows))


def effects_table(retraction: Retraction) -> Table:
    """What becomes of an answer that was retracted, by destination, as a table."""
    return table("Retracted", _EFFECTS, retraction["destinations"])


def retract(config: Config, name: str, reason: str, rejection: Rejection, *, identifiers: bool) -> Retraction:
    """Take back the answer that a job id or the SOP Instance UID of a result names.

    Raises:
        GiveUp: there is no such answer, it was taken back before, or a correction does not conform.
        TryAgain: something of it is being sent, or the journal or the spool cannot be used.
    """
    detail = f"{operator()}: {reason}"
    with _storage(config) as storage:
        with storage.journal.read() as connection:
            answer = retractions.find(connection, name)
            if answer is None:
                raise GiveUp("no finished answer of a model has this name")
            if answer.retracted:
                raise GiveUp(f"the answer of job {answer.job_id} was retracted before")
            jobs = retractions.parts(connection, answer)
            unfinished = retractions.unfinished(connection, answer)
        made = _settled(storage, jobs, detail)
        corrections = Corrections(Taking(answer, reason, rejection), config, storage)
        try:
            corrections.take_back(made)
            with storage.journal.write() as connection:
                stands = retractions.retract(connection, jobs, made, corrections.made, detail)
            if not stands:
                raise TryAgain("a result of this answer was sent meanwhile; try again")
        except BaseException:
            corrections.forget()
            raise
    ring(config.run_directory, "forward")
    return Retraction(
        jobs=list(jobs),
        corrections=len(corrections.made),
        destinations=[_effect(effect, identifiers) for effect in corrections.effects],
        unfinished=unfinished,
    )


def _settled(storage: Storage, jobs: Sequence[int], detail: str) -> list[Made]:
    """What was made of an answer, once none of it is being sent; that only ends where nothing more follows.

    A correction must not overtake what it corrects.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        with storage.journal.read() as connection:
            made = retractions.made_of(connection, jobs)
        if not any(standing.state == "sending" for one in made for standing in one.standings):
            return made
        with storage.journal.write() as connection:
            retractions.drop_waiting(connection, retractions.made_of(connection, jobs), detail)
        if time.monotonic() > deadline:
            raise TryAgain("a result of this answer is being sent; what waited is dropped; try again")
        time.sleep(_LOOK_S)


@contextmanager
def _storage(config: Config) -> Iterator[Storage]:
    if not config.journal_path.exists():
        raise TryAgain("there is no journal yet: the appliance was never started")
    storage = Storage(config, "FULL")
    with closing(storage.journal):
        yield storage


def _row(answer: Answer, identifiers: bool) -> Row:
    report = answer.report or ""
    return {
        "job": answer.job_id,
        "model": answer.model,
        "outcome": answer.outcome,
        "retracted": "yes" if answer.retracted else "",
        "series": answer.series_instance_uid if identifiers else hashed(answer.series_instance_uid),
        "revision": answer.revision,
        "report": report if identifiers or not report else hashed(report),
        "created_at": answer.created_at,
    }


def _effect(effect: Effect, identifiers: bool) -> Row:
    uid = effect.series_instance_uid
    return {
        "destination": effect.destination,
        "kind": effect.kind,
        "series": uid if identifiers else hashed(uid),
        "has": effect.has,
        "may_have": effect.may_have,
        "dropped": effect.dropped,
        "told": effect.told,
        "left": effect.left,
    }
