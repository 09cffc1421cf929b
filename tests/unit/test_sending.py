"""Sending over a socket: byte for byte, in the contexts of the batch, and never with a wrong outcome."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from appliance.destinations.base import Parcel
from appliance.destinations.dicom import DicomStore
from appliance.destinations.statuses import judge
from appliance.domain.errors import TryAgain
from appliance.domain.types import Postponed, Refused, SendResult, Stored
from appliance.network.negotiation import PREFERRED_SYNTAXES
from appliance.network.requestor import MAXIMUM_CONTEXTS
from tests.support.parcels import CT, EXPLICIT, IMPLICIT, destination, digests, noise, send, spooled
from tests.support.processes import free_port, wait_until
from tests.support.storage_scp import Conversation, RawScp, Received
from tools.campaigns import wire

MR = "1.2.840.10008.5.1.4.1.1.4"
JPEG = "1.2.840.10008.1.2.4.50"


def test_every_syntax_arrives_byte_for_byte(tmp_path: Path) -> None:
    data_sets = [noise(3001 + index, index) for index, _ in enumerate(PREFERRED_SYNTAXES)]
    parcels = [
        spooled(tmp_path, data, syntax=syntax)
        for data, syntax in zip(data_sets, PREFERRED_SYNTAXES, strict=True)
    ]
    with RawScp() as scp, destination(tmp_path, scp.port) as pacs:
        assert send(pacs, parcels) == [Stored(0)] * len(parcels)
        assert [one.sha256 for one in scp.received] == digests(data_sets)
        assert [one.transfer_syntax_uid for one in scp.received] == list(PREFERRED_SYNTAXES)
        assert scp.requests == 1
        assert [one.message_id for one in scp.received] == list(range(1, len(parcels) + 1))


@pytest.mark.parametrize("longest", [0, 16, 17, 128, 4096, 16384, 131072, 262144, 0xFFFFFFFF])
def test_every_size_arrives_in_pdus_of_every_length(tmp_path: Path, longest: int) -> None:
    room = min(longest or 262144, 262144) - 6
    sizes = [0, 2, 7, room - 1, room, room + 1, 2 * room, 3 * room + 10, 40_000]
    if longest == 0 or longest > 4096:
        sizes += [524_288 - 12, 524_288, 5_000_001]
    data_sets = [noise(size) for size in sizes]
    parcels = [spooled(tmp_path, data) for data in data_sets]
    with RawScp(longest_pdu=longest) as scp, destination(tmp_path, scp.port) as pacs:
        assert send(pacs, parcels) == [Stored(0)] * len(parcels)
        assert [one.size for one in scp.received] == sizes
        assert [one.sha256 for one in scp.received] == digests(data_sets)
        assert scp.longest_seen <= (longest or 262144)
        assert all(length % 2 == 0 for one in scp.received for length in one.fragments[:-1])


def test_a_peer_that_takes_hardly_anything_is_named(tmp_path: Path) -> None:
    with (
        RawScp(longest_pdu=8) as scp,
        destination(tmp_path, scp.port) as pacs,
        pytest.raises(TryAgain, match="PDUs of 8 bytes"),
    ):
        send(pacs, [spooled(tmp_path, noise(100))])


def test_priority_is_high_or_medium(tmp_path: Path) -> None:
    parcels = [spooled(tmp_path, noise(10), urgent=urgent) for urgent in (False, True, False)]
    with RawScp() as scp, destination(tmp_path, scp.port) as pacs:
        send(pacs, parcels)
        assert [one.priority for one in scp.received] == [0, 1, 0]


@pytest.mark.slow
def test_message_ids_begin_anew_after_the_last_one(tmp_path: Path) -> None:
    parcel = spooled(tmp_path, noise(10))
    with RawScp() as scp, destination(tmp_path, scp.port) as pacs:
        assert set(send(pacs, [parcel] * 65_540)) == {Stored(0)}
        assert scp.requests == 1
        assert [one.message_id for one in scp.received[65_533:65_537]] == [65_534, 65_535, 1, 2]


def test_the_association_is_kept_for_the_next_batch_until_rest(tmp_path: Path) -> None:
    with RawScp() as scp, destination(tmp_path, scp.port) as pacs:
        for _ in range(3):
            assert send(pacs, [spooled(tmp_path, noise(5000))]) == [Stored(0)]
        assert (scp.requests, scp.releases) == (1, 0)
        pacs.rest()
        assert scp.releases == 1
        assert send(pacs, [spooled(tmp_path, noise(5000))]) == [Stored(0)]
        assert scp.requests == 2
        pacs.rest()
        pacs.rest()
        wait_until(lambda: threading.active_count() <= 2, 5, "the threads of the association end")


def test_another_context_needs_another_association(tmp_path: Path) -> None:
    with RawScp() as scp, destination(tmp_path, scp.port) as pacs:
        send(pacs, [spooled(tmp_path, noise(10)), spooled(tmp_path, noise(10), sop_class=MR)])
        send(pacs, [spooled(tmp_path, noise(10), sop_class=MR)])
        assert scp.requests == 1
        send(pacs, [spooled(tmp_path, noise(10), syntax=JPEG)])
        assert (scp.requests, scp.releases) == (2, 1)
        assert len(scp.received) == 4


def test_many_contexts_are_split(tmp_path: Path) -> None:
    parcels = [spooled(tmp_path, noise(10), syntax=JPEG, sop_class=f"1.2.3.{i}") for i in range(300)]
    with RawScp() as scp, destination(tmp_path, scp.port) as pacs:
        assert send(pacs, parcels) == [Stored(0)] * 300
        assert scp.requests == 3
        assert len(scp.proposed) == 300
    assert MAXIMUM_CONTEXTS == 128


def test_a_refused_context_concerns_its_class_only(tmp_path: Path) -> None:
    def no_mr(abstract: str, syntaxes: Sequence[str]) -> str | None:
        return None if abstract == MR else syntaxes[0]

    classes = [CT, MR, CT, MR, CT]
    parcels = [spooled(tmp_path, noise(10), sop_class=one) for one in classes]
    with RawScp(choose=no_mr) as scp, destination(tmp_path, scp.port) as pacs:
        results = send(pacs, parcels)
        assert [type(one) for one in results] == [Stored, Refused, Stored, Refused, Stored]
        assert MR in str(results[1])
        assert scp.requests == 1


def test_a_peer_that_accepts_no_context_is_no_outage(tmp_path: Path) -> None:
    with RawScp(choose=lambda *_: None) as scp, destination(tmp_path, scp.port) as pacs:
        results = send(pacs, [spooled(tmp_path, noise(10)) for _ in range(3)])
        assert [type(one) for one in results] == [Refused] * 3


def test_a_syntax_that_was_not_proposed_is_not_accepted(tmp_path: Path) -> None:
    with RawScp(choose=lambda *_: JPEG) as scp, destination(tmp_path, scp.port) as pacs:
        assert [type(one) for one in send(pacs, [spooled(tmp_path, noise(10))])] == [Refused]
        assert scp.received == []


def test_a_closed_idle_association_is_renewed_in_silence(tmp_path: Path) -> None:
    with RawScp() as scp, destination(tmp_path, scp.port) as pacs:
        for _ in range(3):
            assert send(pacs, [spooled(tmp_path, noise(5000))]) == [Stored(0)]
            scp.drop()
        assert len(scp.received) == 3
        assert scp.requests == 3


def test_an_idle_association_that_the_peer_ends_in_the_very_moment(tmp_path: Path) -> None:
    def leave(conversation: Conversation, request: Received) -> None:
        conversation.respond(request, 0)
        # The connection ends when the next object has arrived, which the sender cannot foresee.
        kind, _ = conversation.receive()
        assert kind == wire.P_DATA
        conversation.reset()

    with RawScp(faults=[leave]) as scp, destination(tmp_path, scp.port) as pacs:
        assert send(pacs, [spooled(tmp_path, noise(10))]) == [Stored(0)]
        assert send(pacs, [spooled(tmp_path, noise(200_000))]) == [Stored(0)]
        assert scp.requests == 2


def test_an_association_that_the_peer_releases_while_idle(tmp_path: Path) -> None:
    released = threading.Event()

    def release(conversation: Conversation, request: Received) -> None:
        conversation.respond(request, 0)
        time.sleep(0.2)
        conversation.connection.sendall(wire.RELEASE_REQUEST)
        kind, _ = conversation.receive()
        assert kind == wire.RELEASE_RESPONSE
        released.set()

    with RawScp(faults=[release]) as scp, destination(tmp_path, scp.port) as pacs:
        assert send(pacs, [spooled(tmp_path, noise(10))]) == [Stored(0)]
        assert released.wait(10)
        assert send(pacs, [spooled(tmp_path, noise(10))]) == [Stored(0)]
        assert scp.requests == 2


def test_nobody_there(tmp_path: Path) -> None:
    with destination(tmp_path, free_port()) as pacs, pytest.raises(TryAgain, match="Connection refused"):
        pacs.probe()


@pytest.mark.parametrize("host", ["nowhere.invalid", "x" * 70 + ".invalid"])
def test_an_unknown_host(tmp_path: Path, host: str) -> None:
    with destination(tmp_path, 104, host=host) as pacs, pytest.raises(TryAgain, match="cannot be reached"):
        pacs.probe()


def test_the_caller_can_stop(tmp_path: Path) -> None:
    settled: list[Parcel] = []
    parcels = [spooled(tmp_path, noise(10)) for _ in range(3)]

    def enough(parcel: Parcel, _result: SendResult) -> bool:
        settled.append(parcel)
        return False

    with RawScp() as scp, destination(tmp_path, scp.port) as pacs:
        pacs.send(parcels, enough)
        assert settled == parcels[:1]
        assert len(scp.received) == 1


def test_a_file_that_is_gone_holds_up_no_other(tmp_path: Path) -> None:
    parcels = [spooled(tmp_path, noise(1000, seed)) for seed in range(3)]
    parcels[1].file.unlink()
    with RawScp() as scp, destination(tmp_path, scp.port) as pacs:
        assert [type(one) for one in send(pacs, parcels)] == [Stored, Postponed, Stored]


def test_a_file_that_shrinks_is_never_taken_for_whole(tmp_path: Path) -> None:
    parcels = [spooled(tmp_path, noise(30_000_000)), spooled(tmp_path, noise(1000))]

    def shrink(_conversation: Conversation, request: Received) -> None:
        if request.size > 1_000_000 and scp.requests == 1:
            with parcels[0].file.open("r+b") as file:
                file.truncate(2_000_000)

    with RawScp(meanwhile=shrink) as scp, destination(tmp_path, scp.port) as pacs:
        assert [type(one) for one in send(pacs, parcels)] == [Postponed, Stored]
        assert [one.sop_instance_uid for one in scp.received] == [parcels[1].delivery.sop_instance_uid]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_object(tmp_path: Path) -> None:
    parcel = spooled(tmp_path, noise(1000))
    with parcel.file.open("r+b") as file:
        file.truncate(500_000_000)  # a hole: no disk is used
    with RawScp() as scp, destination(tmp_path, scp.port) as pacs:
        assert send(pacs, [spooled(tmp_path, noise(5_000_000))]) == [Stored(0)]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert send(pacs, [parcel]) == [Stored(0)]
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert scp.received[-1].size > 499_000_000
    assert grown < 30_000, f"{grown} KiB"


STORED = (0x0000, 0xB000, 0xB006, 0xB007, 0x0001, 0x0107, 0x0116)
POSTPONED = (0xA700, 0xA7FF, 0x0110, 0x0124, 0x0210, 0x0213, 0xFF00, 0xFE00)
REFUSED = (0x0117, 0x0122, 0x0212, 0xA800, 0xA900, 0xA9FF, 0xC000, 0xCFFF)


@pytest.mark.parametrize("attempts", [1, 5])
@pytest.mark.parametrize(
    ("statuses", "result"), [(STORED, Stored), (POSTPONED, Postponed), (REFUSED, Refused)]
)
def test_statuses(statuses: Sequence[int], result: type[SendResult], attempts: int) -> None:
    judged = [judge(status, attempts) for status in statuses]
    assert {type(one) for one in judged} == {result}
    assert [one.status for one in judged] == list(statuses)


def test_a_duplicate_is_ours_only_if_it_was_sent_before() -> None:
    assert isinstance(judge(0x0111, 1), Refused)
    assert judge(0x0111, 2) == Stored(0x0111)


def test_a_status_concerns_its_object_only(tmp_path: Path) -> None:
    def with_status(status: int) -> Callable[[Conversation, Received], None]:
        return lambda conversation, request: conversation.respond(request, status)

    faults = [with_status(status) for status in (0xA700, 0xC000, 0x0111, 0xB000, 0x0122)]
    parcels = [spooled(tmp_path, noise(10)) for _ in range(6)]
    with RawScp(faults=faults) as scp, destination(tmp_path, scp.port) as pacs:
        results = send(pacs, parcels)
        assert [type(one) for one in results] == [Postponed, Refused, Refused, Stored, Refused, Stored]
        assert [one.status for one in results] == [0xA700, 0xC000, 0x0111, 0xB000, 0x0122, 0]
        assert scp.requests == 1


def test_a_response_in_pieces_is_understood(tmp_path: Path) -> None:
    def in_pieces(conversation: Conversation, request: Received) -> None:
        elements = [(0x0100, wire.short(0x8001)), (0x0120, wire.short(request.message_id))]
        command = wire.command_set([*elements, (0x0800, wire.short(0x0101)), (0x0900, wire.short(0xB007))])
        for start in range(0, len(command), 10):
            control = wire.COMMAND | (wire.LAST if start + 10 >= len(command) else 0)
            pdu = wire.p_data(wire.pdv(request.context_id, control, command[start : start + 10]))
            for byte in pdu:
                conversation.connection.sendall(bytes([byte]))

    with RawScp(faults=[in_pieces]) as scp, destination(tmp_path, scp.port) as pacs:
        assert send(pacs, [spooled(tmp_path, noise(10)) for _ in range(2)]) == [Stored(0xB007), Stored(0)]


def test_a_probe_is_an_association_of_its_own(tmp_path: Path) -> None:
    with RawScp() as scp, destination(tmp_path, scp.port) as pacs:
        send(pacs, [spooled(tmp_path, noise(10))])
        pacs.probe()
        assert (scp.requests, scp.releases) == (2, 1)
        assert send(pacs, [spooled(tmp_path, noise(10))]) == [Stored(0)]
        assert scp.requests == 2
        assert ("1.2.840.10008.1.1", (IMPLICIT,)) in scp.proposed


def test_many_workers_at_once(tmp_path: Path) -> None:
    data_sets = [noise(50_000, seed) for seed in range(40)]
    parcels = [spooled(tmp_path, data, syntax=EXPLICIT) for data in data_sets]
    results: list[SendResult] = []

    def work(pacs: DicomStore, share: list[Parcel]) -> None:
        for parcel in share:
            results.extend(send(pacs, [parcel]))
        pacs.rest()

    with RawScp() as scp, destination(tmp_path, scp.port) as pacs, destination(tmp_path, scp.port) as other:
        workers = [
            threading.Thread(target=work, args=(one, parcels[start::2]))
            for start, one in enumerate((pacs, other))
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(30)
        assert results == [Stored(0)] * 40
        assert sorted(one.sha256 for one in scp.received) == sorted(digests(data_sets))
        assert scp.requests == 2
