"""Real systems at the far ends: DCMTK's storescp and Orthanc as PACS, DCMTK's storescu as scanner."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydicom import Dataset, dcmread

from tests.support.processes import DCMTK_ENVIRONMENT, free_port, listens, program, stop, wait_until


class StoreScp:
    """DCMTK's `storescp`, which writes every data set into `folder` exactly as it was received.

    A later object with the same UID replaces the former, or lies beside it with `every_copy`. `faults` are
    options that make it misbehave; with them it tells of each association in `log`. `only` are the names that
    DCMTK has for the SOP classes it accepts; without them it accepts all.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ae_title: str = "PACS",
        port: int | None = None,
        every_copy: bool = False,
        faults: Sequence[str] = (),
        only: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.ae_title = ae_title
        self._names = "--unique-filenames" if every_copy else "--default-filenames"
        self.port = port or free_port()
        self.log = folder.parent / f"{folder.name}.log"
        self.faults = tuple(faults)
        self._only = tuple(only)
        self._program = program("/usr/bin/storescp", "dcmtk")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> StoreScp:
        """Listen; returns when associations are accepted. May be called again after `stop`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        options = ["--accept-all", "--promiscuous"] if not self._only else ["-xf", self._profile(), "Only"]
        options += ["--bit-preserving", "--fork", "-pdu", "131072"]
        options += [self._names]
        options += ["-aet", self.ae_title, "--output-directory", str(self.folder)]
        options += ["--verbose", *self.faults] if self.faults else []
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, *options, str(self.port)],
                env=DCMTK_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: listens(self.port), 10, "storescp listens")
        return self

    def _profile(self) -> str:
        classes = enumerate(("VerificationSOPClass", *self._only), 1)
        lines = [
            "[[TransferSyntaxes]]",
            "[Uncompressed]",
            "TransferSyntax1 = LittleEndianExplicit",
            "TransferSyntax2 = LittleEndianImplicit",
            "[[PresentationContexts]]",
            "[Only]",
            *(f"PresentationContext{number} = {name}\\Uncompressed" for number, name in classes),
            "[[Profiles]]",
            "[Only]",
            "PresentationContexts = Only",
        ]
        path = self.folder.parent / f"{self.folder.name}.cfg"
        path.write_text("\n".join(lines) + "\n")
        return str(path)

    def stop(self) -> None:
        """Stop listening; what has arrived stays in `folder`."""
        if self._process is not None:
            stop(self._process)
            self._process = None

    @property
    def files(self) -> list[Path]:
        """The files that have arrived, in order of their names."""
        return sorted(path for path in self.folder.iterdir() if path.is_file())

    def datasets(self) -> dict[str, Dataset]:
        """What has arrived, by SOP Instance UID."""
        return {str(dataset.SOPInstanceUID): dataset for dataset in map(dcmread, self.files)}


class Orthanc:
    """An Orthanc server with its own configuration, storage and ports in `folder`.

    `knows` are the ports on this machine of the peers that it may call, by AE title.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ae_title: str = "PACS",
        knows: Mapping[str, int] = MappingProxyType({}),
        port: int | None = None,
    ) -> None:
        self.folder = folder
        self._knows = knows
        self.ae_title = ae_title
        self.port = port or free_port()
        self.http_port = free_port()
        self._program = program("/usr/sbin/Orthanc", "orthanc")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Orthanc:
        """Start the server; returns when it answers on HTTP and DICOM."""
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "Name": "test",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "index"),
            "Plugins": [],
            "DicomAet": self.ae_title,
            "DicomPort": self.port,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAlwaysAllowStore": True,
            "UnknownSopClassAccepted": True,
            "OverwriteInstances": False,
            "DicomModalities": {title: [title, "127.0.0.1", port] for title, port in self._knows.items()},
        }
        configuration = self.folder / "orthanc.json"
        configuration.write_text(json.dumps(settings))
        with (self.folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: listens(self.http_port) and listens(self.port), 30, "Orthanc listens")
        return self

    def stop(self) -> None:
        """Stop the server; its storage stays in `folder`."""
        if self._process is not None:
            stop(self._process)
            self._process = None

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=30) as answer:
            body: bytes = answer.read()
            return body

    def json(self, path: str) -> Any:
        """Answer of Orthanc's REST interface to GET `path`."""
        return json.loads(self._get(path))

    def post(self, path: str, body: bytes) -> Any:
        """Answer of Orthanc's REST interface to POST `path`."""
        url = f"http://127.0.0.1:{self.http_port}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=60) as answer:
            return json.loads(answer.read())

    def save_all(self, folder: Path) -> list[Path]:
        """Write every stored instance, as Orthanc serves it, into `folder`; returns the files."""
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for identifier in sorted(self.json("/instances")):
            path = folder / f"{identifier}.dcm"
            path.write_bytes(self._get(f"/instances/{identifier}/file"))
            written.append(path)
        return written


def send(files: Iterable[Path], port: int, *, called: str = "EDGE", calling: str = "SCANNER") -> None:
    """Send `files` with DCMTK's `dcmsend`, without conversion, failing the test at the first refusal."""
    command = [program("/usr/bin/dcmsend", "dcmtk"), "--decompress-never", "-aet", calling, "-aec", called]
    answer = subprocess.run(
        [*command, "127.0.0.1", str(port), *map(str, files)],
        env=DCMTK_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
