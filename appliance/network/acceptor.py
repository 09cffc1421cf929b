"""The C-STORE side: accepts associations and hands every received data set to one function."""

from __future__ import annotations

import ipaddress
import logging
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer

from appliance.domain.errors import Misconfigured
from appliance.domain.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from appliance.domain.types import Origin
from appliance.network.library import tune_socket
from appliance.network.negotiation import storage_contexts

_HANDSHAKE_DEADLINE_S = 8.0
_BACKLOG = 128
_ERROR_COMMENT_CHARACTERS = 64

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Received:
    """One C-STORE request: what the command set says and the encoded data set, untouched."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set: bytes
    origin: Origin


@dataclass(frozen=True)
class Reply:
    """The C-STORE response: status, ErrorComment (0000,0902), OffendingElement (0000,0901)."""

    status: int
    comment: str = ""
    offending_element: int | None = None


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


@dataclass(frozen=True)
class Listener:
    """One port, plain or with TLS."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True)
class Limits:
    """Bounds of one acceptor."""

    associations: int
    pdu_bytes: int
    idle_s: float


def tls_context(certificate: Path, key: Path, ca: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or newer (PS3.15 B.12); with `ca`, peers must show a certificate that it signed.

    Raises:
        Misconfigured: a file does not fit the others.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
        if ca is not None:
            context.load_verify_locations(ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured([f"listener.tls: the certificate, key or ca cannot be used: {error}"]) from error
    return context


class _Server(ThreadedAssociationServer):
    """A server that no silent TLS client can stall: the handshake happens off the accept loop."""

    request_queue_size = _BACKLOG

    def get_request(self) -> tuple[socket.socket, Any]:
        assert self.socket is not None
        connection, address = self.socket.accept()
        connection.settimeout(_HANDSHAKE_DEADLINE_S)
        if self.ssl_context:
            connection = self.ssl_context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            if self.ssl_context:
                request.do_handshake()
            request.settimeout(None)
        except OSError as error:
            _log.warning("tls_handshake_failed", extra={"error": type(error).__name__})
            self.shutdown_request(request)
            return
        super().process_request_thread(request, client_address)

    def shutdown(self) -> None:
        # pynetdicom's own also strikes the server off the list of AE.start_server(), where this one is not.
        socketserver.BaseServer.shutdown(self)


class Acceptor:
    """Listens on one or more ports for Storage and Verification.

    `store` is called in the association's thread and must return only when the object is durable; an
    exception that it lets out becomes 0xA700, "try again later". `admit` sees every association before
    negotiation. `rejected` is told why one was refused.
    """

    def __init__(
        self,
        ae_title: str,
        limits: Limits,
        *,
        admit: Callable[[Origin], Rejection | None],
        store: Callable[[Received], Reply],
        accepted: Callable[[], None],
        rejected: Callable[[str], None],
    ) -> None:
        self._admit = admit
        self._store = store
        self._rejected = rejected
        self._accepted = accepted
        self._draining = threading.Event()
        self._servers: list[ThreadedAssociationServer] = []
        self._threads: list[threading.Thread] = []
        entity = AE(ae_title=ae_title)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.maximum_associations = limits.associations
        entity.maximum_pdu_size = limits.pdu_bytes
        entity.network_timeout = limits.idle_s
        entity.add_supported_context(Verification)
        self._entity = entity

    def listen(self, listener: Listener) -> None:
        """Open one port and serve it in the background.

        Raises:
            Misconfigured: the port cannot be bound.
        """
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, tune_socket),
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_REJECTED, self._on_rejected),
            (evt.EVT_ACCEPTED, self._on_accepted),
            (evt.EVT_C_STORE, self._on_store),
        ]
        try:
            server = self._entity.make_server(
                (listener.host, listener.port),
                evt_handlers=handlers,
                ssl_context=listener.tls,
                server_class=_Server,
            )
        except OSError as error:
            raise Misconfigured(
                [f"listener: {listener.host}:{listener.port} cannot be bound: {error.strerror}"]
            ) from error
        thread = threading.Thread(target=server.serve_forever, name=f"listen-{listener.port}", daemon=True)
        thread.start()
        self._servers.append(server)
        self._threads.append(thread)

    def active_associations(self) -> int:
        """How many associations are open."""
        return len(self._entity.active_associations)

    def drain(self) -> None:
        """Refuse new associations from here on; those that are open go on."""
        self._draining.set()

    def close(self) -> None:
        """Close the ports and abort what is still open; nothing unfinished was acknowledged."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._entity.shutdown()
        for thread in self._threads:
            thread.join(timeout=5.0)

    def _on_requested(self, event: Event) -> None:
        origin = _origin(event)
        rejection = TEMPORARY_CONGESTION if self._draining.is_set() else self._admit(origin)
        if rejection is not None:
            self._rejected(rejection.reason)
            event.assoc.acse.send_reject(rejection.result, rejection.source, rejection.code)
            event.assoc.kill()
            return
        proposed = _request(event).presentation_context_definition_list
        acceptor = event.assoc.acceptor
        acceptor.supported_contexts = [*acceptor.supported_contexts, *storage_contexts(proposed)]

    def _on_rejected(self, _event: Event) -> None:
        # Only the library's own refusal comes here: local limit exceeded (2, 3, 2).
        self._rejected("limit")

    def _on_accepted(self, _event: Event) -> None:
        self._accepted()

    def _on_store(self, event: Event) -> Dataset:
        request: Any = event.request
        received = Received(
            str(request.AffectedSOPClassUID),
            str(request.AffectedSOPInstanceUID),
            str(event.context.transfer_syntax),
            event.encoded_dataset(include_meta=False),
            _origin(event),
        )
        try:
            reply = self._store(received)
        except Exception as error:  # noqa: BLE001 - the process boundary: a peer waits for an answer
            # pynetdicom would say 0xC211 "cannot understand", at which many scanners give up for good.
            _log.exception("store_failed", extra={"error": type(error).__name__})
            reply = Reply(0xA700, "temporary storage failure")
        response = Dataset()
        response.Status = reply.status
        if reply.comment:
            response.ErrorComment = reply.comment[:_ERROR_COMMENT_CHARACTERS]
        if reply.offending_element is not None:
            response.OffendingElement = reply.offending_element
        return response


def _request(event: Event) -> A_ASSOCIATE:
    """The A-ASSOCIATE request, which every acceptor's association has."""
    request = event.assoc.requestor.primitive
    assert request is not None
    return request


def _origin(event: Event) -> Origin:
    request = _request(event)
    return Origin(
        request.calling_ae_title.strip(),
        request.called_ae_title.strip(),
        _address(event.assoc.requestor.address or ""),
    )


def _address(text: str) -> str:
    """The peer's address; an IPv4 peer of a dual-stack socket in its IPv4 form."""
    address = ipaddress.ip_address(text)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
