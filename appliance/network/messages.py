"""P-DATA-TF and the command set, as far as C-STORE needs them. Pure functions of bytes.

Everything here comes from a peer that may be broken or hostile: a length that does not fit raises
`ProtocolError`, never reads beyond its buffer, and never allocates what a peer merely announces.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from appliance.domain.errors import ApplianceError

A_ASSOCIATE_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ = 0x01, 0x02, 0x03
P_DATA_TF = 0x04
A_RELEASE_RQ = 0x05
A_ABORT = 0x07
C_STORE_RQ = 0x0001
C_STORE_RSP = 0x8001
NO_DATA_SET = 0x0101
HIGH, MEDIUM = 0x0001, 0x0000
"""(0000,0700) Priority (PS3.7 E.1). There is no LOW: what is sent is always waited for."""
FRAME_BYTES = 12
"""What stands before the data in a P-DATA-TF with one item: the headers of the PDU and of the PDV."""

_PDV = struct.Struct(">IBB")
_ELEMENT = struct.Struct("<HHI")
_FRAME = struct.Struct(">BxIIBB")
_COMMAND, _LAST = 0x01, 0x02  # message control header, PS3.8 E.2

_AFFECTED_SOP_CLASS_UID = 0x0002
_COMMAND_FIELD = 0x0100
_MESSAGE_ID = 0x0110
_MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
_PRIORITY = 0x0700
_COMMAND_DATA_SET_TYPE = 0x0800
_STATUS = 0x0900
_AFFECTED_SOP_INSTANCE_UID = 0x1000


class ProtocolError(ApplianceError):
    """What the peer sent breaks PS3.7 or PS3.8; the association is aborted. `word` is for the metric."""

    def __init__(self, word: str, message: str) -> None:
        super().__init__(message)
        self.word = word


@dataclass(frozen=True)
class Fragment:
    """One presentation data value: a piece of a command set or of a data set (PS3.8 9.3.5.1)."""

    context_id: int
    is_command: bool
    is_last: bool
    data: memoryview


def fragments(pdu: memoryview) -> Iterator[Fragment]:
    """The presentation data values of a P-DATA-TF without its six bytes of header.

    Raises:
        ProtocolError: an item is longer than the PDU, or too short to be one.
    """
    position, end = 0, len(pdu)
    while position < end:
        if end - position < _PDV.size:
            raise ProtocolError("pdv_length", "a PDV item is cut off")
        length, context_id, control = _PDV.unpack_from(pdu, position)
        start, stop = position + _PDV.size, position + 4 + length
        if length < 2 or stop > end:
            raise ProtocolError("pdv_length", "a PDV item does not fit into its PDU")
        yield Fragment(context_id, bool(control & _COMMAND), bool(control & _LAST), pdu[start:stop])
        position = stop


@dataclass(frozen=True)
class Command:
    """What a command set says about the message that it begins (PS3.7 9.3)."""

    field: int
    message_id: int
    has_data_set: bool
    sop_class_uid: str
    sop_instance_uid: str
    responds_to: int | None = None
    """Message ID Being Responded To (0000,0120)."""
    status: int | None = None


def read_command(data: bytes) -> Command:
    """Read a whole command set, which is always Implicit VR Little Endian (PS3.7 6.3.1).

    Raises:
        ProtocolError: it is no sequence of group 0000 elements, or lacks what every request has.
    """
    values: dict[int, bytes] = {}
    position, end = 0, len(data)
    while position < end:
        if end - position < _ELEMENT.size:
            raise ProtocolError("command_set", "a command element is cut off")
        group, element, length = _ELEMENT.unpack_from(data, position)
        position += _ELEMENT.size
        if group != 0x0000 or length > end - position:
            raise ProtocolError("command_set", "a command element does not fit into its command set")
        values[element] = data[position : position + length]
        position += length
    return Command(
        _short(values, _COMMAND_FIELD),
        _short(values, _MESSAGE_ID) if _MESSAGE_ID in values else 0,
        _short(values, _COMMAND_DATA_SET_TYPE) != NO_DATA_SET,
        _uid(values, _AFFECTED_SOP_CLASS_UID),
        _uid(values, _AFFECTED_SOP_INSTANCE_UID),
        *(_short(values, e) if e in values else None for e in (_MESSAGE_ID_BEING_RESPONDED_TO, _STATUS)),
    )


def c_store_request(
    context_id: int, message_id: int, sop_class_uid: str, sop_instance_uid: str, priority: int, longest: int
) -> bytes:
    """The P-DATA-TF with the command set of a C-STORE-RQ (PS3.7 9.3.1.1), each of at most `longest` bytes
    behind its header.
    """
    message = _command_set(
        _element(_AFFECTED_SOP_CLASS_UID, _padded(sop_class_uid, b"\0")),
        _element(_COMMAND_FIELD, struct.pack("<H", C_STORE_RQ)),
        _element(_MESSAGE_ID, struct.pack("<H", message_id)),
        _element(_PRIORITY, struct.pack("<H", priority)),
        _element(_COMMAND_DATA_SET_TYPE, struct.pack("<H", 0x0001)),
        _element(_AFFECTED_SOP_INSTANCE_UID, _padded(sop_instance_uid, b"\0")),
    )
    room = data_room(longest)
    pdus = bytearray()
    for start in range(0, len(message), room):
        piece = message[start : start + room]
        pdus += frame(context_id, len(piece), command=True, last=start + room >= len(message)) + piece
    return bytes(pdus)


def data_room(longest: int) -> int:
    """Bytes of data in a P-DATA-TF with one item, which may have `longest` bytes behind its header.

    An even number, as every fragment but the last has to be (PS3.8 annex E.2 with PS3.5 7.1).
    """
    return (longest - _PDV.size) & ~1


def frame(context_id: int, length: int, *, command: bool, last: bool) -> bytes:
    """What stands before `length` bytes of data in a P-DATA-TF with one item: `FRAME_BYTES` bytes."""
    control = (_COMMAND if command else 0) | (_LAST if last else 0)
    return _FRAME.pack(P_DATA_TF, length + _PDV.size, length + 2, context_id, control)


def c_store_response(
    context_id: int, command: Command, status: int, comment: str, offending_element: int | None
) -> bytes:
    """A whole P-DATA-TF with the C-STORE-RSP (PS3.7 9.3.1.2) to `command`."""
    message = _command_set(
        _element(_AFFECTED_SOP_CLASS_UID, _padded(command.sop_class_uid, b"\0")),
        _element(_COMMAND_FIELD, struct.pack("<H", C_STORE_RSP)),
        _element(_MESSAGE_ID_BEING_RESPONDED_TO, struct.pack("<H", command.message_id)),
        _element(_COMMAND_DATA_SET_TYPE, struct.pack("<H", NO_DATA_SET)),
        _element(_STATUS, struct.pack("<H", status)),
        b"" if offending_element is None else _element(0x0901, _tag(offending_element)),
        _element(0x0902, _padded(comment, b" ")) if comment else b"",
        _element(_AFFECTED_SOP_INSTANCE_UID, _padded(command.sop_instance_uid, b"\0")),
    )
    return frame(context_id, len(message), command=True, last=True) + message


def _command_set(*elements: bytes) -> bytes:
    body = b"".join(elements)
    return _element(0x0000, struct.pack("<I", len(body))) + body


def _short(values: dict[int, bytes], element: int) -> int:
    value = values.get(element, b"")
    if len(value) != 2:
        raise ProtocolError("command_set", f"command element 0000,{element:04X} is missing or malformed")
    return int.from_bytes(value, "little")


def _uid(values: dict[int, bytes], element: int) -> str:
    return values.get(element, b"").rstrip(b"\0 ").decode("ascii", errors="replace")


def _element(element: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0x0000, element, len(value)) + value


def _tag(tag: int) -> bytes:
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF)


def _padded(text: str, padding: bytes) -> bytes:
    value = text.encode("ascii", errors="replace")
    return value + padding if len(value) % 2 else value
