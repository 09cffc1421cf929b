"""The listening socket: many connections at once, and none that can hold up the others."""

from __future__ import annotations

import logging
import socket
import socketserver
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from appliance.network.association import QuietAssociation
from appliance.network.limits import Limits
from appliance.network.reception import Incoming, StoreRequest
from appliance.network.upper_layer import UpperLayer, bound, is_checked

_BACKLOG = 256
_CONNECTIONS_PER_ADDRESS = 256
"""Open connections from one address, associated or not: far more than any scanner needs."""
_CONNECTIONS = 768
"""Open connections from everywhere: with their files, below the usual limit of 1024 descriptors."""
_SEND_BUFFER = 64 * 1024

_log = logging.getLogger(__name__)


class StoreServer(ThreadedAssociationServer):
    """A server whose accept loop does nothing that a peer can delay.

    `begin` opens a sink for an object that arrives on an association; `misbehaved` is told in a word
    what a peer did wrong. With `shared`, other processes may listen on the same port.
    """

    request_queue_size = _BACKLOG
    daemon_threads = True

    def __init__(
        self,
        entity: ApplicationEntity,
        address: tuple[str, int],
        handlers: list[EventHandlerType],
        *,
        tls: ssl.SSLContext | None,
        shared: bool,
        limits: Limits,
        begin: Callable[[StoreRequest, Association], Incoming],
        misbehaved: Callable[[str], None],
    ) -> None:
        self.limits = limits
        self.begin = begin
        self.misbehaved = misbehaved
        self._shared = shared
        self._open: Counter[str] = Counter()
        self._counting = threading.Lock()
        super().__init__(
            entity,
            address,
            entity.ae_title,
            entity.supported_contexts,
            ssl_context=tls,
            evt_handlers=handlers,
            request_handler=StoreHandler if is_checked() else RequestHandler,
        )

    def server_bind(self) -> None:
        """Bind, beside other processes on the same port if it is shared."""
        if self._shared:
            assert self.socket is not None
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; its TLS handshake happens in a thread of its own."""
        assert self.socket is not None
        connection, address = self.socket.accept()
        connection.settimeout(self.limits.handshake_s)
        if self.ssl_context:
            connection = self.ssl_context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether to serve a connection; one address cannot take all threads."""
        with self._counting:
            many = self._open[client_address[0]] >= _CONNECTIONS_PER_ADDRESS
            if many or self._open.total() >= _CONNECTIONS:
                self.misbehaved("connection_flood")
                return False
            self._open[client_address[0]] += 1
        return True

    def closed(self, address: str) -> None:
        """A connection from `address` has ended."""
        with self._counting:
            self._open[address] -= 1
            if self._open[address] <= 0:
                del self._open[address]

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shake hands if there is TLS, then start the association."""
        try:
            if self.ssl_context:
                request.do_handshake()
            request.settimeout(None)
        except OSError as error:
            self.misbehaved("tls_handshake")
            _log.warning("tls_handshake_failed", extra={"error": type(error).__name__})
            self.shutdown_request(request)
            self.closed(client_address[0])
            return
        super().process_request_thread(request, client_address)

    def shutdown(self) -> None:
        """End `serve_forever` and close the port."""
        # pynetdicom's own also strikes the server off the list of AE.start_server(), where this one is not.
        socketserver.BaseServer.shutdown(self)
        self.server_close()


class StoreHandler(RequestHandler):
    """Makes a `QuietAssociation` out of a new connection."""

    server: StoreServer

    def _create_association(self) -> Association:
        server = self.server
        address = self.client_address[0]
        association = QuietAssociation(self.ae, MODE_ACCEPTOR, ended=lambda: server.closed(address))
        # The library finds its associations by this name.
        association.name = f"AcceptorThread@{address}:{self.client_address[1]}"
        acceptor = association.acceptor
        acceptor.maximum_length = self.ae.maximum_pdu_size
        acceptor.ae_title = server.ae_title
        acceptor.address_info = self.local
        acceptor.implementation_class_uid = self.ae.implementation_class_uid
        acceptor.implementation_version_name = self.ae.implementation_version_name
        acceptor.supported_contexts = deepcopy(server.contexts)
        association.requestor.address_info = self.remote
        for event, handlers in server._handlers.items():
            for function, arguments in handlers if isinstance(handlers, list) else [handlers]:
                association.bind(event, function, arguments)
        # The upper layer keeps this deadline, and wakes the association when it has ended.
        association.acse_timeout = None
        association.dul = UpperLayer(
            association, association.wake, server.begin, server.misbehaved, server.limits
        )
        # Only short responses are sent: with a small buffer, a peer that reads none is noticed early.
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        bound(self.request, server.limits.tick_s)
        association.set_socket(AssociationSocket(association, client_socket=self.request))
        return association
