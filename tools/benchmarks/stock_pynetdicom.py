"""A receiver of pynetdicom as its documentation shows it, made durable.

`python -m tools.benchmarks.stock_pynetdicom FOLDER PORT`
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import threading
from pathlib import Path

from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event

PDU_BYTES = 131072


def serve(folder: Path, port: int) -> None:
    """Write every object into `folder`, flush file and folder, answer; until SIGTERM."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    entity = AE(ae_title="STOCK")
    entity.maximum_pdu_size = PDU_BYTES
    entity.supported_contexts = AllStoragePresentationContexts
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def store(event: Event) -> int:
        request = event.request
        assert isinstance(request, C_STORE)
        with (folder / f"{request.AffectedSOPInstanceUID}.dcm").open("wb") as file:
            file.write(event.encoded_dataset(include_meta=True))
            file.flush()
            os.fsync(file.fileno())
        os.fsync(directory)
        return 0x0000

    entity.start_server(
        ("127.0.0.1", port),
        block=False,
        evt_handlers=[(evt.EVT_C_STORE, store), (evt.EVT_CONN_OPEN, answer_at_once)],
    )
    stopping.wait()
    entity.shutdown()


def answer_at_once(event: Event) -> None:
    """Turn Nagle's algorithm off, as for every other receiver of the comparison."""
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int)
    arguments = parser.parse_args()
    serve(arguments.folder, arguments.port)
