"""MLLP: framing and acknowledgements, from hostile bytes to a peer that keeps the connection."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.errors import TryAgain
from appliance.network.mllp import (
    Acknowledgement,
    MllpConnection,
    control_id_of,
    read_acknowledgement,
    take_block,
)
from appliance.network.sending import OutcomeUnknown
from tests.support.processes import free_port

MESSAGE = b"MSH|^~\\&|A|B|C|D|20260102||ORU^R01|ID1|P|2.5.1\rOBX|1\r"


def ack(code: str = "AA", control_id: str = "ID1", more: str = "") -> bytes:
    return f"MSH|^~\\&|C|D|A|B|20260102||ACK|X1|P|2.5.1\rMSA|{code}|{control_id}|text\r{more}".encode()


def framed(block: bytes) -> bytes:
    return b"\x0b" + block + b"\x1c\r"


# A block may not hold the characters that frame it.
blocks = st.binary(max_size=60).filter(lambda block: not set(block) & {0x0B, 0x1C})


@given(st.lists(blocks, max_size=5), st.data())
def test_blocks_come_out_as_they_went_in_however_they_are_cut(
    wanted: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(map(framed, wanted))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    received, found = bytearray(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += stream[start:end]
        while (block := take_block(received)) is not None:
            found.append(block)
    assert found == wanted
    assert not received


@given(st.binary(max_size=200))
def test_any_bytes_give_blocks_or_wait_for_more(stream: bytes) -> None:
    received = bytearray(stream)
    before = len(received) + 1
    while (block := take_block(received)) is not None:
        assert len(received) < before
        before = len(received)
        read_acknowledgement(block)


def test_a_block_that_was_begun_again_counts_from_its_last_beginning() -> None:
    assert take_block(bytearray(b"junk\x0bbroken off" + framed(b"whole"))) == b"whole"


@given(st.binary(max_size=80))
def test_no_block_is_too_odd_to_be_read(block: bytes) -> None:
    for hostile in (block, ack() + block, b"MSH" + block + b"\rMSA" + block):
        answer = read_acknowledgement(hostile)
        assert answer is None or isinstance(answer, Acknowledgement)


@pytest.mark.parametrize(
    ("block", "answer"),
    [
        (ack(), Acknowledgement("AA", "ID1", None)),
        (ack("ca"), Acknowledgement("CA", "ID1", None)),
        (ack("AE", more="ERR||PID^1^3|204^Unknown key^HL70357|E\r"), Acknowledgement("AE", "ID1", 204)),
        (ack().replace(b"\r", b"\r\n"), Acknowledgement("AA", "ID1", None)),
        (ack().replace(b"|", b"#"), Acknowledgement("AA", "ID1", None)),
        (b"MSH|^~\\&|\rMSA|AA", Acknowledgement("AA", "", None)),
        (b"MSA|AA|ID1\r", None),
        (MESSAGE, None),
        (b"", None),
    ],
)
def test_acknowledgements(block: bytes, answer: Acknowledgement | None) -> None:
    assert read_acknowledgement(block) == answer


def test_the_control_id_is_that_of_the_header() -> None:
    assert control_id_of(MESSAGE) == "ID1"


@contextmanager
def listener(*answers: bytes | float | None) -> Iterator[int]:
    """A peer that takes a message for each answer: bytes to send, seconds of silence, None to hang up."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        thread = threading.Thread(target=_serve, args=(server, answers))
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            thread.join(10)
            assert not thread.is_alive()


def _serve(server: socket.socket, answers: Sequence[bytes | float | None]) -> None:
    connection, _ = server.accept()
    with connection:
        for answer in answers:
            received = b""
            while not received.endswith(b"\x1c\r"):
                received += connection.recv(1000)
            if answer is None:
                return
            if isinstance(answer, float):
                time.sleep(answer)
            else:
                connection.sendall(answer)
        connection.recv(1)  # until the other side closes


@contextmanager
def connection_to(port: int, patience_s: float = 5.0) -> Iterator[MllpConnection]:
    connection = MllpConnection("127.0.0.1", port, None, "", patience_s)
    try:
        yield connection
    finally:
        connection.close()


def test_messages_follow_each_other_on_one_connection() -> None:
    answers = framed(ack()), framed(ack("AE"))
    with listener(*answers) as port, connection_to(port) as connection:
        assert connection.exchange(MESSAGE).code == "AA"
        assert not connection.has_ended
        assert connection.exchange(MESSAGE).code == "AE"


def test_the_answers_to_other_messages_are_passed_over() -> None:
    late = framed(ack("AA", "ID0")) + b"noise" + framed(b"MSH|junk") + framed(ack("CA"))
    with listener(late) as port, connection_to(port) as connection:
        assert connection.exchange(MESSAGE) == Acknowledgement("CA", "ID1", None)


@pytest.mark.parametrize(
    ("answer", "gone"),
    [
        (0.3, False),
        (framed(ack("AA", "ID0")), False),
        (ack(), False),  # not framed
        (b"\x0b" + b"x" * 70_000, False),
        (None, True),
    ],
)
def test_without_an_answer_to_this_message_nobody_knows(answer: bytes | float | None, gone: bool) -> None:
    with listener(answer) as port, connection_to(port, 0.2) as connection:
        began = time.monotonic()
        with pytest.raises(OutcomeUnknown) as caught:
            connection.exchange(MESSAGE)
        assert caught.value.gone is gone
        assert time.monotonic() - began < 2.0


def test_a_trickle_of_bytes_is_no_answer() -> None:
    def trickle(server: socket.socket, over: threading.Event) -> None:
        peer, _ = server.accept()
        with peer:
            while not over.wait(0.05):
                try:
                    peer.sendall(b"\x0b")
                except OSError:
                    return

    over = threading.Event()
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        thread = threading.Thread(target=trickle, args=(server, over))
        thread.start()
        with connection_to(server.getsockname()[1], 0.4) as connection, pytest.raises(OutcomeUnknown):
            connection.exchange(MESSAGE)
        over.set()
        thread.join(10)


def test_a_connection_that_the_peer_closed_is_known_to_have_ended() -> None:
    def wait(true: Callable[[], bool]) -> bool:
        end = time.monotonic() + 5
        while not true() and time.monotonic() < end:
            time.sleep(0.01)
        return true()

    with listener() as port, connection_to(port) as connection:
        assert not connection.has_ended
        connection._socket.shutdown(socket.SHUT_WR)  # the listener then closes
        assert wait(lambda: connection.has_ended)


def test_nobody_there() -> None:
    with pytest.raises(TryAgain):
        MllpConnection("127.0.0.1", free_port(), None, "", 1.0)
