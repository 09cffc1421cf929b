"""Durable files: once `Draft.commit` returns, the bytes and the name survive a power cut.

Making a new name durable costs a second flush of the disk. So names are made ahead: a batch of empty
files is created and its folder is flushed once, and each draft takes the next one. What is left for the
moment in which a scanner waits is one flush of the file itself.

An unfinished draft therefore has a name like a finished file. What tells them apart is the completion
record in the DICOM preamble (PS3.10 7.1 leaves its 128 bytes to the application): lengths and checksums of
what follows, written last. A file without a valid one was never acknowledged.

Layout: `<batch>/<batch>-<number>.dcm`, and `<batch>/lock`, which the writing process holds until all drafts
of the batch have ended, so that another process leaves them alone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import threading
import uuid
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import xxhash

from appliance.domain.errors import TryAgain

Durability = Literal["fsync", "os"]
"""`fsync`: survives a power cut. `os`: survives the death of a process, but not of the machine."""

_SUFFIX = ".dcm"
_LOCK = "lock"
_UNREADY = ".unready"
_BATCH = 64
_LOW = 32
_READ_BYTES = 1 << 20

# Magic, length and CRC-32 of the header behind the preamble, length and XXH3-128 of the content behind that.
_RECORD = struct.Struct("<8sIIQ16s")
_MAGIC = b"EDGESPL2"
PREAMBLE_BYTES = 128


@dataclass(frozen=True)
class Content:
    """What lies behind the header of a finished file: where it begins, how long it is, its XXH3-128."""

    start: int
    size: int
    checksum: str


@dataclass
class _Batch:
    """The lock of a folder of names, and how many drafts under these names have not ended yet."""

    lock: int
    drafts: int = _BATCH


class Draft:
    """One file that is being written: preamble, header, content. End it with `commit` or `abandon`."""

    def __init__(self, spool: Spool, key: str, header: bytes) -> None:
        self.key = key
        self.path = spool.path(key)
        self._spool = spool
        self._header = header
        self._size = 0
        self._hash = xxhash.xxh3_128()
        self._descriptor = os.open(self.path, os.O_RDWR)
        try:
            self._append(bytes(PREAMBLE_BYTES) + header)
        except OSError:
            self.abandon()
            raise

    @property
    def content(self) -> Content:
        """What has been written so far."""
        return Content(PREAMBLE_BYTES + len(self._header), self._size, self._hash.hexdigest())

    def write(self, data: bytes | memoryview) -> None:
        """Append to the content.

        Raises:
            TryAgain: the file system refused; the draft can only be abandoned.
        """
        try:
            self._append(data)
        except OSError as error:
            raise self._spool.trouble(error) from error
        self._size += len(data)
        self._hash.update(data)

    def _append(self, data: bytes | memoryview) -> None:
        written = 0
        while written < len(data):
            written += os.write(self._descriptor, data[written:] if written else data)

    def commit(self) -> str:
        """Make the file durable and return its key.

        Raises:
            TryAgain: the file system refused; the draft was abandoned.
        """
        header = self._header
        record = _RECORD.pack(_MAGIC, len(header), zlib.crc32(header), self._size, self._hash.digest())
        try:
            os.pwrite(self._descriptor, record.ljust(PREAMBLE_BYTES, b"\0"), 0)
            if self._spool.durability == "fsync":
                os.fdatasync(self._descriptor)
        except OSError as error:
            self.abandon()
            raise self._spool.trouble(error) from error
        os.close(self._descriptor)
        self._spool.release(self.key)
        return self.key

    def abandon(self) -> None:
        """Remove the file."""
        os.close(self._descriptor)
        self._spool.remove(self.key)
        self._spool.release(self.key)


class Spool:
    """A folder of durable files, each found by its key. A key names one draft, never a content."""

    def __init__(self, root: Path, durability: Durability = "fsync") -> None:
        self.root = root
        self.durability = durability
        root.mkdir(parents=True, exist_ok=True)
        self.names_run_low = threading.Event()
        self._names: deque[str] = deque()
        self._making = threading.Lock()
        self._counting = threading.Lock()
        self._batches: dict[str, _Batch] = {}

    def draft(self, header: bytes = b"") -> Draft:
        """Begin a file with what stands between preamble and content.

        Raises:
            TryAgain: the file system refused.
        """
        try:
            return Draft(self, self._take_name(), header)
        except OSError as error:
            raise self.trouble(error) from error

    def prepare(self) -> None:
        """Make names ahead, if they run low: for a thread for which nobody waits.

        Raises:
            TryAgain: the file system refused.
        """
        self.names_run_low.clear()
        try:
            with self._making:
                if len(self._names) < _LOW:
                    self._make_names()
        except OSError as error:
            raise self.trouble(error) from error

    def put(self, parts: Iterable[bytes | memoryview]) -> str:
        """Write a whole file, all but its preamble, and return its key once it is durable.

        Raises:
            TryAgain: the file system refused; nothing is left behind.
        """
        draft = self.draft()
        try:
            for part in parts:
                draft.write(part)
        except BaseException:
            draft.abandon()
            raise
        return draft.commit()

    def path(self, key: str) -> Path:
        """Where the file of `key` lies."""
        return self.root / key.partition("-")[0] / f"{key}{_SUFFIX}"

    def remove(self, key: str) -> None:
        """Remove a file that nothing refers to; one that is gone already is fine."""
        self.path(key).unlink(missing_ok=True)

    def purge(self, keys: Iterable[str]) -> None:
        """Remove finished files, and folders that are empty then, so that they stay away after a power cut.

        Raises:
            TryAgain: the file system refused; some may be gone.
        """
        try:
            folders = set()
            for key in keys:
                self.remove(key)
                folders.add(self.path(key).parent)
            for folder in folders:
                self._tidy(folder)
            if self.durability == "fsync":
                _sync_directory(self.root)
        except OSError as error:
            raise self.trouble(error) from error

    def _tidy(self, folder: Path) -> None:
        # Another process that starts at the same time tidies as well.
        with suppress(FileNotFoundError):
            if [file.name for file in folder.iterdir()] == [_LOCK] and not _is_held(folder / _LOCK):
                shutil.rmtree(folder)
            elif self.durability == "fsync":
                _sync_directory(folder)

    def release(self, key: str) -> None:
        """A draft has ended. The last one of a batch lets go of its lock, lest descriptors run out."""
        name = key.partition("-")[0]
        with self._counting:
            batch = self._batches[name]
            batch.drafts -= 1
            if batch.drafts == 0:
                os.close(self._batches.pop(name).lock)

    def abandoned_keys(self) -> Iterator[str]:
        """The keys of all files that no running process is writing or may still write.

        Whether such a file was finished, `finished` tells. Folders that the caller leaves empty are removed.
        """
        for folder in list(self.root.iterdir()):
            if folder.name in self._batches or folder.suffix == _UNREADY or _is_held(folder / _LOCK):
                continue
            # Another process that starts at the same time tidies as well.
            with suppress(FileNotFoundError):
                for file in list(folder.iterdir()):
                    if file.suffix == _SUFFIX:
                        yield file.stem
                if [file.name for file in folder.iterdir()] == [_LOCK]:
                    shutil.rmtree(folder)

    def finished(self, key: str) -> Content | None:
        """The content of a file if it was committed whole, else None."""
        with self.path(key).open("rb") as file:
            preamble = file.read(PREAMBLE_BYTES)
            if len(preamble) < PREAMBLE_BYTES:
                return None
            magic, header_size, header_crc, size, digest = _RECORD.unpack_from(preamble)
            start = PREAMBLE_BYTES + header_size
            if magic != _MAGIC or os.fstat(file.fileno()).st_size != start + size:
                return None
            if zlib.crc32(file.read(header_size)) != header_crc:
                return None
            actual = xxhash.xxh3_128()
            while chunk := file.read(_READ_BYTES):
                actual.update(chunk)
            return Content(start, size, actual.hexdigest()) if actual.digest() == digest else None

    def free_bytes(self) -> int:
        """How much room the file system has left for us."""
        return shutil.disk_usage(self.root).free

    def trouble(self, error: OSError) -> TryAgain:
        """The error to raise for what the file system said."""
        return TryAgain(f"the spool {self.root} cannot be written: {error.strerror}")

    def _take_name(self) -> str:
        while True:
            try:
                key = self._names.popleft()
            except IndexError:
                with self._making:
                    if not self._names:
                        self._make_names()
                continue
            if len(self._names) < _LOW:
                self.names_run_low.set()
            return key

    def _make_names(self) -> None:
        batch = uuid.uuid4().hex[:16]
        # Nobody may take the batch for abandoned before it is locked.
        folder = (self.root / batch).with_suffix(_UNREADY)
        folder.mkdir()
        lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._batches[batch] = _Batch(lock)
        folder = folder.rename(self.root / batch)
        names = [f"{batch}-{number:04d}" for number in range(_BATCH)]
        for name in names:
            os.close(os.open(self.path(name), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        if self.durability == "fsync":
            _sync_directory(folder)
            _sync_directory(self.root)
        self._names.extend(names)


def _is_held(lock: Path) -> bool:
    with suppress(FileNotFoundError):
        descriptor = os.open(lock, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
