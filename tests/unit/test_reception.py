"""Messages put together from fragments: whole whatever the cuts, refused in words, bounded always."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom import build_context

from appliance.network.limits import Limits
from appliance.network.messages import ProtocolError
from appliance.network.reception import Reception, Reply, StoreRequest
from tools.campaigns import wire

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
STORE, ECHO, REFUSED = 1, 3, 5
CONTEXTS = {
    STORE: build_context(CT, EXPLICIT),
    ECHO: build_context("1.2.840.10008.1.1", IMPLICIT),
}
LIMITS = Limits(pdu_bytes=131072, idle_s=600.0)
LONGEST_COMMAND = 64 * 1024
LONGEST_OTHER = 16 * 1024 * 1024


@dataclass
class Sink:
    """An `Incoming` that keeps what it is given."""

    request: StoreRequest
    data: bytearray = field(default_factory=bytearray)
    end: str = ""

    def write(self, data: memoryview) -> None:
        assert not self.end
        self.data += data

    def finish(self) -> Reply:
        assert not self.end
        self.end = "finished"
        return Reply(0x0000)

    def abandon(self) -> None:
        assert not self.end
        self.end = "abandoned"


class Receiving:
    """A `Reception` with what it let out."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.sinks: list[Sink] = []
        self.handed_on: list[tuple[int, int, bytes]] = []
        self.responses: list[bytes] = []
        self.reception = Reception(
            lambda: CONTEXTS,
            self._begin,
            lambda *fragment: self.handed_on.append(fragment),
            self.responses.append,
            limits,
        )

    def _begin(self, request: StoreRequest) -> Sink:
        self.sinks.append(Sink(request))
        return self.sinks[-1]

    def take(self, *items: bytes) -> None:
        self.reception.take(memoryview(b"".join(items)))

    def refusal(self, *items: bytes) -> str:
        """The word with which items are refused."""
        with pytest.raises(ProtocolError) as refused:
            self.take(*items)
        self.reception.abandon()
        assert not self.reception.is_busy
        return refused.value.word


def store_command(message_id: int = 1) -> bytes:
    return wire.command_set(wire.store_elements(CT, "1.2.3", message_id))


def cut(data: st.DataObject, content: bytes) -> list[bytes]:
    """`content` in one or more pieces, some of them empty."""
    places = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=6)))
    return [content[a:b] for a, b in zip([0, *places], [*places, len(content)], strict=True)]


def as_items(data: st.DataObject, context_id: int, command: bytes, content: bytes) -> list[bytes]:
    items = []
    for kind, whole in ((wire.COMMAND, command), (0, content)):
        pieces = cut(data, whole)
        for number, piece in enumerate(pieces, 1):
            items.append(wire.pdv(context_id, kind | (wire.LAST if number == len(pieces) else 0), piece))
    return items


@settings(deadline=None)
@given(st.data(), st.lists(st.binary(max_size=3000), min_size=1, max_size=4))
def test_images_arrive_byte_for_byte_however_they_are_cut(data: st.DataObject, contents: list[bytes]) -> None:
    items = []
    for number, content in enumerate(contents):
        items += as_items(data, STORE, store_command(number), content)
        if data.draw(st.booleans()):
            items.append(wire.pdv(ECHO, wire.COMMAND | wire.LAST, wire.echo_request()))
    receiving = Receiving()
    while items:
        count = data.draw(st.integers(1, len(items)))
        receiving.take(*items[:count])
        items = items[count:]
    assert [bytes(sink.data) for sink in receiving.sinks] == contents
    assert {sink.end for sink in receiving.sinks} == {"finished"}
    assert {sink.request for sink in receiving.sinks} == {StoreRequest(CT, "1.2.3", EXPLICIT)}
    assert len(receiving.responses) == len(contents)
    assert set(receiving.handed_on) <= {(ECHO, 3, wire.echo_request())}
    assert not receiving.reception.is_busy


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=5))
def test_arbitrary_bytes_are_taken_or_refused(bodies: list[bytes]) -> None:
    receiving = Receiving()
    with contextlib.suppress(ProtocolError):
        for body in bodies:
            receiving.take(body)
    receiving.reception.abandon()
    assert all(sink.end for sink in receiving.sinks)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_mutated_messages_are_taken_or_refused(seed: int) -> None:
    chance = random.Random(seed)
    whole = bytearray(b"".join(wire.message(STORE, store_command(), bytes(500), 90)))
    for _ in range(chance.randint(1, 5)):
        whole[chance.randrange(len(whole))] = chance.randrange(256)
    receiving = Receiving()
    with contextlib.suppress(ProtocolError):
        receiving.take(bytes(whole[: chance.randint(0, len(whole))]))
    receiving.reception.abandon()
    assert all(sink.end for sink in receiving.sinks)


FIRST_OF_TWO = wire.pdv(STORE, wire.COMMAND, store_command()[:20])
BEGUN = wire.pdv(STORE, wire.COMMAND | wire.LAST, store_command())


@pytest.mark.parametrize(
    ("items", "word"),
    [
        ([wire.pdv(STORE, wire.LAST, b"data")], "message_order"),
        ([FIRST_OF_TWO, wire.pdv(STORE, 0, b"data")], "message_order"),
        ([FIRST_OF_TWO, wire.pdv(ECHO, wire.COMMAND | wire.LAST, store_command()[20:])], "message_order"),
        ([BEGUN, BEGUN], "message_order"),
        ([BEGUN, wire.pdv(ECHO, 0, b"data")], "message_order"),
        ([wire.pdv(REFUSED, wire.COMMAND | wire.LAST, store_command())], "context_id"),
        ([wire.pdv(STORE, wire.COMMAND | wire.LAST, store_command()[:-3])], "command_set"),
        ([wire.pdv(STORE, wire.COMMAND | wire.LAST, b"")], "command_set"),
        ([BEGUN[:-1]], "pdv_length"),
    ],
)
def test_what_breaks_the_protocol_is_named(items: list[bytes], word: str) -> None:
    receiving = Receiving()
    assert receiving.refusal(*items) == word
    assert all(sink.end == "abandoned" for sink in receiving.sinks)


def test_a_store_request_without_a_data_set_is_refused() -> None:
    elements = [*wire.store_elements(CT, "1.2.3")[:-2], (0x0800, wire.short(wire.NO_DATA_SET))]
    item = wire.pdv(STORE, wire.COMMAND | wire.LAST, wire.command_set(elements))
    assert Receiving().refusal(item) == "command_set"


def test_an_endless_command_set_is_cut_off() -> None:
    receiving = Receiving()
    piece = wire.pdv(STORE, wire.COMMAND, bytes(8192))
    for _ in range(LONGEST_COMMAND // 8192):
        receiving.take(piece)
    assert receiving.refusal(piece) == "command_set"


def test_an_endless_data_set_is_cut_off_unless_it_is_stored() -> None:
    piece = bytes(1 << 20)
    with_data = [(0x0002, wire.uid("1.2.840.10008.1.1")), (0x0100, wire.short(0x0030))]
    with_data += [(0x0110, wire.short(1)), (0x0800, wire.short(1))]
    receiving = Receiving()
    receiving.take(wire.pdv(ECHO, wire.COMMAND | wire.LAST, wire.command_set(with_data)))
    for _ in range(LONGEST_OTHER >> 20):
        receiving.take(wire.pdv(ECHO, 0, piece))
    assert receiving.refusal(wire.pdv(ECHO, 0, piece)) == "data_set_length"
    storing = Receiving()
    storing.take(BEGUN)
    for _ in range((LONGEST_OTHER >> 20) + 2):
        storing.take(wire.pdv(STORE, 0, piece))
    assert len(storing.sinks[0].data) == LONGEST_OTHER + (2 << 20)


def test_a_message_that_stalls_or_crawls_is_cut_off_and_an_idle_peer_is_not() -> None:
    for limits in (Limits(131072, 600.0, stall_s=-1.0), Limits(131072, 600.0, message_s=-1.0)):
        receiving = Receiving(limits)
        receiving.reception.check_pace()
        receiving.take(BEGUN)
        with pytest.raises(ProtocolError) as refused:
            receiving.reception.check_pace()
        assert refused.value.word == "slow"
        receiving.take(wire.pdv(STORE, wire.LAST, bytes(8192)))
        receiving.reception.check_pace()
