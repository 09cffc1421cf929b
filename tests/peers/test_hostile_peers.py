"""Whatever one peer does, the others can send, and nothing of it stays behind."""

from __future__ import annotations

import statistics
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.dicom_samples import CtSeries, write_series
from tests.support.certificates import certificates
from tests.support.hostile import CT, ECHO, REFUSED, STORE, Peer, association_s, store_command
from tests.support.pacs import send
from tests.support.processes import free_port, wait_until
from tests.support.receiving import Receiving
from tests.support.scanner import data_set, data_set_sha256
from tools.campaigns import wire

pytestmark = pytest.mark.slow

SLICES = 10
AT_ONCE = 3
"""How many peers misbehave in the same way at the same time."""
LONGEST_ASSOCIATION_S = 1.0
CUT_OFF_S = 20.0
GROWTH_BYTES = 24 * 2**20
"""By one attack or by all: the first of a kind makes the heap as large as it needs."""


class Target:
    """A receiving process with a plain and a TLS port, and the clean images that it has got."""

    def __init__(self, folder: Path) -> None:
        certificates(folder, "edge")
        self.folder = folder
        self.port, self.tls_port = free_port(), free_port()
        tls = {
            "port": self.tls_port,
            "certificate": str(folder / "edge.pem"),
            "key": str(folder / "edge.key"),
        }
        listener = {"host": "127.0.0.1", "port": self.port, "tls": tls, "maximum_associations": 400}
        listener["maximum_associations_per_peer"] = 300
        self.process = Receiving(folder / "edge", {"listener": listener}).start()
        self.sent: list[Path] = []

    def clean_series(self) -> list[Path]:
        """Another series of a scanner that does nothing wrong."""
        name = f"clean-{len(self.sent)}"
        files = write_series(self.folder / name, CtSeries(slices=SLICES, series=name, seed=len(self.sent)))
        self.sent += files
        return files

    def settle(self, threads: int, descriptors: int) -> None:
        """Wait until the process holds no more than that, and the spool nothing but clean images."""

        end = time.monotonic() + CUT_OFF_S
        while (now := self.process.holdings()).threads > threads or now.descriptors > descriptors:
            assert time.monotonic() < end, f"{now} instead of {threads} threads, {descriptors} descriptors"
            time.sleep(0.2)
        wait_until(lambda: len(self.process.files()) <= len(self.sent), 10, "no draft stays")
        assert Counter(map(data_set_sha256, self.process.files())) == Counter(map(data_set_sha256, self.sent))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    target = Target(tmp_path_factory.mktemp("target"))
    try:
        send(target.clean_series(), target.port)
        for _ in range(3):
            association_s(target.port)
        before = target.process.holdings().resident_bytes
        yield target
        assert target.process.holdings().resident_bytes < before + GROWTH_BYTES
        assert target.process.complaints() == []
    finally:
        assert target.process.stop() == 0


@contextmanager
def nobody_notices(target: Target) -> Iterator[None]:
    """Around an attack: a scanner sends at the same time, and afterwards everything is as before."""
    time.sleep(0.5)
    before = target.process.holdings()
    files = target.clean_series()
    failures: list[BaseException] = []

    def scan() -> None:
        try:
            for number in range(0, SLICES, 5):
                send(files[number : number + 5], target.port)
        except BaseException as failure:  # noqa: BLE001 - told to the test's own thread
            failures.append(failure)

    scanner = threading.Thread(target=scan)
    scanner.start()
    try:
        yield
    finally:
        scanner.join()
    assert not failures, failures
    target.settle(before.threads, before.descriptors)
    assert target.process.holdings().resident_bytes < before.resident_bytes + GROWTH_BYTES


def opens_quickly(target: Target) -> None:
    """A new association takes less than a second, now."""
    assert statistics.median(association_s(target.port) for _ in range(5)) < LONGEST_ASSOCIATION_S


def store_items(*, uid: str = "1.2.3", change: Callable[[bytes], bytes]) -> bytes:
    """A C-STORE request as P-DATA-TF whose command set went through `change`."""
    command = change(wire.command_set(wire.store_elements(CT, uid)))
    return wire.p_data(wire.pdv(STORE, wire.COMMAND | wire.LAST, command))


def lie_about_length(command: bytes) -> bytes:
    """The value of the SOP class UID claims to be longer than all that follows."""
    return command[:16] + struct.pack("<I", 0xFFFFFFF0) + command[20:]


def without_data_set(command: bytes) -> bytes:
    """CommandDataSetType says that no data set follows."""
    start = command.index(struct.pack("<HHI", 0, 0x0800, 2)) + 8
    return command[:start] + wire.short(wire.NO_DATA_SET) + command[start + 2 :]


REQUEST = wire.associate_request([(CT, ["1.2.840.10008.1.2"])])

WRONG_AT_ONCE = {
    "garbage": (b"GET / HTTP/1.1\r\nHost: edge\r\n\r\n" * 40, "pdu_type"),
    "unknown PDU type": (wire.pdu(0x09, b"\0" * 100), "pdu_type"),
    "request of 4 GiB": (struct.pack(">BBI", 1, 0, 0xFFFFFFFF) + b"\0" * 4096, "pdu_length"),
    "garbage in a request": (wire.pdu(0x01, b"\xa5\x5a" * 700), "pdu_content"),
    "request without items": (wire.pdu(0x01, b"\0\x01\0\0"), "pdu_content"),
    "context without a class": (REQUEST.replace(b"\x30\0\0\x19", b"\x40\0\0\x19"), "pdu_content"),
    "data before the request": (wire.p_data(store_command()), "pdu_order"),
}

WRONG_IN_AN_ASSOCIATION = {
    "PDU of 4 GiB": (struct.pack(">BBI", 4, 0, 0xFFFFFFFF) + b"\0" * 4096, "pdu_length"),
    "garbage": (b"\xff" * 5000, "pdu_type"),
    "second request": (REQUEST, "pdu_order"),
    "item longer than its PDU": (wire.pdu(4, struct.pack(">IBB", 5000, 1, 3) + b"\0" * 40), "pdv_length"),
    "item of length 0": (wire.pdu(4, struct.pack(">IBB", 0, 1, 3)), "pdv_length"),
    "item of length 1": (wire.pdu(4, struct.pack(">IBB", 1, 1, 3)), "pdv_length"),
    "command set that lies": (store_items(change=lie_about_length), "command_set"),
    "command set cut off": (store_items(change=lambda command: command[:-5]), "command_set"),
    "no data set": (store_items(change=without_data_set), "command_set"),
    "unknown command": (
        store_items(
            change=lambda command: without_data_set(command).replace(
                b"\x02\0\0\0\x01\0", b"\x02\0\0\0\x77\x07"
            )
        ),
        "command_set",
    ),
    "unknown context": (wire.p_data(wire.pdv(REFUSED, 3, wire.echo_request())), "context_id"),
    "data before command": (wire.p_data(wire.pdv(STORE, wire.LAST, b"data")), "message_order"),
    "interleaved messages": (
        wire.p_data(store_command(), wire.pdv(STORE, 0, b"data"), wire.pdv(ECHO, 3, wire.echo_request())),
        "message_order",
    ),
}


@pytest.mark.parametrize(
    ("data", "word", "associated"),
    [
        *(pytest.param(*wrong, False, id=name) for name, wrong in WRONG_AT_ONCE.items()),
        *(
            pytest.param(*wrong, True, id=f"association: {name}")
            for name, wrong in WRONG_IN_AN_ASSOCIATION.items()
        ),
    ],
)
def test_what_breaks_the_protocol_is_cut_off(
    target: Target, data: bytes, word: str, associated: bool
) -> None:
    counted = target.process.misbehaviour(word)
    with nobody_notices(target):
        peers = [Peer(target.port) for _ in range(AT_ONCE)]
        for peer in peers:
            if associated:
                peer.associate()
            peer.send(data)
        opens_quickly(target)
        for peer in peers:
            assert peer.is_cut_off(CUT_OFF_S)
            peer.connection.close()
    assert target.process.misbehaviour(word) == counted + AT_ONCE


def silent(peer: Peer) -> bool:
    return peer.is_cut_off(CUT_OFF_S)


def silent_after_handshake(peer: Peer) -> bool:
    peer.shake_hands()
    return peer.is_cut_off(CUT_OFF_S)


def byte_by_byte(data: bytes, peer: Peer, *, associated: bool = False) -> bool:
    if associated:
        peer.associate()
    return peer.drip(data, 0.5, CUT_OFF_S)


def image_byte_by_byte(peer: Peer) -> bool:
    """A data set in PDUs of one byte each: every PDU is whole at once, but the message never ends."""
    peer.associate()
    peer.send(wire.p_data(store_command()))
    piece = wire.p_data(wire.pdv(STORE, 0, b"x"))
    end = time.monotonic() + CUT_OFF_S
    peer.connection.settimeout(0.5)
    while time.monotonic() < end:
        try:
            peer.send(piece)
            if peer.connection.recv(4096):
                continue  # the A-ABORT
            return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def stalled_in_an_image(peer: Peer) -> bool:
    peer.associate()
    peer.send(wire.p_data(store_command(), wire.pdv(STORE, 0, b"x" * 1000)))
    return peer.is_cut_off(CUT_OFF_S)


P_DATA_OF_AN_IMAGE = wire.p_data(store_command(), wire.pdv(STORE, 0, b"x" * 1000))

TOO_SLOW: dict[str, tuple[Callable[[Peer], bool], str, bool]] = {
    "silent": (silent, "silent", False),
    "silent, TLS": (silent, "tls_handshake", True),
    "silent after the handshake": (silent_after_handshake, "silent", True),
    "garbage instead of a handshake": (partial(byte_by_byte, REQUEST), "tls_handshake", True),
    "a byte at a time, header": (partial(byte_by_byte, b"\x01\0"), "slow", False),
    "a byte at a time, request": (partial(byte_by_byte, REQUEST), "slow", False),
    "a byte at a time, PDU": (partial(byte_by_byte, P_DATA_OF_AN_IMAGE, associated=True), "slow", False),
    "a byte at a time, image": (image_byte_by_byte, "slow", False),
    "stalled in an image": (stalled_in_an_image, "slow", False),
}


@pytest.mark.parametrize(("attack", "word", "tls"), TOO_SLOW.values(), ids=TOO_SLOW)
def test_who_is_too_slow_is_cut_off(
    target: Target, attack: Callable[[Peer], bool], word: str, tls: bool
) -> None:
    counted = target.process.misbehaviour(word)
    ended: list[bool] = []

    def run() -> None:
        with Peer(target.tls_port if tls else target.port) as peer:
            ended.append(attack(peer))

    with nobody_notices(target):
        attackers = [threading.Thread(target=run) for _ in range(AT_ONCE)]
        for attacker in attackers:
            attacker.start()
        time.sleep(0.3)
        opens_quickly(target)
        for attacker in attackers:
            attacker.join()
    assert ended == [True] * AT_ONCE
    assert target.process.misbehaviour(word) == counted + AT_ONCE


def flood_unread(peer: Peer, message: bytes) -> bool:
    """Send requests without end and read no response."""
    end = time.monotonic() + 3 * CUT_OFF_S
    peer.connection.settimeout(5.0)
    while time.monotonic() < end:
        try:
            peer.send(message)
        except TimeoutError:
            continue  # the appliance reads no more, as long as its responses lie unread
        except OSError:
            return True
    return False


@pytest.mark.parametrize("kind", ["echo", "store"])
def test_who_reads_no_response_is_cut_off(target: Target, kind: str) -> None:
    counted = target.process.misbehaviour("unread")
    items = [wire.pdv(ECHO, wire.COMMAND | wire.LAST, wire.echo_request())]
    if kind == "store":
        image = target.sent[0]
        command = store_command(str(dcmread(image).SOPInstanceUID))
        items = [command, wire.pdv(STORE, wire.LAST, data_set(image))]
    with nobody_notices(target), Peer(target.port, receive_buffer=4096) as peer:
        peer.associate()
        cut_off: list[bool] = []
        attacker = threading.Thread(
            target=lambda: cut_off.append(flood_unread(peer, wire.p_data(*items) * 50))
        )
        attacker.start()
        opens_quickly(target)
        attacker.join()
        assert cut_off == [True]
    assert target.process.misbehaviour("unread") == counted + 1


def leaves_in_the_middle_of_a_pdu(peer: Peer) -> None:
    peer.associate()
    peer.send(P_DATA_OF_AN_IMAGE[:700])
    peer.connection.close()


def leaves_in_the_middle_of_an_image(peer: Peer) -> None:
    peer.associate()
    peer.send(P_DATA_OF_AN_IMAGE)
    peer.connection.close()


def aborts(peer: Peer) -> None:
    peer.associate()
    peer.send(P_DATA_OF_AN_IMAGE + wire.ABORT)
    peer.connection.close()


def releases(peer: Peer) -> None:
    peer.associate()
    peer.send(P_DATA_OF_AN_IMAGE + wire.RELEASE_REQUEST)
    assert peer.is_cut_off(CUT_OFF_S)
    peer.connection.close()


def resets(peer: Peer) -> None:
    peer.associate()
    peer.send(P_DATA_OF_AN_IMAGE)
    peer.reset()


def resets_before_the_answer(peer: Peer) -> None:
    peer.send(REQUEST)
    peer.reset()


def resets_at_once(peer: Peer) -> None:
    peer.reset()


def sends_half_a_header(peer: Peer) -> None:
    peer.send(REQUEST[:3])
    peer.connection.close()


LEAVING = (
    leaves_in_the_middle_of_a_pdu,
    leaves_in_the_middle_of_an_image,
    aborts,
    releases,
    resets,
    resets_before_the_answer,
    resets_at_once,
    sends_half_a_header,
)


@pytest.mark.parametrize("leave", LEAVING, ids=[leave.__name__ for leave in LEAVING])
@pytest.mark.parametrize("times", [40])
def test_who_leaves_in_the_middle_leaves_nothing(
    target: Target, leave: Callable[[Peer], None], times: int
) -> None:
    with nobody_notices(target):
        for _ in range(times):
            leave(Peer(target.port))
        opens_quickly(target)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_two_hundred_half_open_connections(target: Target, tls: bool) -> None:
    word = "tls_handshake" if tls else "silent"
    counted = target.process.misbehaviour(word)
    with nobody_notices(target):
        peers = [Peer(target.tls_port if tls else target.port) for _ in range(200)]
        opens_quickly(target)
        for peer in peers:
            assert peer.is_cut_off(CUT_OFF_S)
            peer.connection.close()
    assert target.process.misbehaviour(word) == counted + 200


def test_a_flood_of_connections_from_one_address(target: Target) -> None:
    """One address gets 256; the scanner of these tests has the same one, so it has to wait."""
    counted = target.process.misbehaviour("connection_flood")
    before = target.process.holdings()
    peers = [Peer(target.port) for _ in range(300)]
    wait_until(lambda: target.process.misbehaviour("connection_flood") > counted, 20, "some are refused")
    for peer in peers:
        peer.connection.close()
    target.settle(before.threads, before.descriptors)
    opens_quickly(target)


def test_a_flood_of_associations(target: Target) -> None:
    with nobody_notices(target):
        for number in range(150):
            with Peer(target.port) as peer:
                peer.associate()
                if number % 3 == 0:
                    peer.release()
                elif number % 3 == 1:
                    peer.send(wire.ABORT)
        opens_quickly(target)
