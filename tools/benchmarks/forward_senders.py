"""The senders of the comparison. Each is made ready with the files first; what is measured begins at `go`."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from tools.benchmarks.receivers import ROOT, Appliance, Orthanc, free_port
from tools.benchmarks.sender import DCMTK_ENVIRONMENT, NotSent, send
from tools.benchmarks.slices import Slices

_STOP_S = 60.0
_ORTHANC_S = 300.0

Go = Callable[[], None]
"""Begin to send; may return before the end."""
Sender = Callable[[Path, Slices, int], AbstractContextManager[Go]]
"""`sender(folder, slices, port)` is ready to send the slices to a storage SCP at `port` while it is open."""


def appliance(settings: Mapping[str, Any]) -> Sender:
    """The appliance with `settings` for its section `delivery`.

    It takes the slices in while nobody sends, so that the whole backlog waits when its forwarder starts.
    """

    @contextmanager
    def ready(folder: Path, slices: Slices, port: int) -> Iterator[Go]:
        pacs = {"ae_title": "STORESCP", "host": "127.0.0.1", "port": port}
        receiver = Appliance(folder, settings={"destinations": {"pacs": pacs}, "delivery": settings})
        with receiver:
            send(slices.paths, receiver.port, called=receiver.title)
            receiver.settle(len(slices.paths))
        started: list[subprocess.Popen[bytes]] = []
        with (folder / "log").open("ab") as log:
            try:
                yield lambda: started.append(
                    subprocess.Popen(receiver.command("forward"), env=_environment(), stderr=log)
                )
            finally:
                for process in started:
                    process.terminate()
                    process.wait(_STOP_S)

    return ready


@contextmanager
def stock_pynetdicom(folder: Path, slices: Slices, port: int) -> Iterator[Go]:
    """pynetdicom's `send_c_store`, in a process of its own."""
    program = [sys.executable, "-m", "tools.benchmarks.forward_pynetdicom", str(port)]

    def go() -> None:
        done = subprocess.run([*program, *map(str, slices.paths)], env=_environment(), check=False)
        if done.returncode != 0:
            raise NotSent("pynetdicom did not get every image stored")

    yield go


@contextmanager
def dcmsend(folder: Path, slices: Slices, port: int) -> Iterator[Go]:
    """DCMTK's `dcmsend`."""

    def go() -> None:
        send(slices.paths, port, called="STORESCP")

    yield go


@contextmanager
def orthanc(folder: Path, slices: Slices, port: int) -> Iterator[Go]:
    """Orthanc's store to a modality, of a study that it holds."""
    http_port = free_port()
    modality = {"AET": "STORESCP", "Host": "127.0.0.1", "Port": port}
    settings = {
        "HttpServerEnabled": True,
        "HttpPort": http_port,
        "AuthenticationEnabled": False,
        "DicomModalities": {"pacs": modality},
    }

    def request(path: str, body: bytes | None = None) -> Any:
        url = f"http://127.0.0.1:{http_port}{path}"
        with urllib.request.urlopen(url, body, timeout=_ORTHANC_S) as answer:
            return json.load(answer)

    with Orthanc(folder, settings=settings) as server:
        send(slices.paths, server.port, called=server.title)

        def go() -> None:
            order = {"Resources": request("/studies"), "Synchronous": True}
            request("/modalities/pacs/store", json.dumps(order).encode())

        yield go


def _environment() -> dict[str, str]:
    return {**DCMTK_ENVIRONMENT, "PYTHONPATH": str(ROOT)}
