"""How pynetdicom and its sockets are set, for every association in either direction."""

from __future__ import annotations

import logging
import socket
import time
from types import SimpleNamespace

from pynetdicom import _config, timer
from pynetdicom.association import Association
from pynetdicom.events import Event

# pynetdicom's own handlers format every PDU, and can put identifiers into a log.
_config.LOG_HANDLER_LEVEL = "none"
# Files are sent as they lie: never decoded, never encoded again.
_config.STORE_SEND_CHUNKED_DATASET = True
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


def keep_responses(association: Association) -> None:
    """Leave the responses of the peer to whoever waits for them.

    The association's own thread looks for requests of the peer on the same queue. It is told to pause while
    a response is awaited, but may miss that under load, take the response and drop it: the sender then
    waits for its whole time-out. A storage SCP makes no requests, so that thread needs to find none.
    """
    take = association.dimse.get_msg
    association.dimse.get_msg = lambda block=False: take(block) if block else (None, None)  # type: ignore[method-assign]
