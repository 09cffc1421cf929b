"""Engine files that this appliance built itself, each with a record that is its commit.

An engine holds machine code for the GPU, so one from elsewhere is code from elsewhere. The record names the
key, the size and the SHA-256 of the engine, and is signed (HMAC-SHA256) with a secret that only this
appliance's user can read. It is written last: an engine without a valid record does not exist. `verdict` is
its whole life:

    (nothing) --build--> candidate --parity gate--> active | refused

Layout: `<model>-<key>.engine`, `<model>-<key>.json`, `<model>-<key>.lock`, and `secret`.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from appliance.domain.errors import GiveUp, TryAgain
from appliance.runtime.trt_library import Flavour

Verdict = Literal["candidate", "active", "refused"]
VERDICTS: tuple[Verdict, ...] = ("candidate", "active", "refused")
_SECRET_BYTES = 32
_LARGEST_RECORD = 1 << 20


class NotOurs(GiveUp):
    """The file is damaged, swapped, or was not built by this appliance; it is never loaded."""


@dataclass(frozen=True)
class EngineKey:
    """All that an engine depends on. Another value of any of them means another engine.

    `target` is the GPU: its compute capability for TensorRT-RTX; name, compute capability, number of
    multiprocessors and driver for TensorRT, which picks its kernels by timing them.
    """

    model: str
    model_sha256: str
    flavour: Flavour
    version: str
    target: str
    precision: str
    profiles: str
    builder_revision: int

    @property
    def name(self) -> str:
        """Name of its files, without suffix."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.model}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class EngineRecord:
    """What is known of one engine file. `parity` is the report of the gate, empty before it."""

    key: EngineKey
    size: int
    sha256: str
    built_at: str
    build_s: float
    verdict: Verdict
    parity: dict[str, Any]


class EngineStore:
    """The folder of engines, readable by the appliance's user alone."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, and make it where it is missing.

        Raises:
            GiveUp: others may write the folder, so nothing in it can be trusted.
            TryAgain: it cannot be made.
        """
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            facts = folder.stat()
        except OSError as error:
            raise TryAgain(f"the folder of engines cannot be used: {error}") from error
        if facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
            raise GiveUp(f"{folder} may be written by others: engines in it cannot be trusted")
        self._secret = self._own_secret()

    def path(self, key: EngineKey) -> Path:
        """Where the engine of `key` lies, or would."""
        return self._folder / f"{key.name}.engine"

    @contextmanager
    def building(self, name: str) -> Iterator[bool]:
        """Hold the right to build the engine of that name; False if another process holds it."""
        path = self._folder / f"{name}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            yield False
            return
        try:
            yield True
        finally:
            os.close(descriptor)

    def put(self, record: EngineRecord, plan: bytes) -> None:
        """Keep an engine and its record, durably: afterwards both are there, or neither counts.

        Raises:
            TryAgain: the disk refuses.
        """
        if (len(plan), hashlib.sha256(plan).hexdigest()) != (record.size, record.sha256):
            raise ValueError("the record is that of another engine")
        with suppress(FileNotFoundError):  # the record of an earlier build must not vouch for this one
            self._record_path(record.key.name).unlink()
        self._write(self.path(record.key), plan)
        self.sign(record)

    def sign(self, record: EngineRecord) -> None:
        """Write the record of an engine that is there, in place of the one before.

        Raises:
            TryAgain: the disk refuses.
        """
        content = asdict(record)
        signed = {"record": content, "hmac_sha256": self._signature(content)}
        text = json.dumps(signed, indent=1, sort_keys=True)
        self._write(self._record_path(record.key.name), text.encode())

    def find(self, key: EngineKey) -> EngineRecord | None:
        """The record of `key`, or None if there is no such engine.

        Raises:
            NotOurs: there is a record, but not of this appliance or not of this key.
        """
        try:
            record = self._read_record(key.name)
        except FileNotFoundError:
            return None
        if record.key != key:
            raise NotOurs(f"{key.name}.json is the record of another engine")
        return record

    def read(self, record: EngineRecord) -> bytes:
        """The bytes of an engine, checked against its record.

        Raises:
            NotOurs: the file is missing, has another size or checksum, or belongs to somebody else.
        """
        path = self.path(record.key)
        plan = self._read(path, record.size)
        if len(plan) != record.size:
            raise NotOurs(f"{path.name} is not {record.size} bytes long: it was cut off or swapped")
        if not hmac.compare_digest(hashlib.sha256(plan).hexdigest(), record.sha256):
            raise NotOurs(f"{path.name} has another checksum than its record")
        return plan

    def records(self) -> Iterator[tuple[str, EngineRecord | NotOurs]]:
        """Every record by its name, or why it is refused; then engines that no record vouches for."""
        names = {path.stem for path in self._folder.glob("*.json")}
        names |= {path.stem for path in self._folder.glob("*.engine")}
        for name in sorted(names):
            try:
                yield name, self._read_record(name)
            except FileNotFoundError:
                yield name, NotOurs(f"{name}.engine has no record")
            except NotOurs as error:
                yield name, error

    def changed_at(self) -> int:
        """Changes whenever an engine or a record was written or removed; 0 without the folder."""
        try:
            return self._folder.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def remove(self, name: str) -> None:
        """Delete an engine, its record first. The lock stays: somebody may hold it."""
        self._record_path(name).unlink(missing_ok=True)
        (self._folder / f"{name}.engine").unlink(missing_ok=True)

    def remove_unfinished(self) -> int:
        """Delete what interrupted builds left, but not what is being built; returns how many files."""
        removed = 0
        for path in self._folder.glob("*.unfinished"):
            with self.building(path.name.partition(".")[0]) as mine:
                if mine:
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed

    def _record_path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _own_secret(self) -> bytes:
        path = self._folder / "secret"
        if not path.exists():
            # Two processes may start at once: the first link wins, and nobody sees half a secret.
            made = self._folder / f"secret.{os.getpid()}.unfinished"
            self._write(made, secrets.token_bytes(_SECRET_BYTES))
            with suppress(FileExistsError):
                os.link(made, path)
            made.unlink()
        secret = self._read(path, _SECRET_BYTES)
        if len(secret) != _SECRET_BYTES:
            raise NotOurs(f"{path} is damaged: remove it, and all engines are built anew")
        return secret

    def _signature(self, content: dict[str, Any]) -> str:
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()

    def _read_record(self, name: str) -> EngineRecord:
        text = self._read(self._record_path(name), _LARGEST_RECORD, missing=True)
        try:
            signed = json.loads(text)
            content = signed["record"]
            genuine = hmac.compare_digest(self._signature(content), signed["hmac_sha256"])
        except (ValueError, KeyError, TypeError) as error:
            raise NotOurs(f"{name}.json is damaged") from error
        if not genuine:
            raise NotOurs(f"{name}.json was not written by this appliance, or was changed")
        record = EngineRecord(**{**content, "key": EngineKey(**content["key"])})
        if record.key.name != name:
            raise NotOurs(f"{name}.json is the record of another engine")
        return record

    def _read(self, path: Path, most: int, *, missing: bool = False) -> bytes:
        """Up to one byte more than `most` of a file that nobody else may write. Never follows a link."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            if missing:
                raise
            raise NotOurs(f"{path.name} is missing") from None
        except OSError as error:
            raise NotOurs(f"{path.name} cannot be read: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as file:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
                raise NotOurs(f"{path.name} belongs to somebody else, or others may use it")
            return file.read(most + 1)

    def _write(self, path: Path, content: bytes) -> None:
        unfinished = path.with_name(f"{path.name}.unfinished")
        try:
            unfinished.unlink(missing_ok=True)
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            unfinished.replace(path)
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise TryAgain(f"the engine cannot be written: {error}") from error


def judged(record: EngineRecord, verdict: Verdict, parity: dict[str, Any]) -> EngineRecord:
    """The record after the parity gate."""
    return replace(record, verdict=verdict, parity=parity)
