"""Durable files. `put` returns when the bytes and the name are on stable storage, or raises.

Layout of a spool below its root: `incoming/` holds files that are being written, `00/` … `ff/` the
finished ones as `<key>.dcm`. A key names one put, never a content, so that two objects never share a file.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from appliance.domain.errors import TryAgain

_SUFFIX = ".dcm"


class Spool:
    """A folder of durable files, each found by its key."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._incoming = root / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)
        for number in range(256):
            (root / f"{number:02x}").mkdir(exist_ok=True)
        _sync_directory(root)

    def put(self, parts: Iterable[bytes]) -> str:
        """Write one file and return its key once file and directory are on stable storage.

        Raises:
            TryAgain: the file system refused; nothing is left behind. The cause is the OSError.
        """
        key = uuid.uuid4().hex
        target = self.path(key)
        draft = self._incoming / f"{key}.part"
        try:
            with draft.open("xb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            draft.rename(target)
            _sync_directory(target.parent)
        except OSError as error:
            for leftover in (draft, target):
                with suppress(OSError):
                    leftover.unlink()
            raise TryAgain(f"the spool {self.root} cannot be written: {error.strerror}") from error
        return key

    def path(self, key: str) -> Path:
        """Where the file of `key` lies."""
        return self.root / key[:2] / f"{key}{_SUFFIX}"

    def stored_keys(self) -> Iterator[str]:
        """The keys of all finished files, in no order."""
        for folder in self.root.iterdir():
            if folder != self._incoming and folder.is_dir():
                for file in folder.iterdir():
                    yield file.name.removesuffix(_SUFFIX)

    def remove(self, key: str) -> None:
        """Remove a file that nothing refers to; one that is gone already is fine."""
        self.path(key).unlink(missing_ok=True)

    def clear_unfinished(self) -> int:
        """Remove what a process that died had not finished writing: none of it was acknowledged.

        To be called before the only writer of this spool starts. Returns how many files there were.
        """
        unfinished = list(self._incoming.iterdir())
        for file in unfinished:
            file.unlink(missing_ok=True)
        return len(unfinished)

    def free_bytes(self) -> int:
        """How much room the file system has left for us."""
        return shutil.disk_usage(self.root).free


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
