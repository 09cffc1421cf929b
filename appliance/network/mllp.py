"""HL7 v2 messages over the Minimal Lower Layer Protocol: one message, one acknowledgement."""

from __future__ import annotations

import select
import ssl
import time
from dataclasses import dataclass

from appliance.network.connection import connect
from appliance.network.sending import OutcomeUnknown

_START, _END = b"\x0b", b"\x1c\r"
_LONGEST_BLOCK = 64 * 1024
_PIECE = 8192


@dataclass(frozen=True)
class Acknowledgement:
    """What a peer says of a message: MSA-1, the MSH-10 that it answers (MSA-2), and the number in ERR-3."""

    code: str
    control_id: str
    error: int | None


class MllpConnection:
    """A connection to a listener, for one message after the other.

    Raises:
        TryAgain: the peer cannot be reached.
    """

    def __init__(
        self, host: str, port: int, tls: ssl.SSLContext | None, name: str, patience_s: float
    ) -> None:
        self._socket = connect(host, port, tls, name, patience_s)
        self._patience_s = patience_s
        self._received = bytearray()

    @property
    def has_ended(self) -> bool:
        """Whether the peer has closed the connection, as far as that is known. Nothing is awaited now."""
        if not select.select([self._socket], [], [], 0)[0]:
            return False
        try:
            self._socket.settimeout(0.0)
            return not self._take_in()
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except (OSError, OutcomeUnknown):
            return True

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def exchange(self, message: bytes) -> Acknowledgement:
        """Send a message and wait for its acknowledgement. Those of other messages are passed over.

        Raises:
            OutcomeUnknown: there is none; the connection is of no more use.
        """
        deadline = time.monotonic() + self._patience_s
        wanted = control_id_of(message)
        try:
            self._socket.settimeout(self._patience_s)
            self._socket.sendall(_START + message + _END)
            while True:
                while (block := take_block(self._received)) is not None:
                    answer = read_acknowledgement(block)
                    if answer is not None and answer.control_id == wanted:
                        return answer
                self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
                if not self._take_in():
                    raise OutcomeUnknown("the connection ended before the acknowledgement", gone=True)
        except TimeoutError as error:
            raise OutcomeUnknown(f"no acknowledgement within {self._patience_s:g} s", gone=False) from error
        except OSError as error:
            raise OutcomeUnknown("the connection broke before the acknowledgement", gone=True) from error

    def _take_in(self) -> bool:
        """Read what is there; False if the peer has closed.

        Raises:
            OutcomeUnknown: it sends more than any acknowledgement is long.
        """
        piece = self._socket.recv(_PIECE)
        self._received += piece
        if len(self._received) > _LONGEST_BLOCK:
            raise OutcomeUnknown("the answer is too long for an acknowledgement", gone=False)
        return bool(piece)


def take_block(received: bytearray) -> bytes | None:
    """Remove the first whole block from what was received, and return what was framed.

    None if there is none yet. What stands before the start of a block belongs to none and is dropped.
    """
    start = received.find(_START)
    del received[: start if start >= 0 else len(received)]
    end = received.find(_END)
    if end < 0:
        return None
    block = bytes(received[1:end])
    del received[: end + len(_END)]
    # A block that was broken off and begun again: only the last beginning counts.
    return block.rpartition(_START)[2]


def control_id_of(message: bytes) -> str:
    """Message Control ID (MSH-10)."""
    return _field(_segments(message)[0], 9)


def read_acknowledgement(block: bytes) -> Acknowledgement | None:
    """What an ACK message says, or None if the block is no such message."""
    segments = {segment[0]: segment for segment in reversed(_segments(block))}
    if "MSH" not in segments or "MSA" not in segments:
        return None
    answer = segments["MSA"]
    error = _field(segments.get("ERR", []), 3).partition(_component(block))[0]
    return Acknowledgement(
        _field(answer, 1).upper(), _field(answer, 2), int(error) if error.isdecimal() else None
    )


def _segments(message: bytes) -> list[list[str]]:
    """The fields of each segment. MSH says which character separates them, and counts as its own field."""
    text = message.decode("latin-1")  # what is looked at is ASCII, whatever the character set is
    separator = text[3:4] or "|"
    return [line.strip().split(separator) for line in text.replace("\n", "\r").split("\r") if line.strip()]


def _component(message: bytes) -> str:
    return message[4:5].decode("latin-1") or "^"


def _field(segment: list[str], index: int) -> str:
    return segment[index].strip() if index < len(segment) else ""
