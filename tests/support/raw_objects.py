"""Objects of any transfer syntax for `tools.campaigns.raw_sender`, encoded as no library does."""

from __future__ import annotations

import random
import struct
import zlib
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256

from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from tests.dicom_samples import CtSeries, ct_image, sample_uid
from tools.campaigns.raw_sender import Object

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
NATIVE = (IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN)
_GROUP_LENGTH, _PIXEL_DATA, _PADDING = (0x0008, 0x0000), (0x7FE0, 0x0010), (0xFFFC, 0xFFFC)
_ITEM, _END_OF_ITEMS = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_UNDEFINED = 0xFFFFFFFF


def raw_object(syntax: str, name: str, *, study: str = "study", pixel_bytes: int = 512) -> Object:
    """A CT image of the one series of `study`, with random bytes for pixels; `name` decides its UID.

    It begins with a group length, which is wrong, and ends with padding (PS3.5 sections 7.2 and 7.6), so
    that it cannot be decoded and encoded again without a change of its bytes.
    """
    order = ">" if syntax == BIG_ENDIAN else "<"
    sop_class, header = _header(study, syntax)
    uid = _uid(study, name)
    pixels = random.Random(name).randbytes(pixel_bytes)
    data_set = _element(_GROUP_LENGTH, b"UL", struct.pack(f"{order}I", 2), syntax, order)
    data_set += header.replace(_uid(study, "").encode(), uid.encode())
    if syntax in NATIVE:
        data_set += _element(_PIXEL_DATA, b"OW", pixels, syntax, order)
    else:
        data_set += struct.pack("<HH2sHI", *_PIXEL_DATA, b"OB", 0, _UNDEFINED)
        for item in (b"", pixels):  # basic offset table, one fragment (PS3.5 section A.4)
            data_set += struct.pack("<HHI", *_ITEM, len(item)) + item
        data_set += struct.pack("<HHI", *_END_OF_ITEMS, 0)
    data_set += _element(_PADDING, b"OB", bytes(6), syntax, order)
    if syntax == DEFLATED:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data_set = deflate.compress(data_set) + deflate.flush()
        data_set += b"\0" * (len(data_set) % 2)
    return Object(sop_class, uid, syntax, data_set)


def digests(objects: Iterable[Object]) -> Counter[str]:
    """How often each data set occurs, by SHA-256."""
    return Counter(sha256(one.data_set).hexdigest() for one in objects)


@lru_cache
def _header(study: str, syntax: str) -> tuple[str, bytes]:
    """SOP class and encoding of an image without pixels, of which every object of the study is a copy."""
    image = ct_image(CtSeries(rows=8, columns=8, study=study), 0)
    del image.PixelData
    image.SOPInstanceUID = _uid(study, "")
    header = DicomBytesIO()
    header.is_little_endian, header.is_implicit_VR = syntax != BIG_ENDIAN, syntax == IMPLICIT
    write_dataset(header, image)
    return str(image.SOPClassUID), header.getvalue()


def _uid(study: str, name: str) -> str:
    """A UID that depends on both and is always of the same length."""
    number = int(sample_uid("raw", study, name).removeprefix("2.25."))
    return f"2.25.{10**37 + number % (9 * 10**37)}"


def _element(tag: tuple[int, int], vr: bytes, value: bytes, syntax: str, order: str) -> bytes:
    if syntax == IMPLICIT:
        return struct.pack("<HHI", *tag, len(value)) + value
    if vr == b"UL":
        return struct.pack(f"{order}HH2sH", *tag, vr, len(value)) + value
    return struct.pack(f"{order}HH2sHI", *tag, vr, 0, len(value)) + value
