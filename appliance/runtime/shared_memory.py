"""Memory that this process and a server on the same machine both map: shm_open(3), as Linux has it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from appliance.runtime.base import Shape

_FOLDER = Path("/dev/shm")
_ALIGNMENT = 64


class Region:
    """One piece of memory, for the user of this process and root only."""

    def __init__(self, name: str, size: int) -> None:
        """Make `/name`, of `size` bytes that are there for certain.

        Raises:
            OSError: no room, or no shared memory here.
        """
        self.name = name
        self.size = size
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(_FOLDER / name, flags, 0o600)
        try:
            # Otherwise a full file system is a SIGBUS at the first write.
            os.posix_fallocate(descriptor, 0, size)
            self._memory = mmap.mmap(descriptor, size)
        except OSError:
            self.unlink()
            raise
        finally:
            os.close(descriptor)

    def unlink(self) -> None:
        """Take the name away: nobody else can map it, and nothing stays behind after the last who has."""
        (_FOLDER / self.name).unlink()

    def write(self, offset: int, values: NDArray[np.float32]) -> None:
        """Put `values` at `offset` bytes."""
        self._view(offset, values.shape)[...] = values

    def read(self, offset: int, shape: Shape) -> NDArray[np.float32]:
        """A copy of what lies at `offset` bytes."""
        return self._view(offset, shape).copy()

    def _view(self, offset: int, shape: Shape) -> NDArray[np.float32]:
        return np.ndarray(shape, np.float32, buffer=self._memory, offset=offset)


def layout(shapes: Sequence[Shape]) -> tuple[list[tuple[int, int]], int]:
    """Offset and length in bytes of a float32 tensor of each shape, one behind the other; and of all."""
    places: list[tuple[int, int]] = []
    end = 0
    for shape in shapes:
        length = 4 * int(np.prod(shape))
        places.append((end, length))
        end += -(-length // _ALIGNMENT) * _ALIGNMENT
    return places, end
