"""The DICOM file format around a data set that is not to be touched (PS3.10 section 7.1)."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.uid import UID

from appliance.dicom.elements import split_file

_PREFIX = b"DICM"
_HEADER_BYTES = 64 * 1024


def file_header(
    *,
    sop_class_uid: str,
    sop_instance_uid: str,
    transfer_syntax_uid: str,
    source_ae_title: str,
    receiving_ae_title: str,
    implementation_class_uid: str,
    implementation_version_name: str,
) -> bytes:
    """Prefix and file meta information: what stands between the preamble and the data set of a file.

    Written by hand, because the UIDs of a peer need not be valid, and what it sent is kept all the same.
    """
    elements = b"".join(
        (
            _element(0x0001, b"OB", b"\0\1"),
            _element(0x0002, b"UI", _padded(sop_class_uid, b"\0")),
            _element(0x0003, b"UI", _padded(sop_instance_uid, b"\0")),
            _element(0x0010, b"UI", _padded(transfer_syntax_uid, b"\0")),
            _element(0x0012, b"UI", _padded(implementation_class_uid, b"\0")),
            _element(0x0013, b"SH", _padded(implementation_version_name, b" ")),
            _element(0x0016, b"AE", _padded(source_ae_title, b" ")),
            _element(0x0018, b"AE", _padded(receiving_ae_title, b" ")),
        )
    )
    return _PREFIX + _element(0x0000, b"UL", struct.pack("<I", len(elements))) + elements


def _element(element: int, vr: bytes, value: bytes) -> bytes:
    if vr == b"OB":
        return struct.pack("<HH2sHI", 0x0002, element, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value


def _padded(text: str, padding: bytes) -> bytes:
    value = text.encode("ascii", errors="replace")
    return value + padding if len(value) % 2 else value


@dataclass(frozen=True)
class FileMeta:
    """What the file meta information of a received object says about it."""

    transfer_syntax_uid: str
    source_ae_title: str
    receiving_ae_title: str


def read_meta(path: Path) -> FileMeta:
    """Read back what `file_header` wrote."""
    meta = pydicom.filereader.read_file_meta_info(path)
    return FileMeta(
        str(UID(meta.TransferSyntaxUID)),
        str(meta.SourceApplicationEntityTitle),
        str(meta.get("ReceivingApplicationEntityTitle", "")),
    )


def data_set_start(file: int) -> int:
    """Where the data set of the open Part-10 file begins.

    Raises:
        EOFError: not within its first 64 KiB, which no file of the spool needs.
        OSError: the file cannot be read.
    """
    head = os.pread(file, _HEADER_BYTES, 0)
    start, _ = split_file(head)
    if start > _HEADER_BYTES - 8:
        raise EOFError
    return start
