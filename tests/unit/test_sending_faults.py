"""Sending to peers that fail: what nobody can know is sent again, and nothing hangs."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from appliance.destinations.base import Parcel
from appliance.domain.errors import TryAgain
from appliance.domain.types import Postponed, SendResult, Stored
from tests.support.parcels import CT, destination, noise, send, spooled
from tests.support.processes import wait_until
from tests.support.storage_scp import Conversation, RawScp, Received, wait_for_end
from tools.campaigns import wire

MR = "1.2.840.10008.5.1.4.1.1.4"
PATIENCE_S = 1.0


def silence(conversation: Conversation, _request: Received) -> None:
    wait_for_end(conversation)


def late(conversation: Conversation, request: Received) -> None:
    time.sleep(PATIENCE_S + 0.5)
    conversation.respond(request, 0)


def close(conversation: Conversation, _request: Received) -> None:
    conversation.connection.shutdown(socket.SHUT_RDWR)


def half_close(conversation: Conversation, _request: Received) -> None:
    conversation.connection.shutdown(socket.SHUT_WR)
    wait_for_end(conversation)


def reset(conversation: Conversation, _request: Received) -> None:
    conversation.reset()


def abort(conversation: Conversation, _request: Received) -> None:
    conversation.connection.sendall(wire.ABORT)


def release_instead(conversation: Conversation, _request: Received) -> None:
    conversation.connection.sendall(wire.RELEASE_REQUEST)
    wait_for_end(conversation)


def garbage(conversation: Conversation, _request: Received) -> None:
    conversation.connection.sendall(noise(5000))
    wait_for_end(conversation)


def http(conversation: Conversation, _request: Received) -> None:
    conversation.connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    wait_for_end(conversation)


def huge_pdu(conversation: Conversation, _request: Received) -> None:
    conversation.connection.sendall(struct.pack(">BBI", wire.P_DATA, 0, 0xFFFFFFF0))
    wait_for_end(conversation)


def half_pdu(conversation: Conversation, _request: Received) -> None:
    conversation.connection.sendall(struct.pack(">BBI", wire.P_DATA, 0, 100) + bytes(50))
    conversation.connection.shutdown(socket.SHUT_RDWR)


def wrong_context(conversation: Conversation, request: Received) -> None:
    conversation.respond(request, 0, context_id=77)
    wait_for_end(conversation)


def another_context(conversation: Conversation, request: Received) -> None:
    conversation.respond(
        request, 0, context_id=next(i for i in conversation.contexts if i != request.context_id)
    )
    wait_for_end(conversation)


def wrong_message(conversation: Conversation, request: Received) -> None:
    conversation.respond(request, 0, message_id=request.message_id + 1)
    wait_for_end(conversation)


def no_status(conversation: Conversation, request: Received) -> None:
    elements = [(0x0100, wire.short(0x8001)), (0x0120, wire.short(request.message_id))]
    command = wire.command_set([*elements, (0x0800, wire.short(wire.NO_DATA_SET))])
    conversation.connection.sendall(wire.p_data(wire.pdv(request.context_id, 3, command)))
    wait_for_end(conversation)


def with_data_set(conversation: Conversation, request: Received) -> None:
    elements = [(0x0100, wire.short(0x8001)), (0x0120, wire.short(request.message_id))]
    command = wire.command_set([*elements, (0x0800, wire.short(1)), (0x0900, wire.short(0))])
    conversation.connection.sendall(wire.p_data(wire.pdv(request.context_id, 3, command)))
    wait_for_end(conversation)


def a_request(conversation: Conversation, request: Received) -> None:
    command = wire.command_set(wire.store_elements(CT, "1.2.3"))
    conversation.connection.sendall(wire.p_data(wire.pdv(request.context_id, 3, command)))
    wait_for_end(conversation)


FAULTS = [
    silence,
    late,
    close,
    half_close,
    reset,
    abort,
    release_instead,
    garbage,
    http,
    huge_pdu,
    half_pdu,
    wrong_context,
    another_context,
    wrong_message,
    no_status,
    with_data_set,
    a_request,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_an_unknown_outcome_is_sent_again(
    tmp_path: Path, fault: Callable[[Conversation, Received], None]
) -> None:
    parcels = [spooled(tmp_path, noise(300_000, seed), sop_class=one) for seed, one in enumerate((CT, MR))]
    settled: list[tuple[str, type[SendResult]]] = []

    def settle(parcel: Parcel, result: SendResult) -> bool:
        settled.append((parcel.delivery.sop_instance_uid, type(result)))
        return True

    first, second = (parcel.delivery.sop_instance_uid for parcel in parcels)
    with (
        RawScp(faults=[fault]) as scp,
        destination(tmp_path, scp.port, timeout_s=PATIENCE_S) as pacs,
    ):
        begin = time.monotonic()
        with pytest.raises(TryAgain):
            pacs.send(parcels, settle)
        assert time.monotonic() - begin < PATIENCE_S + 2
        assert settled == [(first, Postponed)]
        settled.clear()
        pacs.send(parcels, settle)
        assert settled == [(first, Stored), (second, Stored)]
        assert [one.sop_instance_uid for one in scp.received] == [first, first, second]
        assert scp.requests == 2
    _nothing_is_left()


def _nothing_is_left() -> None:
    def names() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]

    wait_until(lambda: not names(), 10, f"all threads end: {names()}")


@pytest.mark.parametrize(
    "how", ["reset", "abort", "close", pytest.param("stop_reading", marks=pytest.mark.slow)]
)
def test_trouble_in_the_middle_of_a_data_set(tmp_path: Path, how: str) -> None:
    def trouble(conversation: Conversation, request: Received) -> None:
        if request.size > 1_000_000 and scp.requests == 1:
            if how == "reset":
                conversation.reset()
            if how == "abort":
                conversation.connection.sendall(wire.ABORT)
            if how == "stop_reading":
                time.sleep(PATIENCE_S + 3)
            close(conversation, request)

    with RawScp(meanwhile=trouble) as scp, destination(tmp_path, scp.port, timeout_s=PATIENCE_S) as pacs:
        parcel = spooled(tmp_path, noise(20_000_000))
        begin = time.monotonic()
        with pytest.raises(TryAgain):
            send(pacs, [parcel])
        assert time.monotonic() - begin < PATIENCE_S + 4
        assert scp.received == []
        assert send(pacs, [parcel]) == [Stored(0)]
        assert scp.received[0].size == 20_000_000
    _nothing_is_left()


def accept_and_leave(conversation: Conversation) -> None:
    conversation.accept()
    conversation.connection.shutdown(socket.SHUT_RDWR)


def stay_silent(conversation: Conversation) -> None:
    wait_for_end(conversation)


def answer_nonsense(conversation: Conversation) -> None:
    conversation.connection.sendall(noise(500))


def reject(conversation: Conversation) -> None:
    conversation.connection.sendall(wire.pdu(wire.REJECT, bytes([0, 2, 3, 1])))


def abort_request(conversation: Conversation) -> None:
    conversation.connection.sendall(wire.ABORT)


def announce_much(conversation: Conversation) -> None:
    conversation.connection.sendall(struct.pack(">BBI", wire.ACCEPT, 0, 0x7FFFFFFF))
    wait_for_end(conversation)


def accept_by_half(conversation: Conversation) -> None:
    conversation.connection.sendall(struct.pack(">BBI", wire.ACCEPT, 0, 500) + bytes(100))
    wait_for_end(conversation)


@pytest.mark.parametrize(
    "associate",
    [accept_and_leave, stay_silent, answer_nonsense, reject, abort_request, announce_much, accept_by_half],
    ids=lambda function: function.__name__,
)
def test_no_association_is_an_outage(tmp_path: Path, associate: Callable[[Conversation], None]) -> None:
    settled: list[SendResult] = []

    def settle(_parcel: Parcel, result: SendResult) -> bool:
        settled.append(result)
        return True

    with (
        RawScp(associate=associate) as scp,
        destination(tmp_path, scp.port, timeout_s=PATIENCE_S) as pacs,
    ):
        parcels = [spooled(tmp_path, noise(10))]
        attempts: list[Callable[[], None]] = [lambda: pacs.send(parcels, settle), pacs.probe]
        for attempt in attempts:
            begin = time.monotonic()
            with pytest.raises(TryAgain, match=f"PACS at 127.0.0.1:{scp.port}"):
                attempt()
            assert time.monotonic() - begin < 5
        assert {type(one) for one in settled} <= {Postponed}
        scp.associate = Conversation.accept
        pacs.probe()
        assert send(pacs, [spooled(tmp_path, noise(10))]) == [Stored(0)]
    _nothing_is_left()


class Garbling:
    """A connection on which what is sent changes in a few places."""

    def __init__(self, connection: socket.socket, chance: random.Random) -> None:
        self._connection = connection
        self._chance = chance

    def sendall(self, data: bytes) -> None:
        garbled = bytearray(data)
        for _ in range(self._chance.randint(1, 3)):
            at = self._chance.randrange(len(garbled))
            garbled[at : at + self._chance.randrange(4)] = self._chance.randbytes(self._chance.randrange(4))
        self._connection.sendall(bytes(garbled))


@pytest.mark.slow
def test_garbled_answers_neither_hang_nor_fail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(4)

    def garble(conversation: Conversation, answer: Callable[[Conversation], None]) -> None:
        connection = conversation.connection
        conversation.connection = cast(Any, Garbling(connection, chance))
        try:
            answer(conversation)
        finally:
            conversation.connection = connection

    def accept(conversation: Conversation) -> None:
        if chance.random() < 0.5:
            garble(conversation, Conversation.accept)
        else:
            conversation.accept()

    def respond(conversation: Conversation, request: Received) -> None:
        garble(conversation, lambda conversation: conversation.respond(request, 0))

    parcels = [spooled(tmp_path, noise(1000)) for _ in range(2)]
    with (
        RawScp(associate=accept) as scp,
        destination(tmp_path, scp.port, timeout_s=PATIENCE_S) as pacs,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of pydicom, about UIDs that are none
        for _ in range(30):
            scp.faults = [respond]
            begin = time.monotonic()
            with suppress(TryAgain):
                send(pacs, parcels)
            assert time.monotonic() - begin < 2 * PATIENCE_S + 3
        scp.associate, scp.faults = Conversation.accept, []
        pacs.rest()
        assert send(pacs, parcels) == [Stored(0)] * 2
    assert "association_failed" not in caplog.text
    _nothing_is_left()
