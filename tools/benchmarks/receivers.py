"""The receivers of the comparison: each as its own processes, with an empty folder for what it gets."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import yaml

from tools.benchmarks.processes import has_children, wait_for_listeners
from tools.benchmarks.sender import DCMTK_ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]
STORESCP = Path("/usr/bin/storescp")
ORTHANC = Path("/usr/sbin/Orthanc")
_PDU_BYTES = 131072
_START_S = 120.0
_STOP_S = 60.0
_SETTLE_S = 60.0


class NotStarted(Exception):
    """A receiver does not listen; the message ends with its last words."""


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Receiver(ABC):
    """Runs while it is open. `folder` is its own and may be removed afterwards."""

    title: ClassVar[str]
    """Its AE title."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self._processes: list[subprocess.Popen[bytes]] = []

    @abstractmethod
    def commands(self) -> list[list[str]]:
        """The command line of each of its processes."""

    @abstractmethod
    def stored(self) -> int:
        """How many images it has stored."""

    @property
    def process_ids(self) -> list[int]:
        """Its processes, without their children."""
        return [process.pid for process in self._processes]

    def __enter__(self) -> Receiver:
        commands = self.commands()
        log = self.folder / "log"
        for command in commands:
            with log.open("ab") as sink:
                self._processes.append(
                    subprocess.Popen(
                        command,
                        cwd=self.folder,
                        env={**DCMTK_ENVIRONMENT, "PYTHONPATH": str(ROOT)},
                        stdin=subprocess.DEVNULL,
                        stdout=sink,
                        stderr=sink,
                    )
                )
        if not wait_for_listeners(self.port, len(commands), _START_S):
            self._stop()
            words = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise NotStarted(f"{commands[0][0]} does not listen; its log ends:\n{words}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def settle(self, images: int) -> None:
        """Wait until the work behind the answers is done: `images` are stored, no child is at work.

        Raises:
            RuntimeError: it does not come to that.
        """
        end = time.monotonic() + _SETTLE_S
        while self.stored() < images or has_children(self.process_ids):
            if time.monotonic() > end:
                raise RuntimeError(f"{type(self).__name__} stored {self.stored()} of {images} images")
            time.sleep(0.05)

    def _stop(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()


class Appliance(Receiver):
    """The appliance's receiving processes as users run them, with nowhere to forward to.

    `settings` adds sections to its configuration or replaces them, by name.
    """

    title = "EDGE"

    def __init__(
        self,
        folder: Path,
        *,
        processes: int = 1,
        durability: str = "fsync",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(folder)
        self._count = processes
        self._config = folder / "site.yaml"
        self._journal = folder / "var" / "journal.sqlite"
        content = {
            "station": {"ae_title": self.title},
            "listener": {
                "host": "127.0.0.1",
                "port": self.port,
                "processes": processes,
                "maximum_associations": 64,
                "maximum_associations_per_peer": 64,
            },
            "storage": {"path": "./var", "durability": durability},
            "log": {"level": "warning"},
            **(settings or {}),
        }
        self._config.write_text(yaml.safe_dump(content, sort_keys=False))

    def commands(self) -> list[list[str]]:
        return [self.command("receive", "--number", str(number)) for number in range(1, self._count + 1)]

    def command(self, name: str, *arguments: str) -> list[str]:
        """The command line of `appliance NAME --config ...`."""
        return [sys.executable, "-m", "appliance", name, "--config", str(self._config), *arguments]

    @property
    def journal_path(self) -> Path:
        """The journal's file."""
        return self._journal

    def stored(self) -> int:
        with closing(sqlite3.connect(f"file:{self._journal}?mode=ro", uri=True)) as connection:
            # The ids count up: faster than count(*) in a journal with a million rows.
            return int(connection.execute("SELECT coalesce(max(id), 0) FROM instances").fetchone()[0])


class StockPynetdicom(Receiver):
    """pynetdicom's own receiver, whose handler flushes file and folder."""

    title = "STOCK"

    def commands(self) -> list[list[str]]:
        files = self.folder / "files"
        files.mkdir(exist_ok=True)
        return [[sys.executable, "-m", "tools.benchmarks.stock_pynetdicom", str(files), str(self.port)]]

    def stored(self) -> int:
        return _count(self.folder / "files")


class Storescp(Receiver):
    """DCMTK's receiver, which writes the bytes as they come and never flushes."""

    title = "STORESCP"

    def __init__(self, folder: Path, *, fork: bool = False) -> None:
        super().__init__(folder)
        self._options = ["--fork"] if fork else []

    def commands(self) -> list[list[str]]:
        files = self.folder / "files"
        files.mkdir(exist_ok=True)
        options = ["--bit-preserving", "--max-pdu", str(_PDU_BYTES), *self._options]
        return [[str(STORESCP), *options, "--output-directory", str(files), str(self.port)]]

    def stored(self) -> int:
        return _count(self.folder / "files")


class Orthanc(Receiver):
    """Orthanc with its SQLite index, as Debian ships it, without plugins and HTTP; `settings` change that."""

    title = "ORTHANC"

    def __init__(self, folder: Path, *, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(folder)
        self._settings = settings or {}

    def commands(self) -> list[list[str]]:
        settings = {
            "Name": self.title,
            "DicomAet": self.title,
            "DicomPort": self.port,
            "HttpServerEnabled": False,
            "StorageDirectory": str(self.folder / "files"),
            "IndexDirectory": str(self.folder / "index"),
            **self._settings,
        }
        config = self.folder / "orthanc.json"
        config.write_text(json.dumps(settings))
        return [[str(ORTHANC), str(config)]]

    def stored(self) -> int:
        # Its index is locked while it runs.
        return sum(1 for path in (self.folder / "files").rglob("*") if path.is_file())


def _count(folder: Path) -> int:
    with os.scandir(folder) as entries:
        return sum(1 for _ in entries)
