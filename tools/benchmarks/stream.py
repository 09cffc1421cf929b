"""A scanner that makes up its pixels while it sends: objects of any size, and no file of that size."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from itertools import repeat
from struct import pack

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian

from tools.campaigns.raw_sender import RawSender, Refused

FRAME_BYTES = 512 * 512 * 2
_CONTEXT = (str(EnhancedCTImageStorage), str(ExplicitVRLittleEndian))
_PIECE_BYTES = 131066  # the fragment of a whole PDU
_TIMEOUT_S = 600.0
_CALLING = "STREAM"


class Stream:
    """One association for enhanced CT objects; requested when it is made."""

    def __init__(self, port: int, called: str) -> None:
        self._sender = RawSender(port, [_CONTEXT], called=called, calling=_CALLING, timeout_s=_TIMEOUT_S)

    def store(self, frames: int) -> None:
        """Send one object of `frames` frames of 512 KiB and wait for its success.

        Raises:
            Refused: it was not stored.
        """
        uid = f"2.25.{uuid.uuid4().int}"
        status = self._sender.stream(_CONTEXT[0], uid, _CONTEXT[1], _data_set(uid, frames))
        if status != 0x0000:
            raise Refused(f"status 0x{status:04X}")

    def close(self) -> None:
        """Release the association."""
        self._sender.release()


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


def _data_set(uid: str, frames: int) -> Iterator[bytes]:
    """The encoded data set in pieces; its pixels are zeros."""
    yield _head(uid, frames)
    whole, rest = divmod(frames * FRAME_BYTES, _PIECE_BYTES)
    yield from repeat(bytes(_PIECE_BYTES), whole)
    yield bytes(rest)


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
    return encoded.getvalue() + pack("<HH2sxxI", 0x7FE0, 0x0010, b"OW", frames * FRAME_BYTES)
