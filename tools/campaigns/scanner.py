"""A scanner that writes down exactly which images were acknowledged, and never gives up on the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, _config

# Send files as they are: what arrives is then to be compared byte by byte.
_config.STORE_SEND_CHUNKED_DATASET = True

_NEXT_ASSOCIATION_S = 0.1
_SUCCESS = 0x0000


@dataclass(frozen=True)
class Series:
    """One series on disk. `images` maps SOP Instance UID to file, in the order in which they are sent."""

    study_instance_uid: str
    series_instance_uid: str
    images: dict[str, Path]


def new_series(template: Sequence[Path], folder: Path) -> Series:
    """Copy the images of `template` (explicit little endian) into `folder` as another study."""
    folder.mkdir(parents=True)
    study, series, frame = generate_uid(None), generate_uid(None), generate_uid(None)
    images = {}
    for path in template:
        image = dcmread(path)
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid(None)
        image.save_as(folder / path.name, enforce_file_format=True)
        images[str(image.SOPInstanceUID)] = folder / path.name
    return Series(str(study), str(series), images)


def data_set_bytes(path: Path) -> bytes:
    """What follows group 2 in a file (PS3.10 section 7.1)."""
    content = path.read_bytes()
    # Preamble (128), prefix (4), then (0002,0000) UL of 4 bytes: tag, VR, length, value.
    if content[128:132] != b"DICM" or content[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        return b""
    return content[144 + int.from_bytes(content[140:144], "little") :]


class Scanner:
    """Sends one series to the appliance, in as many associations as it takes until all is acknowledged."""

    def __init__(self, port: int, series: Series, *, patience_s: float) -> None:
        self._port = port
        self._series = series
        self._patience_s = patience_s
        self._entity = AE("SCANNER")
        self._entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        self._entity.acse_timeout = self._entity.dimse_timeout = self._entity.network_timeout = 15
        self._entity.connection_timeout = 2
        self._thread = threading.Thread(target=self._send_all, name="scanner", daemon=True)
        self.acknowledged: set[str] = set()
        self.refusals: list[str] = []
        self.associations = 0

    def start(self) -> None:
        """Begin to send in the background."""
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether every image was acknowledged."""
        return len(self.acknowledged) == len(self._series.images)

    def join(self) -> None:
        """Wait until all is acknowledged or patience is at its end."""
        self._thread.join()

    def _send_all(self) -> None:
        end = time.monotonic() + self._patience_s
        while not self.is_done and time.monotonic() < end:
            if not self._send_rest():
                time.sleep(_NEXT_ASSOCIATION_S)

    def _send_rest(self) -> bool:
        """Send what is not acknowledged over one association; whether one could be opened."""
        association = self._entity.associate("127.0.0.1", self._port, ae_title="EDGE")
        if not association.is_established:
            return False
        self.associations += 1
        for uid, path in self._series.images.items():
            if uid in self.acknowledged:
                continue
            try:
                status = association.send_c_store(path)
            except RuntimeError:  # the association ended between two images
                break
            if "Status" not in status:  # the association ended before the answer came
                break
            if status.Status != _SUCCESS:
                self.refusals.append(f"0x{status.Status:04X}")
                break
            self.acknowledged.add(uid)
        if association.is_established:
            association.release()
        return True
