"""What takes back the things that were made of an answer, for each destination that may have one of them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

from pydicom.uid import ExplicitVRLittleEndian

from appliance.config.schema import Config
from appliance.dicom.uids import retraction_uid
from appliance.dicom.unusable import Unusable
from appliance.dicom.volume import load_headers
from appliance.domain.errors import GiveUp, TryAgain
from appliance.domain.rejection import Rejection
from appliance.domain.types import Artifact
from appliance.journal.retractions import Answer, Correction, Made
from appliance.results import Numbering, Produced
from appliance.results.conformance import sources_of
from appliance.results.rejection_note import Rejected, Rejecting, rejection_note
from appliance.results.retraction import (
    retracting_card,
    retracting_document,
    retracting_message,
    retracting_report,
)
from appliance.results.ups_workitem import UPS_PUSH, request_to_cancel
from appliance.services.inference.origin import station_of
from appliance.services.inference.outgoing import Withheld, examine, numbering, sentence, spooled
from appliance.services.storage import Storage
from appliance.spool.store import PREAMBLE_BYTES

_OBJECTS: dict[str, Callable[[Path, datetime, str, Numbering, str], Produced]] = {
    "sr": retracting_report,
    "sc": retracting_card,
}
_WORKITEM, _HL7 = "ups", "hl7"
_TOLD = {
    "sr": "superseding report",
    "sc": "card that withdraws it",
    "hl7": "correction",
    "webhook": "document that retracts it",
    "ups": "request to cancel",
}
_NOTE = "rejection note"
_UNKNOWN = "the configuration does not name this destination any more"
_NOT_KEPT = "what was sent is not kept any more (storage.keep_results_h), so nothing can be made of it"
_NOTHING_SAYS_SO = "no rejection notes are sent there (rejection_notes), and nothing else takes it back"

_Place = tuple[str, str, str]
"""Destination, kind and Series Instance UID."""


@dataclass
class Effect:
    """What becomes of what one destination has, or was about to get, of one series of an answer.

    `may_have` counts what was sent without our learning what became of it. `left` says why a person has to
    see to what is there; empty where the destination is `told`.
    """

    destination: str
    kind: str
    series_instance_uid: str
    has: int = 0
    may_have: int = 0
    dropped: int = 0
    told: list[str] = field(default_factory=list)
    left: str = ""


@dataclass(frozen=True)
class Taking:
    """An answer that is taken back, and how."""

    answer: Answer
    reason: str
    rejection: Rejection


class Corrections:
    """Makes and spools what takes things back; `made` and `effects` are what came of it so far."""

    def __init__(self, taking: Taking, config: Config, storage: Storage) -> None:
        self.made: list[Correction] = []
        self._taking = taking
        self._config = config
        self._storage = storage
        self._effects: dict[_Place, Effect] = {}
        self._lost: set[_Place] = set()
        zone = config.station.timezone
        self._moment = datetime.now(timezone.utc).astimezone(ZoneInfo(zone) if zone else None)

    @property
    def effects(self) -> tuple[Effect, ...]:
        """By destination, in the order in which the series were made."""
        return tuple(sorted(self._effects.values(), key=lambda effect: effect.destination))

    def forget(self) -> None:
        """Remove what was spooled: the answer stands."""
        for correction in self.made:
            self._storage.results.remove(correction.artifact.spool_key)

    def take_back(self, things: Sequence[Made]) -> None:
        """Correct each thing wherever it may be, or say why it is left to a person.

        Raises:
            GiveUp: a correction cannot be made, or does not conform.
            TryAgain: the spool or the journal cannot be used.
        """
        for thing in things:
            self._count(thing)
        for thing in things:
            self._correct(thing, self._reached(thing))
        self._reject(things)
        for key, effect in self._effects.items():
            if effect.has + effect.may_have and not effect.told:
                effect.left = self._why_left(key)

    def _why_left(self, key: _Place) -> str:
        if key[0] not in self._config.destinations:
            return _UNKNOWN
        return _NOT_KEPT if key in self._lost else _NOTHING_SAYS_SO

    def _count(self, thing: Made) -> None:
        for standing in thing.standings:
            key = _place(standing.destination, thing)
            effect = self._effects.setdefault(key, Effect(*key))
            effect.has += standing.is_there
            effect.may_have += standing.may_be_there and not standing.is_there
            effect.dropped += standing.state in ("pending", "rejected", "dropped")

    def _reached(self, thing: Made) -> tuple[str, ...]:
        """The destinations that may have it and can be told."""
        return tuple(
            standing.destination
            for standing in thing.standings
            if standing.may_be_there and standing.destination in self._config.destinations
        )

    def _correct(self, thing: Made, reached: tuple[str, ...]) -> None:
        if not reached or thing.kind not in _TOLD:
            return
        if thing.kind != _WORKITEM and not thing.kept:
            self._lost |= {_place(destination, thing) for destination in reached}
            return
        try:
            artifact = self._artifact(thing)
        except OSError as error:
            raise TryAgain(
                f"the {thing.kind} of this answer cannot be read: {type(error).__name__}"
            ) from error
        self._tell(artifact, reached, _TOLD[thing.kind], [thing])

    def _tell(self, artifact: Artifact, to: tuple[str, ...], words: str, things: Sequence[Made]) -> None:
        self.made.append(Correction(artifact, to))
        for key in dict.fromkeys(_place(destination, thing) for destination in to for thing in things):
            self._effects[key].told.append(words)

    def _artifact(self, thing: Made) -> Artifact:
        if thing.kind in _OBJECTS:
            path = self._storage.results.path(thing.spool_key)
            ae_title = self._config.station.ae_title
            count = numbering(self._storage.journal)
            produced = _OBJECTS[thing.kind](path, self._moment, self._taking.reason, count, ae_title)
            return self._conforming(produced, path)
        uid = retraction_uid(thing.sop_instance_uid)
        if thing.kind == _WORKITEM:
            request = request_to_cancel(
                thing.sop_instance_uid, self._taking.reason, self._config.station.ae_title
            )
            content = request[PREAMBLE_BYTES:]
            return self._message("ups_cancel", uid, content, thing, UPS_PUSH, str(ExplicitVRLittleEndian))
        was = self._storage.results.path(thing.spool_key).read_bytes()[PREAMBLE_BYTES:]
        moment, reason = self._moment, self._taking.reason
        if thing.kind == _HL7:
            wrong = self._taking.rejection is Rejection.WORKLIST_ENTRY
            content = retracting_message(was, moment, reason, uid, wrong=wrong)
        else:
            content = retracting_document(was, moment, reason, uid)
        return self._message(thing.kind, uid, content, thing)

    def _message(
        self, kind: str, uid: str, content: bytes, thing: Made, sop_class: str = "", syntax: str = ""
    ) -> Artifact:
        return Artifact(
            kind=kind,
            sop_instance_uid=uid,
            sop_class_uid=sop_class,
            transfer_syntax_uid=syntax,
            study_instance_uid=thing.study_instance_uid,
            series_instance_uid=thing.series_instance_uid,
            sha256=hashlib.sha256(content).hexdigest(),
            size=len(content),
            spool_key=self._storage.results.put((content,)),
            urgent=True,
        )

    def _conforming(self, produced: Produced, path: Path) -> Artifact:
        answer = self._taking.answer
        sources = sources_of(load_headers([path]))
        examined = examine(
            produced, sources, self._storage.quarantine, model=answer.model, job_id=answer.job_id
        )
        if isinstance(examined, Withheld):
            raise GiveUp(f"the correction does not conform, and nothing is retracted: {sentence([examined])}")
        return spooled(produced, examined, self._storage.results)

    def _reject(self, things: Sequence[Made]) -> None:
        """One note for all destinations that want one and may have the same objects."""
        wanting = [name for name, one in self._config.dicom_destinations.items() if one.rejection_notes]
        there: dict[tuple[str, ...], list[str]] = defaultdict(list)
        by_uid = {thing.sop_instance_uid: thing for thing in things}
        for name in wanting:
            uids = tuple(uid for uid, thing in by_uid.items() if name in self._reached(thing))
            if uids:
                there[uids].append(name)
        for uids, names in there.items():
            named = [by_uid[uid] for uid in uids]
            kept = next((one for one in named if one.kept), None)
            if kept is None:
                self._lost |= {_place(name, thing) for name in names for thing in named}
                continue
            self._tell(self._note(named, kept), tuple(names), _NOTE, named)

    def _note(self, things: Sequence[Made], kept: Made) -> Artifact:
        path = self._storage.results.path(kept.spool_key)
        rejecting = Rejecting(
            station_of(self._config), self._moment, self._taking.rejection, self._taking.reason
        )
        rejected = [
            Rejected(one.sop_class_uid, one.sop_instance_uid, one.series_instance_uid) for one in things
        ]
        try:
            (header,) = load_headers([path])
        except (OSError, Unusable) as error:
            raise _unreadable(kept, error) from error
        produced = rejection_note(header, rejected, rejecting, numbering(self._storage.journal))
        return self._conforming(produced, path)


def _place(destination: str, thing: Made) -> _Place:
    return destination, thing.kind, thing.series_instance_uid


def _unreadable(thing: Made, error: Exception) -> TryAgain:
    return TryAgain(f"the {thing.kind} of this answer cannot be read: {type(error).__name__}")
