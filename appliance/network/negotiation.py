"""Which presentation contexts a scanner is offered: every storage class, its usable syntaxes in our order.

pynetdicom's unrestricted mode is never used: it takes whatever syntax the peer lists first, private ones
included, and mistakes other services for storage.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable

from pydicom.uid import UID
from pynetdicom import build_context
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import register_uid, uid_to_service_class

# Uncompressed before lossless before lossy (as the scanner compressed it), and the common before the rare.
# Data sets pass through untouched, so every syntax of a stored object is usable, retired ones included.
# Never: JPIP, whose pixels lie elsewhere, SMPTE streams, and private ones.
PREFERRED_SYNTAXES = (
    "1.2.840.10008.1.2.1",  # Explicit VR Little Endian
    "1.2.840.10008.1.2",  # Implicit VR Little Endian
    "1.2.840.10008.1.2.1.99",  # Deflated Explicit VR Little Endian
    "1.2.840.10008.1.2.2",  # Explicit VR Big Endian (retired)
    "1.2.840.10008.1.2.1.98",  # Encapsulated Uncompressed Explicit VR Little Endian
    "1.2.840.10008.1.2.8.1",  # Deflated Image Frame Compression
    "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.70",  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.57",  # JPEG lossless
    "1.2.840.10008.1.2.5",  # RLE lossless
    "1.2.840.10008.1.2.4.201",  # HTJ2K lossless
    "1.2.840.10008.1.2.4.202",  # HTJ2K lossless, RPCL
    "1.2.840.10008.1.2.4.92",  # JPEG 2000 part 2 lossless
    *(f"1.2.840.10008.1.2.4.{number}" for number in (58, 65, 66)),  # JPEG lossless (retired)
    "1.2.840.10008.1.2.4.50",  # JPEG baseline
    "1.2.840.10008.1.2.4.51",  # JPEG extended
    "1.2.840.10008.1.2.4.81",  # JPEG-LS near-lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.93",  # JPEG 2000 part 2
    "1.2.840.10008.1.2.4.203",  # HTJ2K
    *(f"1.2.840.10008.1.2.4.{number}" for number in (52, 53, 54, 55, 56)),  # JPEG (retired)
    *(f"1.2.840.10008.1.2.4.{number}" for number in range(59, 65)),  # JPEG hierarchical (retired)
    "1.2.840.10008.1.2.4.100",  # MPEG2 main profile, main level
    "1.2.840.10008.1.2.4.101",  # MPEG2 main profile, high level
    "1.2.840.10008.1.2.4.102",  # MPEG-4 AVC/H.264 high profile
    "1.2.840.10008.1.2.4.103",  # MPEG-4 AVC/H.264 BD-compatible
    "1.2.840.10008.1.2.4.104",  # MPEG-4 AVC/H.264 for 2D video
    "1.2.840.10008.1.2.4.105",  # MPEG-4 AVC/H.264 for 3D video
    "1.2.840.10008.1.2.4.106",  # MPEG-4 AVC/H.264 stereo
    *(f"1.2.840.10008.1.2.4.{number}.1" for number in range(100, 107)),  # MPEG2 and MPEG-4, fragmentable
    "1.2.840.10008.1.2.4.107",  # HEVC/H.265 main profile
    "1.2.840.10008.1.2.4.108",  # HEVC/H.265 main 10 profile
    "1.2.840.10008.1.2.4.110",  # JPEG XL lossless
    "1.2.840.10008.1.2.4.111",  # JPEG XL JPEG recompression
    "1.2.840.10008.1.2.4.112",  # JPEG XL
)

_STORAGE_ROOT = "1.2.840.10008.5.1.4.1.1."
_registering = threading.Lock()


def is_storage(abstract_syntax: UID) -> bool:
    """Whether a proposed abstract syntax is a storage class: known, retired, future or private."""
    service = uid_to_service_class(abstract_syntax)
    if service is StorageServiceClass:
        return True
    unknown = service is ServiceClass
    return unknown and (abstract_syntax.is_private or abstract_syntax.startswith(_STORAGE_ROOT))


def storage_contexts(proposed: Iterable[PresentationContext]) -> list[PresentationContext]:
    """The storage contexts to support for one association, out of what the peer proposes.

    Several proposals for one class, each with a syntax of its own, are looked at together. A class
    of which no syntax is usable is still listed, so that the peer is told "transfer syntaxes not
    supported" (PS3.8 9.3.3.2 result 4).
    """
    offered: dict[UID, set[str]] = {}
    for context in proposed:
        if context.abstract_syntax is not None:
            offered.setdefault(context.abstract_syntax, set()).update(context.transfer_syntax)
    supported = []
    for abstract_syntax, syntaxes in offered.items():
        if not is_storage(abstract_syntax):
            continue
        _register(abstract_syntax)
        usable = [syntax for syntax in PREFERRED_SYNTAXES if syntax in syntaxes]
        supported.append(build_context(abstract_syntax, usable or list(PREFERRED_SYNTAXES)))
    return supported


def _register(abstract_syntax: UID) -> None:
    """Make pynetdicom dispatch an unknown class to the storage service; else the peer gets no answer."""
    with _registering:
        if uid_to_service_class(abstract_syntax) is ServiceClass:
            keyword = "Storage_" + re.sub(r"\W", "_", abstract_syntax)
            register_uid(abstract_syntax, keyword, StorageServiceClass)
