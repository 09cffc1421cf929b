"""A small PACS: `python -m tools.demonstrate.pacs FOLDER PORT` keeps everything that it is sent.

Each object becomes FOLDER/<SOP Instance UID>.dcm, its data set exactly as it was received. A second copy
of an object is kept beside the first as <SOP Instance UID>.again<n>.dcm, so that nothing is hidden.
"""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, _config, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event

STORED = 0x0000
CANNOT_STORE = 0xA700


class Archive:
    """The folder and the rule that a file appears in it whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def store(self, event: Event) -> int:
        """Handle a C-STORE request; returns its status (PS3.4 Table B.2-1)."""
        request = event.request
        assert isinstance(request, C_STORE)
        uid = str(request.AffectedSOPInstanceUID)
        content = event.encoded_dataset(include_meta=True)
        with self._lock:
            path = self._folder / f"{uid}.dcm"
            copies = 0
            while path.exists():
                copies += 1
                path = self._folder / f"{uid}.again{copies}.dcm"
            unfinished = path.with_suffix(".part")
            try:
                unfinished.write_bytes(content)
                unfinished.replace(path)
            except OSError:
                return CANNOT_STORE
        return STORED


def serve(folder: Path, port: int) -> None:
    """Accept every storage class and transfer syntax on the loopback interface until SIGTERM."""
    _config.UNRESTRICTED_STORAGE_SERVICE = True
    _config.LOG_HANDLER_LEVEL = "none"
    entity = AE(ae_title="PACS")
    entity.maximum_pdu_size = 131072
    for context in AllStoragePresentationContexts:
        if context.abstract_syntax is not None:
            entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
    folder.mkdir(parents=True, exist_ok=True)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, Archive(folder).store)]
    )
    print("ready", flush=True)  # noqa: T201
    stopping.wait()
    entity.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Keep everything that is sent over DICOM.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int)
    arguments = parser.parse_args()
    serve(arguments.folder, arguments.port)
