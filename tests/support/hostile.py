"""A DICOM peer made of a bare socket, which does what no library would."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from itertools import islice
from types import TracebackType

from tools.campaigns import wire

CT, VERIFICATION = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.1"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
STORE, ECHO, REFUSED = 1, 3, 5
"""Presentation contexts of `Peer.associate`."""


class Peer:
    """One connection to the appliance."""

    def __init__(self, port: int, *, seconds: float = 30.0, receive_buffer: int | None = None) -> None:
        self.connection: socket.socket = socket.socket()
        if receive_buffer is not None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.connection.settimeout(seconds)
        self.connection.connect(("127.0.0.1", port))
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    def shake_hands(self) -> None:
        """Begin TLS, whoever the other side is."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.connection = context.wrap_socket(self.connection)

    def associate(self, calling: str = "HOSTILE") -> None:
        """Open an association with the contexts `STORE` and `ECHO`."""
        self.send(wire.associate_request([(CT, [EXPLICIT]), (VERIFICATION, [IMPLICIT])], calling=calling))
        kind, _ = self.receive()
        assert kind == wire.ACCEPT

    def release(self) -> None:
        """End the association as it should be."""
        self.send(wire.RELEASE_REQUEST)
        kind, _ = self.receive()
        assert kind == wire.RELEASE_RESPONSE

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.connection.sendall(data)

    def receive(self) -> tuple[int, bytes]:
        """The next PDU: its type and what follows its header."""
        kind, _, length = struct.unpack(">BBI", self._exactly(6))
        return kind, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.connection.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def reset(self) -> None:
        """Vanish with a TCP RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def is_cut_off(self, seconds: float) -> bool:
        """Whether the other side ends the connection in time."""
        end = time.monotonic() + seconds
        self.connection.settimeout(0.5)
        while time.monotonic() < end:
            try:
                if not self.connection.recv(65536):
                    return True
            except TimeoutError:
                continue
            except OSError:
                return True
        return False

    def drip(self, data: bytes, interval_s: float, seconds: float) -> bool:
        """Send a byte at a time; whether the other side ends the connection in time."""
        end = time.monotonic() + seconds
        pieces = iter(data)
        self.connection.settimeout(interval_s)
        while time.monotonic() < end:
            try:
                self.connection.sendall(bytes(islice(pieces, 1)))
                if not self.connection.recv(65536):
                    return True
            except TimeoutError:
                continue
            except OSError:
                return True
        return False


def store_command(uid: str = "1.2.3") -> bytes:
    """The items of a C-STORE request without its data set."""
    elements = wire.store_elements(CT, uid)
    return wire.pdv(STORE, wire.COMMAND | wire.LAST, wire.command_set(elements))


def association_s(port: int) -> float:
    """Seconds that it takes to open and release an association."""
    begin = time.monotonic()
    with Peer(port) as peer:
        peer.associate("PROBE")
        peer.release()
    return time.monotonic() - begin
