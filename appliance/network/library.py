"""How pynetdicom and its sockets are set, for every association in either direction."""

from __future__ import annotations

import logging
import socket
import time
from types import SimpleNamespace

from pynetdicom import _config, timer
from pynetdicom.events import Event

# pynetdicom's own handlers format every PDU, and can put identifiers into a log.
_config.LOG_HANDLER_LEVEL = "none"
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
# pynetdicom's timers run on the wall clock: setting it forward would end every open association.
timer.time = SimpleNamespace(time=time.monotonic)  # type: ignore[attr-defined, assignment]


def tune_socket(event: Event) -> None:
    """`tune`, for `evt.EVT_CONN_OPEN`."""
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        tune(transport.socket)


def tune(connection: socket.socket) -> None:
    """Send small messages at once, and notice a peer that vanished."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
