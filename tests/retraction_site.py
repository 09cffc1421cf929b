"""An answer with result objects and a message for each kind of destination, and the commands about it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydicom import Dataset
from typer.testing import CliRunner

from appliance.__main__ import app
from appliance.config.load import load
from appliance.dicom.outcome import NotAnalysed, Subject
from appliance.dicom.volume import Volume
from appliance.domain.types import Artifact, Delivery, Postponed, Refused, Stored
from appliance.journal import deliveries
from appliance.journal.database import Journal
from appliance.journal.messages import Message
from appliance.results import UNANALYSED_WRITERS, Order, Produced, write_unanalysed
from appliance.results.messages import message_writer
from appliance.services.storage import Storage
from appliance.spool.store import PREAMBLE_BYTES
from tests.dicom_samples import CtSeries
from tests.journal_samples import claimed_job, finish_job, open_journal, planned_job
from tests.message_samples import NOTIFICATION
from tests.result_samples import (
    BRAIN,
    HAEMORRHAGE,
    IDENTITY,
    as_wanted,
    enhanced,
    findings,
    produce,
    sample_volume,
)

MODEL = "head-ct-triage"
WHY = "wrong patient | model fault"
MESSENGERS = ("ris", "pager", "worklist")
DESTINATIONS = ("pacs", "old", *MESSENGERS)
_TAKES = {"pacs": ("enhanced", "sr", "sc", "seg", "ko"), "old": ("sc",)}


class Site:
    """An answer of one model, not sent yet; a positive one with a message for each kind of destination.

    `settings` are those of destinations, by name, beside the usual ones.
    """

    def __init__(
        self,
        folder: Path,
        outcome: str = "positive",
        settings: Mapping[str, Mapping[str, object]] = MappingProxyType({}),
    ) -> None:
        (folder / "secret").write_bytes(b"0123456789abcdef")
        self.path = folder / "site.yaml"
        self._settings = {name: dict(values) for name, values in settings.items()}
        self.configure()
        self.config.storage.path.mkdir()
        self.journal: Journal = open_journal(self.config.storage.path)
        self.volume = sample_volume(folder / "series", CtSeries(slices=3, rows=16, columns=16))
        planned_job(self.journal, uid=NOTIFICATION.series_instance_uid, model=MODEL)
        self.answer(outcome, list(_made(outcome, self.volume)))

    def configure(self, *without: str) -> None:
        """Write the configuration, without some of its destinations."""
        peer = {"host": "127.0.0.1", "port": 104}
        destinations: dict[str, dict[str, object]] = {
            "pacs": {"ae_title": "PACS", **peer},
            "old": {"ae_title": "OLD", "takes": ["sc"], **peer},
            "ris": {"kind": "hl7", **peer},
            "pager": {"kind": "webhook", "url": "http://pager/", "secret": "secret"},
            "worklist": {"kind": "ups", "ae_title": "RIS", "retrieve_ae_title": "PACS", **peer},
        }
        for name, values in self._settings.items():
            destinations[name] |= values
        for name in without:
            del destinations[name]
        self.path.write_text(
            yaml.safe_dump(
                {
                    "station": {"ae_title": "EDGE"},
                    "storage": {"path": "./var", "durability": "os"},
                    "destinations": destinations,
                }
            )
        )
        self.config = load(self.path)

    def answer(self, outcome: str, produced: Sequence[Produced]) -> None:
        """End the job that is planned with this outcome and these result objects."""
        self.job = claimed_job(self.journal)
        storage = Storage(self.config)
        with closing(storage.journal):
            artifacts = [_spooled(one, storage) for one in produced]
            told = (
                [self._message(storage, name) for name in DESTINATIONS[2:]] if outcome == "positive" else []
            )
        with self.journal.write() as connection:
            finish_job(connection, self.job, artifacts, _TAKES, outcome=outcome, told=told)
        self.made, self.told = artifacts, told

    @property
    def report(self) -> str:
        """SOP Instance UID of the report."""
        return next(one.sop_instance_uid for one in self.made if one.kind == "sr")

    def _message(self, storage: Storage, name: str) -> Message:
        written = message_writer(self.config, name)(NOTIFICATION)
        key = storage.results.put((written.content,))
        artifact = Artifact(
            written.kind, written.uid, written.sop_class_uid, written.transfer_syntax_uid,
            NOTIFICATION.study_instance_uid, NOTIFICATION.series_instance_uid, "sha", len(written.content),
            key, urgent=True,
        )  # fmt: skip
        return Message(artifact, name)

    def send(self, destination: str, result: Stored | Postponed | Refused | None = None) -> None:
        """Send all that waits there."""
        with self.journal.write() as connection:
            while claimed := deliveries.claim(connection, destination, limit=1):
                deliveries.settle(connection, claimed[0], result or Stored(0), delay_s=1000)

    def run(self, *arguments: str) -> Any:
        """An `appliance results` command, as an operator types it."""
        return CliRunner().invoke(app, ["results", arguments[0], "--config", str(self.path), *arguments[1:]])

    def retract(self, *options: str) -> dict[str, Any]:
        """Retract the answer; what the command reports."""
        done = self.run("retract", str(self.job.id), "--reason", WHY, "--json", *options)
        assert done.exit_code == 0, done.output
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def waiting(self, destination: str) -> list[Delivery]:
        """What waits there, in the order in which it is sent."""
        with self.journal.write() as connection:
            found: list[Delivery] = []
            while claimed := deliveries.claim(connection, destination, limit=1):
                found += claimed
                deliveries.settle(connection, claimed[0], Stored(0), delay_s=0)
            return found

    def file(self, delivery: Delivery) -> Path:
        """The spooled file of a delivery."""
        storage = Storage(self.config)
        with closing(storage.journal):
            return storage.results.path(delivery.spool_key)

    def states(self, destination: str) -> list[str]:
        """The states of all deliveries of results there."""
        with self.journal.read() as connection:
            return [
                row["state"]
                for row in connection.execute(
                    "SELECT state FROM deliveries WHERE destination = ? AND spool = 'results' ORDER BY id",
                    (destination,),
                )
            ]


def _made(outcome: str, volume: Volume) -> Iterator[Produced]:
    if outcome == "enhanced":
        yield from produce(enhanced(volume.voxels + 1), volume)
    elif outcome == "not_analysed":
        order = Order(UNANALYSED_WRITERS, (), as_wanted)
        reason, subject = NotAnalysed("cut_off", "cut off"), Subject(HAEMORRHAGE, BRAIN)
        yield from write_unanalysed(reason, subject, volume.sources, IDENTITY, order)
    else:
        yield from produce(findings(volume, positive=outcome == "positive"), volume)


def _spooled(made: Produced, storage: Storage) -> Artifact:
    content = made.encode()
    return Artifact(
        made.kind, made.sop_instance_uid, made.sop_class_uid, made.transfer_syntax_uid,
        made.study_instance_uid, made.series_instance_uid, hashlib.sha256(content).hexdigest(), len(content),
        storage.results.put((content[PREAMBLE_BYTES:],)), urgent=False,
    )  # fmt: skip


def values(report: Dataset) -> list[str]:
    """Code values, numbers and texts of a content tree."""
    found = []

    def walk(item: Dataset) -> None:
        for child in item.get("ContentSequence", ()):
            match child.ValueType:
                case "CODE":
                    found.append(child.ConceptCodeSequence[0].CodeMeaning)
                case "NUM":
                    found.append(f"number {child.MeasuredValueSequence[0].NumericValue}")
                case "TEXT":
                    found.append(child.TextValue)
                case "UIDREF":
                    found.append(child.UID)
            walk(child)

    walk(report)
    return found
