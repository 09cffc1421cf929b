"""PDUs and DIMSE messages as bytes (PS3.8 9.3, PS3.7 6.3.1), so that they can also be made wrong."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

ABORT = bytes.fromhex("07 00 00000004 0000 00 00")
RELEASE_REQUEST = bytes.fromhex("05 00 00000004 00000000")
ACCEPT, REJECT, P_DATA, RELEASE_RESPONSE = 0x02, 0x03, 0x04, 0x06
COMMAND, LAST = 0x01, 0x02
"""Bits of the message control header (PS3.8 E.2)."""
C_STORE_REQUEST, C_ECHO_REQUEST = 0x0001, 0x0030
NO_DATA_SET = 0x0101
PDV_HEADER_BYTES = 6
ASSOCIATE_FIXED_BYTES = 68
"""What stands before the variable items of an A-ASSOCIATE-RQ or -AC, without the PDU's header."""

_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
_IMPLEMENTATION = "2.25.1"


def pdu(kind: int, body: bytes) -> bytes:
    """One PDU."""
    return struct.pack(">BBI", kind, 0, len(body)) + body


def pdv(context_id: int, control: int, data: bytes) -> bytes:
    """One presentation data value item (PS3.8 9.3.5.1)."""
    return struct.pack(">IBB", len(data) + 2, context_id, control) + data


def p_data(*items: bytes) -> bytes:
    """A P-DATA-TF of whole items."""
    return pdu(P_DATA, b"".join(items))


def element(number: int, value: bytes) -> bytes:
    """A command element (0000,number)."""
    return struct.pack("<HHI", 0x0000, number, len(value)) + value


def command_set(elements: Iterable[tuple[int, bytes]]) -> bytes:
    """Command elements with their group length before them."""
    body = b"".join(element(number, value) for number, value in elements)
    return element(0x0000, struct.pack("<I", len(body))) + body


def short(value: int) -> bytes:
    """A value of VR US."""
    return struct.pack("<H", value)


def uid(text: str) -> bytes:
    """A value of VR UI."""
    value = text.encode("ascii")
    return value + b"\0" * (len(value) % 2)


def store_elements(sop_class: str, sop_instance: str, message_id: int = 1) -> list[tuple[int, bytes]]:
    """What a C-STORE request consists of (PS3.7 table 9.3-1)."""
    return [
        (0x0002, uid(sop_class)),
        (0x0100, short(C_STORE_REQUEST)),
        (0x0110, short(message_id)),
        (0x0700, short(0)),
        (0x0800, short(0x0001)),
        (0x1000, uid(sop_instance)),
    ]


def echo_request(message_id: int = 1) -> bytes:
    """The command set of a C-ECHO request (PS3.7 table 9.3-12)."""
    return command_set(
        [
            (0x0002, uid("1.2.840.10008.1.1")),
            (0x0100, short(C_ECHO_REQUEST)),
            (0x0110, short(message_id)),
            (0x0800, short(NO_DATA_SET)),
        ]
    )


def message(context_id: int, command: bytes, data_set: bytes, fragment: int) -> list[bytes]:
    """The items of one message, cut into pieces of at most `fragment` bytes."""
    items = _pieces(context_id, COMMAND, command, fragment)
    return items + (_pieces(context_id, 0, data_set, fragment) if data_set else [])


def _pieces(context_id: int, kind: int, data: bytes, fragment: int) -> list[bytes]:
    starts = range(0, len(data), fragment)
    return [
        pdv(context_id, kind | (LAST if start == starts[-1] else 0), data[start : start + fragment])
        for start in starts
    ]


def associate_request(
    contexts: Sequence[tuple[str, Sequence[str]]], *, called: str = "EDGE", calling: str = "SCANNER"
) -> bytes:
    """An A-ASSOCIATE-RQ (PS3.8 9.3.2) that proposes (abstract syntax, transfer syntaxes) as 1, 3, 5, ..."""
    items = [_item(0x10, uid_text(_APPLICATION_CONTEXT))]
    for index, (abstract_syntax, transfer_syntaxes) in enumerate(contexts):
        content = bytes([2 * index + 1, 0, 0, 0]) + _item(0x30, uid_text(abstract_syntax))
        content += b"".join(_item(0x40, uid_text(syntax)) for syntax in transfer_syntaxes)
        items.append(_item(0x20, content))
    user = _item(0x51, struct.pack(">I", 131072)) + _item(0x52, uid_text(_IMPLEMENTATION))
    items.append(_item(0x50, user))
    titles = called.encode("ascii").ljust(16) + calling.encode("ascii").ljust(16)
    return pdu(0x01, struct.pack(">HH", 1, 0) + titles + bytes(32) + b"".join(items))


def uid_text(text: str) -> bytes:
    """A UID as it stands in an A-ASSOCIATE-RQ: without padding."""
    return text.encode("ascii")


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(content)) + content


def items(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The items of an A-ASSOCIATE PDU, or those inside an item: type and content."""
    at = 0
    while at < len(content):
        kind, _, length = struct.unpack_from(">BBH", content, at)
        yield kind, content[at + 4 : at + 4 + length]
        at += 4 + length


def pdvs(body: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The presentation data values of a P-DATA-TF: context id, message control header, fragment."""
    at = 0
    while at < len(body):
        length, context_id, control = struct.unpack_from(">IBB", body, at)
        yield context_id, control, body[at + PDV_HEADER_BYTES : at + 4 + length]
        at += 4 + length


def elements(command: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements of a command set: number and value."""
    at = 0
    while at < len(command):
        _, number, length = struct.unpack_from("<HHI", command, at)
        yield number, command[at + 8 : at + 8 + length]
        at += 8 + length
