"""The C-STORE side: accepts associations and hands every received data set to one function."""

from __future__ import annotations

import ipaddress
import logging
import ssl
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from appliance.domain.commitment import CommitmentReport, CommitmentRequest
from appliance.domain.errors import Misconfigured
from appliance.domain.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from appliance.domain.types import Origin
from appliance.network.commitment import PUSH_MODEL, answer_report, answer_request
from appliance.network.library import tune_socket
from appliance.network.limits import Limits
from appliance.network.negotiation import storage_contexts
from appliance.network.reception import Incoming, StoreRequest
from appliance.network.server import StoreServer

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rejection:
    """A-ASSOCIATE-RJ (PS3.8 table 9-21): result, source, reason, and a word for the metric."""

    result: int
    source: int
    code: int
    reason: str


CALLING_AE_TITLE_NOT_RECOGNIZED = Rejection(1, 1, 3, "calling_ae_title")
CALLED_AE_TITLE_NOT_RECOGNIZED = Rejection(1, 1, 7, "called_ae_title")
UNKNOWN_NETWORK = Rejection(1, 1, 3, "network")
TEMPORARY_CONGESTION = Rejection(2, 3, 1, "resources")
LIMIT_EXCEEDED = Rejection(2, 3, 2, "limit")


@dataclass(frozen=True)
class Listener:
    """One port, plain or with TLS; `shared` with other processes that listen on it."""

    host: str
    port: int
    shared: bool
    tls: ssl.SSLContext | None = None


class Acceptor:
    """Listens on one or more ports for Storage, Storage Commitment and Verification.

    `admit` sees every association before negotiation, with the origins of those that are open. `begin`
    opens a sink for each object, in the thread of its association. `requested` is asked for commitment and
    `reported` told about it; the `ApplianceError` that they may raise holds the status for the peer.
    `accepted`, `rejected` and `misbehaved` count.
    """

    def __init__(
        self,
        ae_title: str,
        limits: Limits,
        *,
        admit: Callable[[Origin, list[Origin]], Rejection | None],
        begin: Callable[[StoreRequest, Origin], Incoming],
        requested: Callable[[CommitmentRequest, Origin], None],
        reported: Callable[[CommitmentReport, Origin], None],
        accepted: Callable[[], None],
        rejected: Callable[[str], None],
        misbehaved: Callable[[str], None],
    ) -> None:
        self._limits = limits
        self._admit = admit
        self._begin = begin
        self._requested = requested
        self._reported = reported
        self._misbehaved = misbehaved
        self._rejected = rejected
        self._accepted = accepted
        self._draining = threading.Event()
        self._deciding = threading.Lock()
        self._admitted: WeakSet[Association] = WeakSet()
        self._servers: list[StoreServer] = []
        self._threads: list[threading.Thread] = []
        entity = AE(ae_title=ae_title)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        # The library also counts connections that have not asked for an association yet.
        entity.maximum_associations = sys.maxsize
        entity.maximum_pdu_size = limits.pdu_bytes
        entity.network_timeout = limits.idle_s
        entity.add_supported_context(Verification)
        # In either role: scanners ask us to commit, and destinations report on associations of their own.
        entity.add_supported_context(PUSH_MODEL, scu_role=True, scp_role=True)
        self._entity = entity

    def listen(self, listener: Listener) -> None:
        """Open one port and serve it in the background.

        Raises:
            Misconfigured: the port cannot be bound.
        """
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, tune_socket),
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_ACCEPTED, self._on_accepted),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_N_ACTION, self._on_action),
            (evt.EVT_N_EVENT_REPORT, self._on_event_report),
        ]
        try:
            server = StoreServer(
                self._entity,
                (listener.host, listener.port),
                handlers,
                tls=listener.tls,
                shared=listener.shared,
                limits=self._limits,
                begin=lambda request, association: self._begin(request, _origin(association)),
                misbehaved=self._misbehaved,
            )
        except OSError as error:
            raise Misconfigured(
                [f"listener: {listener.host}:{listener.port} cannot be bound: {error.strerror}"]
            ) from error
        thread = threading.Thread(target=server.serve_forever, name=f"listen-{listener.port}", daemon=True)
        thread.start()
        self._servers.append(server)
        self._threads.append(thread)

    def origins(self) -> list[Origin]:
        """Where the open associations come from; connections that ask for none are left out."""
        return [
            _origin(association)
            for association in self._entity.active_associations
            if association in self._admitted
        ]

    def tell_origins(self, tell: Callable[[list[Origin]], None]) -> None:
        """Call `tell` with `origins` while no association is decided about: none is half counted."""
        with self._deciding:
            tell(self.origins())

    def drain(self) -> None:
        """Refuse new associations from here on; those that are open go on."""
        self._draining.set()

    def close(self) -> None:
        """Close the ports and abort what is still open; nothing unfinished was acknowledged."""
        for server in self._servers:
            server.shutdown()
        self._entity.shutdown()
        for thread in self._threads:
            thread.join(timeout=5.0)

    def _on_requested(self, event: Event) -> None:
        with self._deciding:
            rejection = self._refusal(_origin(event.assoc))
            if rejection is None:
                self._admitted.add(event.assoc)
        if rejection is not None:
            self._rejected(rejection.reason)
            event.assoc.acse.send_reject(rejection.result, rejection.source, rejection.code)
            event.assoc.kill()
            return
        proposed = _request(event.assoc).presentation_context_definition_list
        acceptor = event.assoc.acceptor
        acceptor.supported_contexts = [*acceptor.supported_contexts, *storage_contexts(proposed)]

    def _refusal(self, origin: Origin) -> Rejection | None:
        if self._draining.is_set():
            return TEMPORARY_CONGESTION
        try:
            return self._admit(origin, self.origins())
        except OSError as error:
            # The library would swallow it and open the association without any storage.
            _log.exception("admission_failed", extra={"error": type(error).__name__})
            return TEMPORARY_CONGESTION

    def _on_accepted(self, _event: Event) -> None:
        self._accepted()

    def _on_action(self, event: Event) -> tuple[Dataset, None]:
        origin = _origin(event.assoc)
        return answer_request(event, lambda request: self._requested(request, origin))

    def _on_event_report(self, event: Event) -> tuple[Dataset, None]:
        origin = _origin(event.assoc)
        return answer_report(event, lambda report: self._reported(report, origin))

    def _on_store(self, event: Event) -> Dataset:
        """The library's own way of receiving, for a version whose internals are not known."""
        request: Any = event.request
        data_set = event.encoded_dataset(include_meta=False)
        incoming = self._begin(
            StoreRequest(
                str(request.AffectedSOPClassUID),
                str(request.AffectedSOPInstanceUID),
                str(event.context.transfer_syntax),
            ),
            _origin(event.assoc),
        )
        incoming.write(memoryview(data_set))
        reply = incoming.finish()
        response = Dataset()
        response.Status = reply.status
        if reply.comment:
            response.ErrorComment = reply.comment
        if reply.offending_element is not None:
            response.OffendingElement = reply.offending_element
        return response


def _request(association: Association) -> A_ASSOCIATE:
    """The A-ASSOCIATE request, which every acceptor's association has."""
    request = association.requestor.primitive
    assert request is not None
    return request


def _origin(association: Association) -> Origin:
    request = _request(association)
    return Origin(
        request.calling_ae_title.strip(),
        request.called_ae_title.strip(),
        _address(association.requestor.address or ""),
    )


def _address(text: str) -> str:
    """The peer's address; an IPv4 peer of a dual-stack socket in its IPv4 form."""
    address = ipaddress.ip_address(text)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
