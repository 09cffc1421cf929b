"""Fills the journal behind the acknowledgement, and finds at a start what it missed."""

from __future__ import annotations

import logging
import queue
import threading
import time
from contextlib import suppress

from appliance.config.schema import Config
from appliance.dicom.header import Facts, read_facts
from appliance.dicom.part10 import read_meta
from appliance.dicom.uids import station_device_uid
from appliance.domain.errors import TryAgain
from appliance.domain.types import Instance, Origin
from appliance.journal.database import Journal
from appliance.journal.instances import Recorded, is_recorded, record
from appliance.observe import metrics
from appliance.observe.log import hashed
from appliance.observe.process import ring
from appliance.services.routing import Source, originals_to
from appliance.services.storage import Storage
from appliance.spool.store import Content, Spool

_BATCH = 200
_GATHER_S = 0.05  # a transaction for each image would cost as much as receiving it
_BACKLOG = 20_000
_RETRY_S = 1.0

_log = logging.getLogger(__name__)

_METRIC_WORDS = {
    Recorded.NEW: "stored",
    Recorded.CHANGED_CONTENT: "changed_duplicate",
    Recorded.DUPLICATE: "duplicate",
    Recorded.RECORDED: "duplicate",
    Recorded.OWN_RESULT: "loop",
}


class Indexer:
    """Writes spooled instances into the journal, many in one transaction, and never loses one.

    Bounded: when the journal cannot be written for long, `add` refuses, so that scanners keep their
    images instead of the appliance collecting files that it does not forward.
    """

    def __init__(self, config: Config, journal: Journal, spool: Spool) -> None:
        self._journal = journal
        self._spool = spool
        self._config = config
        self._run_directory = config.run_directory
        self._waiting: queue.Queue[Instance | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="indexer", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """False once the indexer has stopped, or a fault in it has ended it."""
        return self._thread.is_alive()

    @property
    def is_behind(self) -> bool:
        """Whether too much is waiting to be written to take in more."""
        return self._waiting.qsize() >= _BACKLOG

    def add(self, instance: Instance) -> None:
        """Write the instance soon."""
        self._waiting.put(instance)

    def close(self, timeout_s: float) -> None:
        """Write what is waiting and stop. What does not fit into the time is found at the next start."""
        self._waiting.put(None)
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while True:
            first = self._waiting.get()
            if self._waiting.qsize() < _BATCH:
                time.sleep(_GATHER_S)
            batch, last = [first], first is None
            while len(batch) < _BATCH and not last:
                try:
                    batch.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
                last = batch[-1] is None
            instances = [instance for instance in batch if instance is not None]
            if instances:
                self._write(instances)
            if last:
                self._journal.close()
                return

    def _write(self, instances: list[Instance]) -> None:
        destinations = [self._route(instance) for instance in instances]
        while True:
            try:
                with self._journal.write() as connection:
                    recorded = [
                        record(connection, instance, to)
                        for instance, to in zip(instances, destinations, strict=True)
                    ]
                break
            except TryAgain:
                _log.exception("journal_unavailable", extra={"instances": len(instances)})
                time.sleep(_RETRY_S)
        for instance, to, what in zip(instances, destinations, recorded, strict=True):
            if not to and what in (Recorded.NEW, Recorded.CHANGED_CONTENT):
                metrics.UNROUTED.inc()
                if self._config.originals_destinations:  # else it is meant to be so
                    _log.warning("unrouted", extra={"instance": hashed(instance.sop_instance_uid)})
            metrics.INSTANCES_RECEIVED.labels(outcome=_METRIC_WORDS[what]).inc()
            if what is Recorded.CHANGED_CONTENT:
                _log.warning("changed_content", extra={"instance": hashed(instance.sop_instance_uid)})
            if not what.keeps_file:
                self._spool.remove(instance.spool_key)
        for process in ("forward", "plan", "infer"):
            ring(self._run_directory, process)

    def _route(self, instance: Instance) -> tuple[str, ...]:
        origin = instance.origin
        return originals_to(self._config, Source(instance.modality, origin.called_ae_title, instance.facts))


def make_instance(
    facts: Facts,
    transfer_syntax_uid: str,
    spool_key: str,
    origin: Origin,
    content: Content,
    *,
    ours: bool,
) -> Instance:
    """The journal's record of one spooled data set."""
    return Instance(
        sop_instance_uid=facts.sop_instance_uid,
        sop_class_uid=facts.sop_class_uid,
        transfer_syntax_uid=transfer_syntax_uid,
        study_instance_uid=facts.study_instance_uid,
        series_instance_uid=facts.series_instance_uid,
        modality=facts.modality,
        checksum=content.checksum,
        size=content.size,
        spool_key=spool_key,
        origin=origin,
        facts=facts.to_json(),
        ours=ours,
    )


def recover(config: Config, storage: Storage, indexer: Indexer) -> int:
    """Journal every acknowledged file that the journal does not know; returns how many there were.

    Removes what was never finished, and so never acknowledged. A finished file without a row is either
    such an image or a duplicate that was not removed yet: recording it tells.
    """
    for key in storage.quarantine.abandoned_keys():
        if not storage.quarantine.path(key).stat().st_size:  # a name that was made ahead
            storage.quarantine.remove(key)
    recovered = 0
    with storage.journal.read() as connection:
        for key in storage.originals.abandoned_keys():
            if is_recorded(connection, key):
                continue
            # A receiver that lives may remove a duplicate of its own at this very moment.
            with suppress(FileNotFoundError):
                instance = _recover(config, storage.originals, key)
                if instance is None:
                    storage.originals.remove(key)
                else:
                    indexer.add(instance)
                    recovered += 1
    return recovered


def _recover(config: Config, spool: Spool, key: str) -> Instance | None:
    """What is to be journalled of a file, or None if it was never finished."""
    content = spool.finished(key)
    if content is None:
        return None
    meta, facts = read_meta(spool.path(key)), read_facts(spool.path(key))
    origin = Origin(meta.source_ae_title, meta.receiving_ae_title, "")
    ours = facts.instance_creator_uid == station_device_uid(config.station.device_serial)
    return make_instance(facts, meta.transfer_syntax_uid, key, origin, content, ours=ours)
