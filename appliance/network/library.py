"""How pynetdicom and its sockets are set, for every association in either direction."""

from __future__ import annotations

import logging
import socket

from pynetdicom import _config
from pynetdicom.events import Event

# pynetdicom's own handlers format every PDU, and can put identifiers into a log.
_config.LOG_HANDLER_LEVEL = "none"
# Files are sent as they lie: never decoded, never encoded again.
_config.STORE_SEND_CHUNKED_DATASET = True
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)


def tune_socket(event: Event) -> None:
    """Send small messages at once, and notice a peer that vanished: for `evt.EVT_CONN_OPEN`."""
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
