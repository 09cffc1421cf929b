"""A scanner that makes up its pixels while it sends: objects of any size, and no file of that size."""

from __future__ import annotations

import socket
import struct
import threading
import uuid
from collections.abc import Iterator
from io import BytesIO

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian

FRAME_BYTES = 512 * 512 * 2
_CONTEXT_ID = 1
_MESSAGE_ID = 1
_PDU_BYTES = 131072
_TIMEOUT_S = 600.0
_COMMAND_LAST, _DATA, _DATA_LAST = 0x03, 0x00, 0x02  # message control headers (PS3.8 E.2)
_CALLING = "STREAM"


class Refused(Exception):
    """The peer did not take the association or the object."""


class Stream:
    """One association for enhanced CT objects; requested when it is made."""

    def __init__(self, port: int, called: str) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.sendall(_associate_request(called))
        if self._receive()[0] != 0x02:
            raise Refused("the association was refused")

    def store(self, frames: int) -> None:
        """Send one object of `frames` frames of 512 KiB and wait for its success.

        Raises:
            Refused: it was not stored.
        """
        uid = f"2.25.{uuid.uuid4().int}"
        self._connection.sendall(_pdu(_COMMAND_LAST, _store_request(uid)))
        for pdu in _data_set_pdus(uid, frames):
            self._connection.sendall(pdu)
        kind, body = self._receive()
        # The status is the last element of a C-STORE-RSP without comment: tag, length 2, value.
        if kind != 0x04 or struct.pack("<HHIH", 0x0000, 0x0900, 2, 0x0000) not in body:
            raise Refused("the object was not stored")

    def close(self) -> None:
        """Release the association."""
        self._connection.sendall(struct.pack(">BxII", 0x05, 4, 0))
        self._receive()
        self._connection.close()

    def _receive(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxI", self._exactly(6))
        return kind, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._connection.recv(count - len(data))
            if not more:
                raise Refused("the peer closed the connection")
            data += more
        return data


def store_at_once(port: int, called: str, associations: int, frames: int) -> None:
    """Send one object of `frames` frames on each of many associations, all at the same time.

    Raises:
        Refused: not all were stored.
    """
    streams = [Stream(port, called) for _ in range(associations)]
    stored: list[Stream] = []

    def store(stream: Stream) -> None:
        stream.store(frames)
        stored.append(stream)

    threads = [threading.Thread(target=store, args=(stream,)) for stream in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(stored) < associations:
        raise Refused(f"{len(stored)} of {associations} objects were stored")
    for stream in streams:
        stream.close()


def _data_set_pdus(uid: str, frames: int) -> Iterator[bytes]:
    """The data set as P-DATA-TF, one fragment each; its pixels are zeros."""
    head = _head(uid, frames)
    remaining = frames * FRAME_BYTES
    yield _pdu(_DATA, head)
    payload = _PDU_BYTES - 6
    full = _pdu(_DATA, bytes(payload))
    while remaining > payload:
        yield full
        remaining -= payload
    yield _pdu(_DATA_LAST, bytes(remaining))


def _head(uid: str, frames: int) -> bytes:
    """The encoded data set up to the value of Pixel Data."""
    one = Dataset()
    one.SOPClassUID, one.SOPInstanceUID = EnhancedCTImageStorage, uid
    one.StudyInstanceUID, one.SeriesInstanceUID = f"{uid}.1", f"{uid}.2"
    one.Modality, one.PatientID, one.InstanceNumber = "CT", "1", "1"
    one.NumberOfFrames = str(frames)
    one.Rows = one.Columns = 512
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
    encoded = DicomBytesIO()
    encoded.is_little_endian, encoded.is_implicit_VR = True, False
    write_dataset(encoded, one)
    return encoded.getvalue() + struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OW", frames * FRAME_BYTES)


def _store_request(uid: str) -> bytes:
    """A C-STORE-RQ command set (PS3.7 9.3.1.1), implicit VR little endian."""
    body = BytesIO()
    for element, value in (
        (0x0002, _padded(EnhancedCTImageStorage)),
        (0x0100, struct.pack("<H", 0x0001)),
        (0x0110, struct.pack("<H", _MESSAGE_ID)),
        (0x0700, struct.pack("<H", 0x0000)),
        (0x0800, struct.pack("<H", 0x0000)),
        (0x1000, _padded(uid)),
    ):
        body.write(struct.pack("<HHI", 0x0000, element, len(value)) + value)
    length = struct.pack("<HHII", 0x0000, 0x0000, 4, len(body.getvalue()))
    return length + body.getvalue()


def _pdu(control: int, data: bytes) -> bytes:
    """A P-DATA-TF with one presentation data value (PS3.8 9.3.5)."""
    head = struct.pack(">BxIIBB", 0x04, len(data) + 6, len(data) + 2, _CONTEXT_ID, control)
    return head + data


def _associate_request(called: str) -> bytes:
    """An A-ASSOCIATE-RQ (PS3.8 9.3.2) that proposes enhanced CT in Explicit VR Little Endian."""
    context = struct.pack(">Bxxx", _CONTEXT_ID)
    context += _item(0x30, EnhancedCTImageStorage.encode()) + _item(0x40, ExplicitVRLittleEndian.encode())
    user = _item(0x51, struct.pack(">I", _PDU_BYTES)) + _item(0x52, b"2.25.1")
    body = struct.pack(">HH", 1, 0) + called.ljust(16).encode() + _CALLING.ljust(16).encode() + bytes(32)
    body += _item(0x10, b"1.2.840.10008.3.1.1.1") + _item(0x20, context) + _item(0x50, user)
    return struct.pack(">BxI", 0x01, len(body)) + body


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def _padded(uid: str) -> bytes:
    return uid.encode() + b"\0" * (len(uid) % 2)
