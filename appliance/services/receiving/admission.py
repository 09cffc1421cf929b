"""How many associations are open, over all processes that receive."""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from appliance.domain.types import Origin

Peer = tuple[str, str]
"""Calling AE title and address."""


def peer_of(origin: Origin) -> Peer:
    """Who counts as one peer."""
    return origin.calling_ae_title, origin.address


class OpenAssociations:
    """This process's open associations, published to the others, and the sum of all.

    Each process keeps its counts in a file that it holds locked while it lives; the kernel lets go of
    the lock at its death, and the next reader removes the file.
    """

    def __init__(self, run_directory: Path, process_name: str) -> None:
        self._folder = run_directory / "associations"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._own = self._folder / f"{process_name}.json"
        self._published: Counter[Peer] | None = None
        # A reader that finds the file before it is locked would remove it, or count what was left in it.
        with self.alone():
            self._descriptor = os.open(self._own, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            self.publish(Counter())

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process decides about an association meanwhile."""
        descriptor = os.open(self._folder / "decision", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def publish(self, own: Counter[Peer]) -> None:
        """Tell the other processes what is open here. Only inside `alone`."""
        if own == self._published:
            return
        text = json.dumps([[*peer, count] for peer, count in own.items()]).encode()
        os.pwrite(self._descriptor, text, 0)
        os.ftruncate(self._descriptor, len(text))
        self._published = own.copy()

    def everywhere(self, own: Counter[Peer]) -> Counter[Peer]:
        """`own` and what the other processes that live have published. Only inside `alone`."""
        total = own.copy()
        for file in self._folder.glob("*.json"):
            if file != self._own:
                total.update(_read(file))
        return total


def _read(file: Path) -> Counter[Peer]:
    with suppress(FileNotFoundError):
        descriptor = os.open(file, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.unlink()
        except BlockingIOError:
            return Counter({(title, address): n for title, address, n in json.loads(file.read_bytes())})
        finally:
            os.close(descriptor)
    return Counter()
