"""A scanner that writes down exactly which images were acknowledged, and never gives up on the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import generate_uid

from tools.campaigns.raw_sender import RawSender, Refused, read_object

_NEXT_ASSOCIATION_S = 0.1
_ANSWER_S = 15.0
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


class Scanner:
    """Sends one series to the appliance, in as many associations as it takes until all is acknowledged."""

    def __init__(self, port: int, series: Series, *, patience_s: float) -> None:
        self._port = port
        self._objects = {uid: read_object(path) for uid, path in series.images.items()}
        self._patience_s = patience_s
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
        return len(self.acknowledged) == len(self._objects)

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
        contexts = {one.context for one in self._objects.values()}
        try:
            sender = RawSender(self._port, contexts, timeout_s=_ANSWER_S)
        except (OSError, Refused):
            return False
        self.associations += 1
        try:
            with sender:
                for uid, one in self._objects.items():
                    if uid in self.acknowledged:
                        continue
                    status = sender.store(one)
                    if status != _SUCCESS:
                        self.refusals.append(f"0x{status:04X}")
                        break
                    self.acknowledged.add(uid)
        except (OSError, Refused):
            pass  # the association ended before the answer came
        return True
