"""Receives images: spool, acknowledge, then journal.

An image is acknowledged once its file is on stable storage. The journal is filled behind by one thread;
whatever it misses because the process dies is found again by comparing the spool with the journal at
the next start.
"""

from __future__ import annotations

import ipaddress
import logging
import sys
import threading
import time
from collections import Counter
from dataclasses import replace

from appliance.config.schema import Config
from appliance.dicom.header import CANNOT_UNDERSTAND, HEAD_BYTES, Facts, facts_of_head, read_facts
from appliance.dicom.part10 import file_header
from appliance.dicom.uids import station_device_uid
from appliance.domain.errors import ApplianceError, GiveUp, TryAgain
from appliance.domain.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from appliance.domain.types import Origin
from appliance.network.acceptor import (
    CALLED_AE_TITLE_NOT_RECOGNIZED,
    CALLING_AE_TITLE_NOT_RECOGNIZED,
    LIMIT_EXCEEDED,
    TEMPORARY_CONGESTION,
    UNKNOWN_NETWORK,
    Acceptor,
    Listener,
    Rejection,
)
from appliance.network.limits import Limits
from appliance.network.reception import Reply, StoreRequest
from appliance.network.tls import server_context
from appliance.observe import metrics
from appliance.observe.process import Process
from appliance.services.commitment_desk import CommitmentDesk
from appliance.services.receiving.admission import OpenAssociations, peer_of
from appliance.services.receiving.indexing import Indexer, make_instance, recover
from appliance.services.storage import Storage
from appliance.spool.store import PREAMBLE_BYTES, Draft, Spool

SUCCESS = Reply(0x0000)
OUT_OF_RESOURCES = 0xA700
MISMATCH = 0xA900  # data set does not match SOP class (PS3.4 table B.2-1)
_SOP_CLASS_UID, _SOP_INSTANCE_UID = 0x00080016, 0x00080018
_COPY_BYTES = 1 << 20
_DRAIN_S = 30.0
# Half a millisecond, a tenth of Python's own: the indexer must not make a scanner wait for its answer.
_SWITCH_INTERVAL_S = 0.0005

_log = logging.getLogger(__name__)


class Receiver:
    """Decides about associations and data sets on behalf of the acceptor."""

    def __init__(self, config: Config, storage: Storage, indexer: Indexer, name: str) -> None:
        self._config = config
        self._open = OpenAssociations(config.run_directory, name)
        self._spool = storage.originals
        self._quarantine = storage.quarantine
        self._indexer = indexer
        self._committing = {one.ae_title for one in config.dicom_destinations.values() if one.commitment}
        self._minimum_free = config.storage.minimum_free_mb * 2**20
        self._device_uid = station_device_uid(config.station.device_serial)

    def admit(self, origin: Origin, open_here: list[Origin]) -> Rejection | None:
        """Whether a peer may open an association now, and the refusal if not."""
        if origin.called_ae_title not in self._config.called_ae_titles:
            return CALLED_AE_TITLE_NOT_RECOGNIZED
        address = ipaddress.ip_address(origin.address)
        rules = [
            rule for rule in self._config.listener.accept if rule.ae_title in ("*", origin.calling_ae_title)
        ]
        if not rules:
            return CALLING_AE_TITLE_NOT_RECOGNIZED
        if not any(address in network for rule in rules for network in rule.networks):
            return UNKNOWN_NETWORK
        # Reports of commitment come in whatever happens: they make room.
        if origin.calling_ae_title not in self._committing and not self._has_room():
            return TEMPORARY_CONGESTION
        own = Counter(map(peer_of, [*open_here, origin]))
        with self._open.alone():
            everywhere = self._open.everywhere(own)
            if everywhere.total() > self._config.listener.maximum_associations:
                return LIMIT_EXCEEDED
            if everywhere[peer_of(origin)] > self._config.listener.maximum_associations_per_peer:
                return LIMIT_EXCEEDED
            self._open.publish(own)
        return None

    def publish(self, open_here: list[Origin]) -> None:
        """Tell the other receiving processes what is open here."""
        with self._open.alone():
            self._open.publish(Counter(map(peer_of, open_here)))

    def begin(self, request: StoreRequest, origin: Origin) -> StoredObject:
        """Open the sink for one object."""
        return StoredObject(self, request, origin)

    def open_draft(self, request: StoreRequest, origin: Origin) -> Draft:
        """A draft with the file header of an object.

        Raises:
            TryAgain: there is no room, or the spool cannot be written.
        """
        if not self._has_room():
            raise TryAgain("no storage space")
        return self._spool.draft(_file_header(request, origin))

    def keep(self, facts: Facts, request: StoreRequest, origin: Origin, draft: Draft) -> None:
        """Make an object durable and have it journalled.

        Raises:
            TryAgain: the spool cannot be written; the draft was abandoned.
        """
        content = draft.content
        key = draft.commit()
        ours = facts.instance_creator_uid == self._device_uid
        self._indexer.add(make_instance(facts, request.transfer_syntax_uid, key, origin, content, ours=ours))

    def set_aside(self, draft: Draft, reply: Reply) -> None:
        """Keep the bytes of what the peer is told we cannot take.

        Raises:
            TryAgain: the spool cannot be written.
        """
        with draft.path.open("rb") as file:
            file.seek(PREAMBLE_BYTES)
            key = self._quarantine.put(iter(lambda: file.read(_COPY_BYTES), b""))
        _log.warning("quarantined", extra={"key": key, "status": f"0x{reply.status:04X}"})
        metrics.INSTANCES_RECEIVED.labels(outcome="quarantined").inc()

    def _has_room(self) -> bool:
        return self._spool.free_bytes() >= self._minimum_free and not self._indexer.is_behind


class StoredObject:
    """The sink of one object: from its first byte to the answer."""

    def __init__(self, receiver: Receiver, request: StoreRequest, origin: Origin) -> None:
        self._receiver = receiver
        self._request = request
        self._origin = origin
        self._draft: Draft | None = None
        self._problem = ""
        self._head = b""
        try:
            self._draft = receiver.open_draft(request, origin)
        except TryAgain as error:
            self._fail(error)

    def write(self, data: memoryview) -> None:
        """Take the next bytes; after a failure they are let go, and the answer says so."""
        metrics.RECEIVED_BYTES.inc(len(data))
        if self._draft is None:
            return
        if len(self._head) < HEAD_BYTES:
            self._head += data[: HEAD_BYTES - len(self._head)]
        try:
            self._draft.write(data)
        except TryAgain as error:
            self._fail(error)

    def abandon(self) -> None:
        """The association ended in the middle of the object."""
        if self._draft is not None:
            self._draft.abandon()
            self._draft = None

    def finish(self) -> Reply:
        """Success only once the object is certain to be found after a restart."""
        with metrics.RECEIVE_SECONDS.time():
            try:
                reply = self._finish()
            except TryAgain as error:
                self._fail(error)
                reply = Reply(OUT_OF_RESOURCES, self._problem)
            except Exception as error:  # noqa: BLE001 - the process boundary: a peer waits for an answer
                # "Cannot understand" would be a lie at which many scanners give up for good.
                _log.exception("store_failed", extra={"error": type(error).__name__})
                self.abandon()
                reply = Reply(OUT_OF_RESOURCES, "temporary storage failure")
        if reply.status == OUT_OF_RESOURCES:
            metrics.INSTANCES_RECEIVED.labels(outcome="failed").inc()
        return reply

    def _finish(self) -> Reply:
        draft = self._draft
        if draft is None:
            return Reply(OUT_OF_RESOURCES, self._problem)
        try:
            facts = facts_of_head(self._head, self._request.transfer_syntax_uid) or read_facts(draft.path)
            reply = self._check(facts)
        except GiveUp as error:
            reply = Reply(CANNOT_UNDERSTAND, str(error))
        if reply is not SUCCESS:
            self._receiver.set_aside(draft, reply)
            self.abandon()
            return reply
        self._draft = None
        self._receiver.keep(facts, self._request, self._origin, draft)
        return SUCCESS

    def _check(self, facts: Facts) -> Reply:
        if facts.sop_class_uid != self._request.sop_class_uid:
            return Reply(MISMATCH, "SOP Class UID differs from the request", _SOP_CLASS_UID)
        if facts.sop_instance_uid != self._request.sop_instance_uid:
            return Reply(MISMATCH, "SOP Instance UID differs from the request", _SOP_INSTANCE_UID)
        return SUCCESS

    def _fail(self, error: TryAgain) -> None:
        _log.warning("spool_unavailable", extra={"error": str(error)})
        self._problem = "storage failed or full"
        self.abandon()


def _file_header(request: StoreRequest, origin: Origin) -> bytes:
    return file_header(
        sop_class_uid=request.sop_class_uid,
        sop_instance_uid=request.sop_instance_uid,
        transfer_syntax_uid=request.transfer_syntax_uid,
        source_ae_title=origin.calling_ae_title,
        receiving_ae_title=origin.called_ae_title,
        implementation_class_uid=IMPLEMENTATION_CLASS_UID,
        implementation_version_name=IMPLEMENTATION_VERSION_NAME,
    )


def prepare_names(spool: Spool) -> None:
    """Make names ahead for ever, so that no scanner waits for them."""
    while True:
        try:
            spool.prepare()
        except TryAgain as error:
            # Receiving says so itself, once it needs a name.
            _log.warning("spool_unavailable", extra={"error": str(error)})
        spool.names_run_low.wait()


def serve(config: Config, process: Process, limits: Limits | None = None) -> None:
    """Receive until the process is told to stop; then let open associations finish for a while.

    `limits` are those of the configuration, unless a test wants to see them kept within seconds.

    Raises:
        Misconfigured: a port cannot be bound or a certificate cannot be used.
        TryAgain: the journal or the spool cannot be opened.
        ApplianceError: the indexer ended by itself, so that the process has to be started anew.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    storage = Storage(config)
    indexer = Indexer(config, storage.journal, storage.originals)
    indexer.start()
    recovered = recover(config, storage, indexer)
    if recovered:
        _log.warning("recovered", extra={"instances": recovered})
    threading.Thread(target=prepare_names, args=(storage.originals,), name="names", daemon=True).start()
    receiver = Receiver(config, storage, indexer, process.name)
    commitment = CommitmentDesk(config)
    settings = config.listener
    acceptor = Acceptor(
        config.station.ae_title,
        limits or Limits(settings.maximum_pdu, settings.network_timeout_s),
        admit=receiver.admit,
        begin=receiver.begin,
        requested=commitment.requested,
        reported=commitment.reported,
        accepted=metrics.ASSOCIATIONS.labels(result="accepted", reason="none").inc,
        rejected=lambda reason: metrics.ASSOCIATIONS.labels(result="rejected", reason=reason).inc(),
        misbehaved=lambda what: metrics.MISBEHAVIOUR.labels(what=what).inc(),
    )
    plain = Listener(settings.host, settings.port, shared=settings.processes > 1)
    acceptor.listen(plain)
    if settings.tls is not None:
        tls = server_context(settings.tls.certificate, settings.tls.key, settings.tls.ca)
        acceptor.listen(replace(plain, port=settings.tls.port, tls=tls))
    process.ready()
    while not process.stopping.is_set():
        process.wait(1.0)
        process.alive()
        acceptor.tell_origins(receiver.publish)
        if not indexer.is_alive:
            raise ApplianceError("a fault ended the indexer; see above")
    acceptor.drain()
    deadline = time.monotonic() + _DRAIN_S
    while acceptor.origins() and time.monotonic() < deadline:
        time.sleep(0.05)
        process.alive()
    acceptor.close()
    indexer.close(_DRAIN_S)
