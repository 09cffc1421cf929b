"""Receives images: spool, acknowledge, then journal.

An image is acknowledged once its file is on stable storage. The journal is filled behind by one thread;
whatever it misses because the process dies is found again by comparing the spool with the journal at
the next start.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import queue
import threading
import time
from dataclasses import replace

from appliance.config.schema import Config
from appliance.dicom.header import CANNOT_UNDERSTAND, Facts, read_facts
from appliance.dicom.part10 import file_header, read_file
from appliance.dicom.uids import station_device_uid
from appliance.domain.errors import ApplianceError, GiveUp, TryAgain
from appliance.domain.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from appliance.domain.types import Instance, Origin
from appliance.journal.database import Journal
from appliance.journal.instances import Recorded, record, spool_keys
from appliance.network.acceptor import (
    CALLED_AE_TITLE_NOT_RECOGNIZED,
    CALLING_AE_TITLE_NOT_RECOGNIZED,
    TEMPORARY_CONGESTION,
    UNKNOWN_NETWORK,
    Acceptor,
    Limits,
    Listener,
    Received,
    Rejection,
    Reply,
    tls_context,
)
from appliance.observe import metrics
from appliance.observe.log import hashed
from appliance.observe.process import Process, ring
from appliance.services.storage import Storage
from appliance.spool.store import Spool

SUCCESS = Reply(0x0000)
_OUT_OF_RESOURCES = 0xA700
_MISMATCH = 0xA900  # data set does not match SOP class (PS3.4 table B.2-1)
_SOP_CLASS_UID, _SOP_INSTANCE_UID = 0x00080016, 0x00080018
_BATCH = 200
_BACKLOG = 20_000
_RETRY_S = 1.0
_DRAIN_S = 30.0

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
        self._destinations = config.originals_destinations
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
        while True:
            try:
                with self._journal.write() as connection:
                    recorded = [record(connection, instance, self._destinations) for instance in instances]
                break
            except TryAgain:
                _log.exception("journal_unavailable", extra={"instances": len(instances)})
                time.sleep(_RETRY_S)
        for instance, what in zip(instances, recorded, strict=True):
            metrics.INSTANCES_RECEIVED.labels(outcome=_METRIC_WORDS[what]).inc()
            if what is Recorded.CHANGED_CONTENT:
                _log.warning("changed_content", extra={"instance": hashed(instance.sop_instance_uid)})
            if not what.keeps_file:
                self._spool.remove(instance.spool_key)
        ring(self._run_directory, "forward")
        ring(self._run_directory, "plan")


class Receiver:
    """Decides about associations and data sets on behalf of the acceptor."""

    def __init__(self, config: Config, storage: Storage, indexer: Indexer) -> None:
        self._config = config
        self._spool = storage.originals
        self._quarantine = Spool(config.storage.path / "spool" / "quarantine")
        self._indexer = indexer
        self._minimum_free = config.storage.minimum_free_mb * 2**20
        self._device_uid = station_device_uid(config.station.device_serial)

    def admit(self, origin: Origin) -> Rejection | None:
        """Whether a peer may open an association now, and the refusal if not."""
        if origin.called_ae_title != self._config.station.ae_title:
            return CALLED_AE_TITLE_NOT_RECOGNIZED
        address = ipaddress.ip_address(origin.address)
        rules = [
            rule for rule in self._config.listener.accept if rule.ae_title in ("*", origin.calling_ae_title)
        ]
        if not rules:
            return CALLING_AE_TITLE_NOT_RECOGNIZED
        if not any(address in network for rule in rules for network in rule.networks):
            return UNKNOWN_NETWORK
        if not self._has_room():
            return TEMPORARY_CONGESTION
        return None

    def store(self, received: Received) -> Reply:
        """Spool one data set; success only once it is certain to be found after a restart."""
        with metrics.RECEIVE_SECONDS.time():
            metrics.RECEIVED_BYTES.inc(len(received.data_set))
            reply = self._store(received)
        if reply.status == _OUT_OF_RESOURCES:
            metrics.INSTANCES_RECEIVED.labels(outcome="failed").inc()
        return reply

    def _store(self, received: Received) -> Reply:
        if not self._has_room():
            return Reply(_OUT_OF_RESOURCES, "no storage space")
        try:
            facts = read_facts(received.data_set, received.transfer_syntax_uid)
        except GiveUp as error:
            return self._set_aside(received, Reply(CANNOT_UNDERSTAND, str(error)))
        if facts.sop_class_uid != received.sop_class_uid:
            reply = Reply(_MISMATCH, "SOP Class UID differs from the request", _SOP_CLASS_UID)
            return self._set_aside(received, reply)
        if facts.sop_instance_uid != received.sop_instance_uid:
            reply = Reply(_MISMATCH, "SOP Instance UID differs from the request", _SOP_INSTANCE_UID)
            return self._set_aside(received, reply)
        try:
            key = self._spool.put((_file_header(received), received.data_set))
        except TryAgain:
            _log.exception("spool_unavailable")
            return Reply(_OUT_OF_RESOURCES, "storage failed")
        self._indexer.add(
            make_instance(
                facts,
                received.data_set,
                received.transfer_syntax_uid,
                key,
                received.origin,
                ours=facts.instance_creator_uid == self._device_uid,
            )
        )
        return SUCCESS

    def _set_aside(self, received: Received, reply: Reply) -> Reply:
        """Keep the bytes of what the peer is told we cannot take."""
        try:
            key = self._quarantine.put((_file_header(received), received.data_set))
        except TryAgain:
            _log.exception("quarantine_unavailable")
            return Reply(_OUT_OF_RESOURCES, "storage failed")
        _log.warning("quarantined", extra={"key": key, "status": f"0x{reply.status:04X}"})
        metrics.INSTANCES_RECEIVED.labels(outcome="quarantined").inc()
        return reply

    def _has_room(self) -> bool:
        return self._spool.free_bytes() >= self._minimum_free and not self._indexer.is_behind


def make_instance(
    facts: Facts, data_set: bytes, transfer_syntax_uid: str, spool_key: str, origin: Origin, *, ours: bool
) -> Instance:
    """The journal's record of one spooled data set."""
    return Instance(
        sop_instance_uid=facts.sop_instance_uid,
        sop_class_uid=facts.sop_class_uid,
        transfer_syntax_uid=transfer_syntax_uid,
        study_instance_uid=facts.study_instance_uid,
        series_instance_uid=facts.series_instance_uid,
        modality=facts.modality,
        sha256=hashlib.sha256(data_set).hexdigest(),
        size=len(data_set),
        spool_key=spool_key,
        origin=origin,
        facts=facts.to_json(),
        ours=ours,
    )


def _file_header(received: Received) -> bytes:
    return file_header(
        sop_class_uid=received.sop_class_uid,
        sop_instance_uid=received.sop_instance_uid,
        transfer_syntax_uid=received.transfer_syntax_uid,
        source_ae_title=received.origin.calling_ae_title,
        implementation_class_uid=IMPLEMENTATION_CLASS_UID,
        implementation_version_name=IMPLEMENTATION_VERSION_NAME,
    )


def recover(config: Config, storage: Storage, indexer: Indexer) -> int:
    """Journal every acknowledged file that the journal does not know; returns how many there were.

    Also removes what was never finished, and so never acknowledged. A file without a row is either
    such an image, or a duplicate that was not removed yet: recording it tells.
    """
    storage.originals.clear_unfinished()
    with storage.journal.read() as connection:
        known = spool_keys(connection)
    device_uid = station_device_uid(config.station.device_serial)
    unknown = [key for key in storage.originals.stored_keys() if key not in known]
    for key in unknown:
        file = read_file(storage.originals.path(key))
        facts = read_facts(file.data_set, file.transfer_syntax_uid)
        origin = Origin(file.source_ae_title, config.station.ae_title, "")
        ours = facts.instance_creator_uid == device_uid
        indexer.add(make_instance(facts, file.data_set, file.transfer_syntax_uid, key, origin, ours=ours))
    return len(unknown)


def serve(config: Config, process: Process) -> None:
    """Receive until the process is told to stop; then let open associations finish for a while.

    Raises:
        Misconfigured: a port cannot be bound or a certificate cannot be used.
        TryAgain: the journal or the spool cannot be opened.
        ApplianceError: the indexer ended by itself, so that the process has to be started anew.
    """
    storage = Storage(config)
    indexer = Indexer(config, storage.journal, storage.originals)
    indexer.start()
    recovered = recover(config, storage, indexer)
    if recovered:
        _log.warning("recovered", extra={"instances": recovered})
    receiver = Receiver(config, storage, indexer)
    settings = config.listener
    acceptor = Acceptor(
        config.station.ae_title,
        Limits(settings.maximum_associations, settings.maximum_pdu, settings.network_timeout_s),
        admit=receiver.admit,
        store=receiver.store,
        accepted=metrics.ASSOCIATIONS.labels(result="accepted", reason="none").inc,
        rejected=lambda reason: metrics.ASSOCIATIONS.labels(result="rejected", reason=reason).inc(),
    )
    plain = Listener(settings.host, settings.port)
    acceptor.listen(plain)
    if settings.tls is not None:
        tls = tls_context(settings.tls.certificate, settings.tls.key, settings.tls.ca)
        acceptor.listen(replace(plain, port=settings.tls.port, tls=tls))
    process.ready()
    while not process.stopping.is_set():
        process.wait(1.0)
        process.alive()
        if not indexer.is_alive:
            raise ApplianceError("a fault ended the indexer; see above")
    acceptor.drain()
    deadline = time.monotonic() + _DRAIN_S
    while acceptor.active_associations() and time.monotonic() < deadline:
        time.sleep(0.05)
        process.alive()
    acceptor.close()
    indexer.close(_DRAIN_S)
