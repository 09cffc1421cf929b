"""A scanner made of a socket: sends any bytes as the data set of an object, in any transfer syntax.

DCMTK's storescu encodes data sets anew and pynetdicom is slow; this one does neither.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pydicom.filereader import read_file_meta_info

from tools.campaigns import wire

_PDU_BYTES = 131072
_TIMEOUT_S = 60.0
_HEADER = struct.Struct(">BxI")
_ACCEPTED_CONTEXT, _USER_INFORMATION, _MAXIMUM_LENGTH = 0x21, 0x50, 0x51
_STATUS = 0x0900


class Refused(Exception):
    """The peer did not take the association, the context or the object."""


@dataclass(frozen=True)
class Object:
    """What one C-STORE request names and carries."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set: bytes

    @property
    def context(self) -> tuple[str, str]:
        """SOP class and transfer syntax."""
        return self.sop_class_uid, self.transfer_syntax_uid


def data_set_bytes(path: Path) -> bytes:
    """What follows group 2 in a file (PS3.10 section 7.1)."""
    content = path.read_bytes()
    # Preamble (128), prefix (4), then (0002,0000) UL of 4 bytes: tag, VR, length, value.
    if content[128:132] != b"DICM" or content[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        return b""
    return content[144 + int.from_bytes(content[140:144], "little") :]


def read_object(path: Path) -> Object:
    """The object of a Part-10 file: its data set as it lies there, the UIDs of its file meta information."""
    meta = read_file_meta_info(path)
    return Object(
        str(meta.MediaStorageSOPClassUID),
        str(meta.MediaStorageSOPInstanceUID),
        str(meta.TransferSyntaxUID),
        data_set_bytes(path),
    )


class RawSender:
    """One association, requested when it is made, with a context for each (SOP class, transfer syntax).

    A context manager: leaving it releases the association, or drops the connection after an exception.

    Raises:
        Refused: the peer rejects the association.
        OSError: it cannot be reached.
    """

    def __init__(
        self,
        port: int,
        contexts: Iterable[tuple[str, str]],
        *,
        called: str = "EDGE",
        calling: str = "SCANNER",
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        wanted = sorted(set(contexts))
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._messages = 0
        try:
            proposed = [(sop_class, [syntax]) for sop_class, syntax in wanted]
            self._connection.sendall(wire.associate_request(proposed, called=called, calling=calling))
            kind, body = self._receive()
            if kind != wire.ACCEPT:
                raise Refused(f"the peer answers the request for an association with PDU type {kind}")
        except BaseException:
            self._connection.close()
            raise
        accepted, peer_limit = _agreement(body)
        self._contexts = {
            context: 2 * index + 1 for index, context in enumerate(wanted) if 2 * index + 1 in accepted
        }
        self._fragment = min(peer_limit or _PDU_BYTES, _PDU_BYTES) - wire.PDV_HEADER_BYTES

    def __enter__(self) -> RawSender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.release()
        else:
            self._connection.close()

    @property
    def accepted(self) -> set[tuple[str, str]]:
        """The contexts that the peer accepted."""
        return set(self._contexts)

    def store(self, one: Object) -> int:
        """Send one object; the status of the answer.

        Raises:
            Refused: its context was not accepted, or the peer ends the association instead of answering.
            OSError: the connection fails.
        """
        return self.stream(one.sop_class_uid, one.sop_instance_uid, one.transfer_syntax_uid, [one.data_set])

    def stream(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, pieces: Iterable[bytes]
    ) -> int:
        """As `store`, with a data set that is made up while it is sent."""
        context_id = self._contexts.get((sop_class_uid, transfer_syntax_uid))
        if context_id is None:
            raise Refused(f"no context for {sop_class_uid} in {transfer_syntax_uid}")
        self._messages = self._messages % 0xFFFF + 1
        elements = wire.store_elements(sop_class_uid, sop_instance_uid, self._messages)
        ready = wire.p_data(wire.pdv(context_id, wire.COMMAND | wire.LAST, wire.command_set(elements)))
        for fragment, is_last in _with_last(_fragments(pieces, self._fragment)):
            ready += wire.p_data(wire.pdv(context_id, wire.LAST if is_last else 0, fragment))
            if is_last or len(ready) >= _PDU_BYTES:
                self._connection.sendall(ready)
                ready = b""
        kind, body = self._receive()
        if kind != wire.P_DATA:
            raise Refused(f"the peer answers an object with PDU type {kind}")
        return _status(body)

    def release(self) -> None:
        """End the association as it should be."""
        try:
            self._connection.sendall(wire.RELEASE_REQUEST)
            self._receive()
        finally:
            self._connection.close()

    def _receive(self) -> tuple[int, bytes]:
        kind, length = _HEADER.unpack(self._exactly(_HEADER.size))
        return kind, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._connection.recv(count - len(data))
            if not more:
                raise Refused("the peer closed the connection")
            data += more
        return data


def send_raw(port: int, objects: Iterable[Object], *, called: str = "EDGE", calling: str = "SCANNER") -> None:
    """Send objects over one association.

    Raises:
        Refused: one of them was not stored.
    """
    waiting = list(objects)
    with RawSender(port, {one.context for one in waiting}, called=called, calling=calling) as sender:
        for one in waiting:
            status = sender.store(one)
            if status != 0x0000:
                raise Refused(f"status 0x{status:04X} for an object in {one.transfer_syntax_uid}")


def _fragments(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    for piece in pieces:
        yield from (piece[start : start + size] for start in range(0, len(piece), size))


def _with_last(items: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each item, and whether it is the last one; a data set of no bytes is one empty fragment."""
    previous: bytes | None = None
    for item in items:
        if previous is not None:
            yield previous, False
        previous = item
    yield previous or b"", True


def _agreement(body: bytes) -> tuple[set[int], int]:
    """The ids of the accepted contexts and the largest PDU of an A-ASSOCIATE-AC (PS3.8 9.3.3), 0: any."""
    accepted, limit = set(), 0
    for kind, content in wire.items(body[wire.ASSOCIATE_FIXED_BYTES :]):
        if kind == _ACCEPTED_CONTEXT and content[2] == 0:
            accepted.add(content[0])
        elif kind == _USER_INFORMATION:
            for inner, value in wire.items(content):
                if inner == _MAXIMUM_LENGTH:
                    limit = int.from_bytes(value, "big")
    return accepted, limit


def _status(body: bytes) -> int:
    """The status in a P-DATA-TF that carries one whole C-STORE response."""
    for _, control, data in wire.pdvs(body):
        if control & wire.COMMAND:
            for number, value in wire.elements(data):
                if number == _STATUS:
                    return int.from_bytes(value, "little")
    raise Refused("the answer has no status")
