"""DCMTK's storescp as PACS. It keeps every copy that arrives, so that repetitions can be compared."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, dcmread

STORESCP = Path("/usr/bin/storescp")
_START_S = 10.0


@dataclass(frozen=True)
class Arrived:
    """One file that the PACS holds."""

    path: Path
    dataset: Dataset


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether something accepts connections on `port`."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Pacs:
    """`storescp` that writes each data set into `folder` exactly as received, under a name of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._seen: dict[Path, str] = {}

    def start(self) -> None:
        """Listen; returns when associations are accepted. May be called again after `stop`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        options = ["--accept-all", "--promiscuous", "--bit-preserving", "--unique-filenames", "--fork"]
        options += ["-pdu", "131072", "-aet", "PACS", "--output-directory", str(self.folder)]
        with (self.folder.parent / "storescp.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(STORESCP), *options, str(self.port)],
                # Without it DCMTK takes about 20 images a second on the loopback interface.
                env={**os.environ, "TCP_NODELAY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the campaign alone
            )
        end = time.monotonic() + _START_S
        while not listens(self.port) or self._process.poll() is not None:
            if time.monotonic() > end or self._process.poll() is not None:
                raise RuntimeError(f"storescp does not listen; see {self.folder.parent / 'storescp.log'}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop listening and drop all associations; what has arrived stays."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL in the middle of whatever it does, with all its associations."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        """Send a signal to the process and its children, each of which has the listening socket, too."""
        if self._process is None:
            return
        os.killpg(self._process.pid, number)
        self._process.wait()
        self._process = None
        while listens(self.port):
            time.sleep(0.01)

    def arrived(self, study_instance_uid: str) -> dict[str, list[Arrived]]:
        """Every copy of every object of one study, by SOP Instance UID."""
        found: dict[str, list[Arrived]] = defaultdict(list)
        for path in sorted(path for path in self.folder.iterdir() if path.is_file()):
            if self._study_of(path) == study_instance_uid:
                dataset = dcmread(path)
                found[str(dataset.SOPInstanceUID)].append(Arrived(path, dataset))
        return dict(found)

    def _study_of(self, path: Path) -> str:
        if path not in self._seen:
            header = dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
            self._seen[path] = str(header.StudyInstanceUID)
        return self._seen[path]
