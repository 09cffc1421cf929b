"""The top-level elements of an encoded data set, read without a library and without ever failing.

The receiver asks for a few identifiers of every image that arrives, in many threads, before it answers
the scanner. Here a data set that is cut off, uses a private value representation or nests sequences of
undefined length yields whatever precedes the damage: no warning, no exception, no pixel touched.
Encoding: PS3.5 sections 7.1 to 7.5 and A.5.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
DEFLATED_SYNTAXES = frozenset({"1.2.840.10008.1.2.1.99"})

_UNDEFINED = 0xFFFFFFFF
_ITEM = 0xFFFEE000
_ITEM_END = 0xFFFEE00D
_SEQUENCE_END = 0xFFFEE0DD
_LONG_REPRESENTATIONS = frozenset(
    [b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"]
)
# What stands in their headers fits into one unpacking, and nearly every element is one of them.
_SHORT_REPRESENTATIONS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_DEEPEST_NESTING = 32
_MOST_INFLATED_BYTES = 16 << 20

Buffer = bytes | mmap.mmap


@dataclass(frozen=True)
class Elements:
    """Raw values by tag (0xGGGGEEEE) and their byte order (a `struct` prefix).

    `complete` if the data went on behind the last tag that was looked for.
    """

    values: Mapping[int, bytes]
    byte_order: str
    complete: bool

    def texts(self, tag: int) -> tuple[str, ...]:
        """The values of a text element without padding; empty if it is absent or empty."""
        text = self.values.get(tag, b"").decode("latin-1").strip(" \0")
        return tuple(part.strip(" \0") for part in text.split("\\")) if text else ()

    def text(self, tag: int) -> str:
        """The first value of a text element, or an empty string."""
        texts = self.texts(tag)
        return texts[0] if texts else ""

    def unsigned_short(self, tag: int) -> int | None:
        """The first value of a US element, or None."""
        value = self.values.get(tag, b"")
        return int(struct.unpack_from(self.byte_order + "H", value)[0]) if len(value) >= 2 else None


class _Cut(Exception):
    """The data end, or stop making sense, inside an element."""


class _Header(NamedTuple):
    tag: int
    length: int
    value_at: int
    unknown: bool


class _Scanner:
    def __init__(self, data: Buffer, *, implicit: bool, byte_order: str) -> None:
        self.data = data
        self.size = len(data)
        self.implicit = implicit
        self._tag = struct.Struct(byte_order + "HH").unpack_from
        self._long = struct.Struct(byte_order + "L").unpack_from
        self._short = struct.Struct(byte_order + "H").unpack_from

    def header(self, at: int, *, implicit: bool) -> _Header:
        if at + 8 > self.size:
            raise _Cut
        group, element = self._tag(self.data, at)
        tag = group << 16 | element
        representation = self.data[at + 4 : at + 6]
        # Some devices write single elements without a value representation in an explicit data set.
        if implicit or group == 0xFFFE or not (representation.isalpha() and representation.isupper()):
            return _Header(tag, self._long(self.data, at + 4)[0], at + 8, False)
        if representation in _LONG_REPRESENTATIONS:
            if at + 12 > self.size:
                raise _Cut
            length = self._long(self.data, at + 8)[0]
            return _Header(tag, length, at + 12, representation == b"UN")
        return _Header(tag, self._short(self.data, at + 6)[0], at + 8, False)

    def end_of(self, header: _Header, *, implicit: bool, depth: int) -> int:
        if header.length != _UNDEFINED:
            return header.value_at + header.length
        # An unknown value of undefined length is encoded as implicit VR little endian (PS3.5 6.2.2).
        return self._end_of_sequence(header.value_at, implicit or header.unknown, depth)

    def _end_of_sequence(self, at: int, implicit: bool, depth: int) -> int:
        if depth > _DEEPEST_NESTING:
            raise _Cut
        while True:
            item = self.header(at, implicit=True)
            if item.tag == _SEQUENCE_END:
                return item.value_at
            if item.tag != _ITEM:
                raise _Cut
            at = item.value_at + item.length
            if item.length == _UNDEFINED:
                at = self._end_of_item(item.value_at, implicit, depth)

    def _end_of_item(self, at: int, implicit: bool, depth: int) -> int:
        while True:
            header = self.header(at, implicit=implicit)
            if header.tag == _ITEM_END:
                return header.value_at
            at = self.end_of(header, implicit=implicit, depth=depth + 1)


def _looks_explicit(data: Buffer, start: int) -> bool:
    """Some devices declare one encoding and write the other: the first element tells."""
    representation = data[start + 4 : start + 6]
    return len(representation) == 2 and representation.isalpha() and representation.isupper()


def read_elements(
    data: Buffer, transfer_syntax_uid: str, wanted: frozenset[int], last: int, *, start: int = 0
) -> Elements:
    """The raw values of the `wanted` top-level elements of the data set that begins at `start`.

    Reading stops behind the tag `last`, or where the data are cut off or cannot be understood; an
    element whose value is cut off is left out.
    """
    if transfer_syntax_uid in DEFLATED_SYNTAXES:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[start:], _MOST_INFLATED_BYTES)
        except zlib.error:
            data = b""
        start = 0
    byte_order = ">" if transfer_syntax_uid == EXPLICIT_BIG_ENDIAN else "<"
    implicit = not _looks_explicit(data, start)
    scanner = _Scanner(data, implicit=implicit, byte_order=byte_order)
    short_header = struct.Struct(byte_order + "HH2sH").unpack_from
    values: dict[int, bytes] = {}
    at = start
    try:
        while at < scanner.size:
            if not implicit and at + 8 <= scanner.size:
                group, element, representation, length = short_header(data, at)
                if representation in _SHORT_REPRESENTATIONS:
                    tag, value_at = group << 16 | element, at + 8
                    if tag > last:
                        return Elements(values, byte_order, True)
                    at = value_at + length
                    if tag in wanted and at <= scanner.size:
                        values.setdefault(tag, bytes(data[value_at:at]))
                    continue
            header = scanner.header(at, implicit=implicit)
            if header.tag > last:
                return Elements(values, byte_order, True)
            at = scanner.end_of(header, implicit=implicit, depth=0)
            if header.tag in wanted and header.length != _UNDEFINED and at <= scanner.size:
                values.setdefault(header.tag, bytes(data[header.value_at : at]))
    except _Cut:
        pass
    return Elements(values, byte_order, False)


def split_file(data: Buffer) -> tuple[int, str]:
    """Where the data set of a Part-10 file starts, and its transfer syntax UID (PS3.10 section 7.1).

    Data without the prefix `DICM` are taken for a bare data set in the default transfer syntax.
    """
    if data[128:132] != b"DICM":
        return 0, IMPLICIT_LITTLE_ENDIAN
    scanner = _Scanner(data, implicit=False, byte_order="<")
    syntax = ""
    at = 132
    try:
        while True:
            header = scanner.header(at, implicit=False)
            if header.tag >> 16 != 0x0002:
                break
            at = scanner.end_of(header, implicit=False, depth=0)
            if header.tag == 0x00020010:
                syntax = bytes(data[header.value_at : at]).decode("latin-1").strip(" \0")
    except _Cut:
        pass
    return at, syntax or IMPLICIT_LITTLE_ENDIAN
