"""A connection to a peer: TCP, and TLS above it where that is wanted."""

from __future__ import annotations

import select
import socket
import ssl
import time

from appliance.domain.errors import TryAgain
from appliance.network.library import tune


def connect(host: str, port: int, tls: ssl.SSLContext | None, name: str, seconds: float) -> socket.socket:
    """Connect, and shake hands with TLS; `name` is what the peer's certificate has to be for.

    Raises:
        TryAgain: that did not work within `seconds` for each address of `host`, and again for TLS.
    """
    try:
        connection = socket.create_connection((host, port), timeout=seconds)
    except (OSError, UnicodeError) as error:
        raise TryAgain(f"cannot be reached: {reason(error)}") from error
    try:
        tune(connection)
        if tls is not None:
            connection = tls.wrap_socket(connection, server_hostname=name, do_handshake_on_connect=False)
            _shake_hands(connection, seconds)
        connection.settimeout(None)
    except OSError as error:
        connection.close()
        raise TryAgain(f"no TLS connection can be made: {reason(error)}") from error
    return connection


def _shake_hands(connection: ssl.SSLSocket, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    connection.setblocking(False)
    polling = select.poll()
    while True:
        try:
            connection.do_handshake()
            return
        except ssl.SSLWantReadError:
            polling.register(connection, select.POLLIN)
        except ssl.SSLWantWriteError:
            polling.register(connection, select.POLLOUT)
        if not polling.poll(max(deadline - time.monotonic(), 0.0) * 1000.0):
            raise TimeoutError(None, "the peer does not shake hands")


def reason(error: OSError | UnicodeError) -> str:
    """What is wrong, in a few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return error.reason or str(error)
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "the host name is not valid"
