"""A data set in a file becomes P-DATA-TF PDUs: read once, straight to where it is sent from."""

from __future__ import annotations

import os
from collections.abc import Iterator

from appliance.network.messages import FRAME_BYTES, data_room, frame

_LONGEST_PDU = 256 * 1024
_BUFFER_BYTES = 512 * 1024
_MOST_PDUS = 512  # at once: preadv(2) takes 1024 pieces


class Pdus:
    """Makes the PDUs of one association, whose peer takes `longest` bytes behind a PDU's header; 0 is any.

    The data set is read between the headers of the PDUs, in one buffer that is used again and again.
    """

    def __init__(self, longest: int) -> None:
        self.longest = min(longest or _LONGEST_PDU, _LONGEST_PDU)
        self._room = data_room(self.longest)
        size = self._room + FRAME_BYTES
        count = min(max(_BUFFER_BYTES // size, 1), _MOST_PDUS)
        self._buffer = memoryview(bytearray(count * size))
        self._starts = range(0, count * size, size)
        self._places = [self._buffer[start + FRAME_BYTES : start + size] for start in self._starts]

    def pieces(self, file: int, start: int, end: int, context_id: int) -> Iterator[memoryview]:
        """The PDUs for what lies from `start` to `end` in the open `file`, some at a time.

        A piece is valid until the next one is asked for.

        Raises:
            EOFError: the file is shorter.
            OSError: it cannot be read.
        """
        position = start
        while True:
            count = min(os.preadv(file, self._places, position), end - position)
            if count <= 0 and position < end:
                raise EOFError
            position += count
            yield self._framed(count, context_id, last=position == end)
            if position == end:
                return

    def _framed(self, count: int, context_id: int, *, last: bool) -> memoryview:
        full, rest = divmod(count, self._room)
        if rest or not full:
            full += 1
        else:
            rest = self._room
        header = frame(context_id, self._room, command=False, last=False)
        for start in self._starts[: full - 1]:
            self._buffer[start : start + FRAME_BYTES] = header
        start = self._starts[full - 1]
        self._buffer[start : start + FRAME_BYTES] = frame(context_id, rest, command=False, last=last)
        return self._buffer[: start + FRAME_BYTES + rest]
