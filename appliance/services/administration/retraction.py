"""`appliance results`: the answers of the models, and taking one back.

Runs in the process of the command: only the journal and the spool are written, and the forwarder sends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

from rich.table import Table

from appliance.config.schema import Config
from appliance.dicom.uids import retraction_uid
from appliance.dicom.volume import load_headers
from appliance.domain.errors import GiveUp, TryAgain
from appliance.domain.types import Artifact
from appliance.journal import retractions
from appliance.journal.retractions import Answer, Correction, Made
from appliance.observe.log import hashed
from appliance.observe.process import ring
from appliance.results import Numbering, Produced
from appliance.results.conformance import sources_of
from appliance.results.retraction import (
    retracting_card,
    retracting_document,
    retracting_message,
    retracting_report,
)
from appliance.services.administration.interventions import operator
from appliance.services.administration.report import Row, table
from appliance.services.inference.outgoing import Withheld, examine, numbering, sentence, spooled
from appliance.services.storage import Storage
from appliance.spool.store import PREAMBLE_BYTES

_COLUMNS = ["job", "model", "outcome", "retracted", "series", "revision", "report", "created_at"]
_OBJECTS: dict[str, Callable[[Path, datetime, str, Numbering, str], Produced]] = {
    "sr": retracting_report,
    "sc": retracting_card,
}
_MESSAGES: dict[str, Callable[[bytes, datetime, str, str], bytes]] = {
    "hl7": retracting_message,
    "webhook": retracting_document,
}


@dataclass(frozen=True)
class Retracted:
    """What was done: how many corrections go out, and a sentence for all that cannot be taken back."""

    job_id: int
    corrections: int
    standing: tuple[str, ...]


@dataclass
class _Plan:
    corrections: list[Correction] = field(default_factory=list)
    standing: list[str] = field(default_factory=list)


def list_answers(config: Config, *, identifiers: bool, limit: int) -> list[Row]:
    """The answers of triage models, the newest first; without UIDs unless `identifiers`.

    Raises:
        TryAgain: the journal cannot be read, or does not exist yet.
    """
    with _storage(config) as storage, storage.journal.read() as connection:
        return [_row(answer, identifiers) for answer in retractions.answers(connection, limit=limit)]


def answers_table(rows: Sequence[Row]) -> Table:
    """The answers as a table."""
    return table("Answers", _COLUMNS, list(rows))


def retract(config: Config, name: str, reason: str) -> Retracted:
    """Take back the answer that a job id or the SOP Instance UID of a result names.

    Raises:
        GiveUp: there is no such answer, it was taken back before, or what told it is not kept any more.
        TryAgain: something of it is being sent just now, or the journal or the spool cannot be used.
    """
    with _storage(config) as storage:
        with storage.journal.read() as connection:
            answer = retractions.find(connection, name)
            made = [] if answer is None else retractions.made_of(connection, answer.job_id)
        if answer is None:
            raise GiveUp("no finished answer of a triage model has this name")
        if answer.retracted:
            raise GiveUp(f"the answer of job {answer.job_id} was retracted before")
        if any(standing.state == "sending" for one in made for standing in one.standings):
            raise TryAgain("a result of this answer is being sent just now; try again in a moment")
        plan = _Plan()
        try:
            for one in made:
                _plan(plan, one, answer, config, storage, reason)
            with storage.journal.write() as connection:
                detail = f"{operator()}: {reason}"
                stands = retractions.retract(connection, answer.job_id, made, plan.corrections, detail)
            if not stands:
                raise TryAgain("a result of this answer was sent meanwhile; try again")
        except BaseException:
            for correction in plan.corrections:
                storage.results.remove(correction.artifact.spool_key)
            raise
    ring(config.run_directory, "forward")
    return Retracted(answer.job_id, len(plan.corrections), tuple(plan.standing))


def _plan(plan: _Plan, made: Made, answer: Answer, config: Config, storage: Storage, reason: str) -> None:
    """Correct one thing wherever it may be, or say that it stands."""
    reached = tuple(standing.destination for standing in made.standings if standing.may_be_there)
    if not reached:
        return
    if made.kind not in _OBJECTS and made.kind not in _MESSAGES:
        names = ", ".join(reached)
        plan.standing.append(f"{made.kind} stays at {names}: it can only be withdrawn there")
        return
    if not made.kept:
        raise GiveUp(f"the {made.kind} of this answer is not kept any more: see storage.keep_results_h")
    station = config.station
    moment = datetime.now(timezone.utc).astimezone(ZoneInfo(station.timezone) if station.timezone else None)
    try:
        if made.kind in _OBJECTS:
            artifact = _object(made, answer, moment, reason, station.ae_title, storage)
        else:
            artifact = _message(made, moment, reason, storage)
    except OSError as error:
        raise TryAgain(f"the {made.kind} of this answer cannot be read: {type(error).__name__}") from error
    plan.corrections.append(Correction(artifact, reached))


def _object(
    made: Made, answer: Answer, moment: datetime, reason: str, ae_title: str, storage: Storage
) -> Artifact:
    path = storage.results.path(made.spool_key)
    produced = _OBJECTS[made.kind](path, moment, reason, numbering(storage.journal), ae_title)
    sources = sources_of(load_headers([path]))
    examined = examine(produced, sources, storage.quarantine, model=answer.model, job_id=answer.job_id)
    if isinstance(examined, Withheld):
        raise GiveUp(f"the correction does not conform, and nothing is retracted: {sentence([examined])}")
    return spooled(produced, examined, storage.results)


def _message(made: Made, moment: datetime, reason: str, storage: Storage) -> Artifact:
    uid = retraction_uid(made.sop_instance_uid)
    corrected = storage.results.path(made.spool_key).read_bytes()[PREAMBLE_BYTES:]
    content = _MESSAGES[made.kind](corrected, moment, reason, uid)
    return Artifact(
        kind=made.kind,
        sop_instance_uid=uid,
        sop_class_uid=made.sop_class_uid,
        transfer_syntax_uid="",
        study_instance_uid=made.study_instance_uid,
        series_instance_uid=made.series_instance_uid,
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        spool_key=storage.results.put((content,)),
        urgent=True,
    )


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
