"""A storage SCP made of bare sockets, which answers as no library would and notes what it was sent."""

from __future__ import annotations

import hashlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tools.campaigns import wire

_APPLICATION_CONTEXT, _PROPOSED, _ACCEPTED, _USER_INFORMATION = 0x10, 0x20, 0x21, 0x50
_ABSTRACT, _TRANSFER, _MAXIMUM_LENGTH, _IMPLEMENTATION = 0x30, 0x40, 0x51, 0x52
_RELEASE, _ABORT = 0x05, 0x07
C_STORE_RESPONSE, C_ECHO_RESPONSE = 0x8001, 0x8030


@dataclass
class Received:
    """One C-STORE request as it came."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    context_id: int
    message_id: int
    priority: int
    size: int = 0
    sha256: str = ""
    fragments: list[int] = field(default_factory=list)


def first(_abstract: str, syntaxes: Sequence[str]) -> str | None:
    """Accept every context in the first syntax that is proposed for it."""
    return syntaxes[0]


class Gone(Exception):
    """The peer has closed the connection, or a fault ends the conversation."""


class Conversation:
    """One connection."""

    def __init__(self, scp: RawScp, connection: socket.socket) -> None:
        self.scp = scp
        self.connection = connection
        self.contexts: dict[int, tuple[str, str]] = {}
        self._request = b""

    def serve(self) -> None:
        """Take what comes until the peer releases, aborts or closes."""
        while True:
            kind, body = self.receive()
            if kind == 0x01:
                self._request = body
                self.scp.requests += 1
                self.scp.associate(self)
            elif kind == wire.P_DATA:
                self._take(body)
            elif kind == _RELEASE:
                self.scp.releases += 1
                self.connection.sendall(wire.pdu(wire.RELEASE_RESPONSE, bytes(4)))
                return
            else:
                self.scp.aborts += kind == _ABORT
                return

    def accept(self) -> None:
        """Answer the request for an association."""
        answers = [_item(_APPLICATION_CONTEXT, b"1.2.840.10008.3.1.1.1")]
        for kind, content in wire.items(self._request[wire.ASSOCIATE_FIXED_BYTES :]):
            if kind == _PROPOSED:
                inner = list(wire.items(content[4:]))
                abstract = next(value.decode() for kind, value in inner if kind == _ABSTRACT)
                syntaxes = [value.decode() for kind, value in inner if kind == _TRANSFER]
                chosen = self.scp.choose(abstract, syntaxes)
                if chosen is not None:
                    self.contexts[content[0]] = abstract, chosen
                result, named = (3, syntaxes[0]) if chosen is None else (0, chosen)
                answer = bytes([content[0], 0, result, 0]) + _item(_TRANSFER, named.encode())
                answers.append(_item(_ACCEPTED, answer))
                self.scp.proposed.append((abstract, tuple(syntaxes)))
        length = _item(_MAXIMUM_LENGTH, struct.pack(">I", self.scp.longest_pdu))
        answers.append(_item(_USER_INFORMATION, length + _item(_IMPLEMENTATION, b"2.25.1")))
        self.connection.sendall(wire.pdu(wire.ACCEPT, self._request[:68] + b"".join(answers)))

    def respond(
        self, request: Received, status: int, *, context_id: int | None = None, message_id: int | None = None
    ) -> None:
        """Answer a C-STORE request."""
        self.connection.sendall(
            wire.p_data(
                wire.pdv(
                    context_id or request.context_id,
                    wire.COMMAND | wire.LAST,
                    response(C_STORE_RESPONSE, message_id or request.message_id, status),
                )
            )
        )

    def reset(self) -> None:
        """Vanish with a TCP RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Gone

    def receive(self) -> tuple[int, bytes]:
        """The next PDU."""
        kind, _, length = struct.unpack(">BBI", self._exactly(6))
        self.scp.longest_seen = max(self.scp.longest_seen, length if kind == wire.P_DATA else 0)
        return kind, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        pieces = []
        while count:
            piece = self.connection.recv(min(count, 1 << 20))
            if not piece:
                raise Gone
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def _take(self, body: bytes) -> None:
        ((context_id, control, command),) = wire.pdvs(body)
        assert control & wire.COMMAND
        while not control & wire.LAST:
            _, body = self.receive()
            ((_, control, data),) = wire.pdvs(body)
            command += data
        elements = dict(wire.elements(command))
        if elements[0x0100] != wire.short(wire.C_STORE_REQUEST):
            echo = response(C_ECHO_RESPONSE, _short(elements[0x0110]), 0x0000)
            self.connection.sendall(wire.p_data(wire.pdv(context_id, wire.COMMAND | wire.LAST, echo)))
            return
        request = Received(
            elements[0x0002].decode().rstrip("\0"),
            elements[0x1000].decode().rstrip("\0"),
            self.contexts[context_id][1],
            context_id,
            _short(elements[0x0110]),
            _short(elements[0x0700]),
        )
        assert request.sop_class_uid == self.contexts[context_id][0]
        self._take_data_set(request)
        self.scp.received.append(request)
        self.scp.answer(self, request)

    def _take_data_set(self, request: Received) -> None:
        digest, last = hashlib.sha256(), False
        while not last:
            kind, body = self.receive()
            if kind != wire.P_DATA:
                self.scp.aborts += kind == _ABORT
                raise Gone
            for context_id, control, data in wire.pdvs(body):
                assert context_id == request.context_id
                assert not control & wire.COMMAND
                digest.update(data)
                request.size += len(data)
                request.fragments.append(len(data))
                last = bool(control & wire.LAST)
            self.scp.meanwhile(self, request)
        request.sha256 = digest.hexdigest()


class RawScp:
    """Listens on `port` until `stop`, a thread for each connection.

    `choose` decides about a proposed context; `associate` answers an A-ASSOCIATE-RQ; `meanwhile` is called
    for each PDU of a data set; the first objects are answered by `faults`, one each, and all others with
    success.
    """

    def __init__(
        self,
        *,
        longest_pdu: int = 131072,
        choose: Callable[[str, Sequence[str]], str | None] = first,
        associate: Callable[[Conversation], None] = Conversation.accept,
        meanwhile: Callable[[Conversation, Received], None] = lambda _conversation, _request: None,
        faults: Sequence[Callable[[Conversation, Received], None]] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.longest_pdu, self.choose = longest_pdu, choose
        self.associate, self.meanwhile = associate, meanwhile
        self.faults = list(faults)
        self.received: list[Received] = []
        self.proposed: list[tuple[str, tuple[str, ...]]] = []
        self.connections = self.requests = self.releases = self.aborts = self.longest_seen = 0
        self._tls = tls
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._listen, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> RawScp:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop listening, and drop every connection."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()
        for thread in self._threads:
            thread.join(10)

    def drop(self) -> None:
        """Close every connection."""
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def answer(self, conversation: Conversation, request: Received) -> None:
        """Answer a whole object."""
        if self.faults:
            self.faults.pop(0)(conversation, request)
        else:
            conversation.respond(request, 0x0000)

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open.append(connection)
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, Gone):
            if self._tls is not None:
                connection = self._tls.wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                )
                try:
                    connection.do_handshake()
                except ssl.SSLError:
                    time.sleep(0.5)  # else a TCP RST overtakes the alert
                    raise
            Conversation(self, connection).serve()
        connection.close()


def response(field: int, message_id: int, status: int) -> bytes:
    """The command set of a response without a data set."""
    return wire.command_set(
        [
            (0x0100, wire.short(field)),
            (0x0120, wire.short(message_id)),
            (0x0800, wire.short(wire.NO_DATA_SET)),
            (0x0900, wire.short(status)),
        ]
    )


def wait_for_end(conversation: Conversation, seconds: float = 30.0) -> None:
    """Say nothing until the other side ends the connection."""
    end = time.monotonic() + seconds
    conversation.connection.settimeout(seconds)
    while time.monotonic() < end and conversation.connection.recv(65536):
        pass
    raise Gone


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(content)) + content


def _short(value: bytes) -> int:
    return int.from_bytes(value, "little")
