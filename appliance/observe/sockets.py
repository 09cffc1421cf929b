"""Unix sockets by folder and name, however long the folder's path is.

An address of `AF_UNIX` holds 108 bytes (unix(7)). `/proc/self/fd/N/name` stands for the same file in a
few bytes while the folder is open as descriptor N.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def _address(path: Path) -> Iterator[str]:
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def bind(path: Path, kind: socket.SocketKind) -> socket.socket:
    """A socket that others reach at `path`; replaces one that a dead process left there.

    Raises:
        OSError: the folder is missing or not writable.
    """
    path.unlink(missing_ok=True)
    receiver = socket.socket(socket.AF_UNIX, kind)
    try:
        with _address(path) as address:
            receiver.bind(address)
        path.chmod(0o600)
    except OSError:
        receiver.close()
        raise
    return receiver


def connect(path: Path, kind: socket.SocketKind) -> socket.socket:
    """A socket connected to the one at `path`.

    Raises:
        OSError: nobody listens there.
    """
    sender = socket.socket(socket.AF_UNIX, kind)
    try:
        with _address(path) as address:
            sender.connect(address)
    except OSError:
        sender.close()
        raise
    return sender
