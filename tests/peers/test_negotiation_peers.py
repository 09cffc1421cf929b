"""What real peers and odd ones propose is accepted as it should be, and limits hold over all processes."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import UID
from pynetdicom import AE, AllStoragePresentationContexts, build_context
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from tests.dicom_samples import CtSeries, ct_image, part10, write_series
from tests.support.hostile import Peer
from tests.support.pacs import send
from tests.support.processes import DCMTK_ENVIRONMENT, free_port, program
from tests.support.receiving import Receiving
from tests.support.running import RunningAppliance
from tests.support.scanner import data_set_sha256, same_elements
from tools.campaigns import wire

pytestmark = pytest.mark.slow

CT = "1.2.840.10008.5.1.4.1.1.2"
PRIVATE_CLASS = "1.3.12.2.1107.5.9.1"
GE_PRIVATE_SYNTAX = "1.2.840.113619.5.2"
EXPLICIT, IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED, JPEG_2000 = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.90"
ACCEPTED, NO_ABSTRACT_SYNTAX, NO_TRANSFER_SYNTAX = 0, 3, 4
LIMIT_EXCEEDED = b"\0\x02\x03\x02"

UNCOMPRESSED = {
    "-x=": ("+te", EXPLICIT),
    "-xe": ("+te", EXPLICIT),
    "-xb": ("+tb", BIG_ENDIAN),
    "-xi": ("+ti", IMPLICIT),
    "-xd": ("+td", DEFLATED),
}
"""The syntax that an option of storescu puts first, and how dcmconv writes a file in it."""
COMPRESSED = {
    "-xs": "4.70", "-xy": "4.50", "-xx": "4.51", "-xv": "4.90", "-xw": "4.91", "-xt": "4.80", "-xu": "4.81",
    "-xm": "4.100", "-xh": "4.101", "-xn": "4.102", "-xl": "4.103", "-x2": "4.104", "-x3": "4.105",
    "-xo": "4.106", "-x4": "4.107", "-x5": "4.108", "-xr": "5",
}  # fmt: skip
IDLE_S = 9.0
"""Longer than every other deadline of `Receiving`."""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiving]:
    port = free_port()
    listener = {"host": "127.0.0.1", "port": port, "network_timeout_s": IDLE_S, "maximum_associations": 64}
    receiving = Receiving(tmp_path_factory.mktemp("target"), {"listener": listener}).start()
    try:
        yield receiving
        assert receiving.complaints() == []
    finally:
        assert receiving.stop() == 0


def stored(receiving: Receiving, sop_instance_uid: str) -> Dataset:
    """The spooled object of that UID."""
    (found,) = [
        image for image in map(dcmread, receiving.files()) if image.SOPInstanceUID == sop_instance_uid
    ]
    return found


def storescu(port: int, path: Path, *options: str) -> None:
    command = [program("/usr/bin/storescu", "dcmtk"), *options, "-aec", "EDGE", "127.0.0.1", str(port)]
    answer = subprocess.run(
        [*command, path], env=DCMTK_ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("required", [True, False], ids=["one class", "64 classes"])
@pytest.mark.parametrize("option", UNCOMPRESSED)
def test_storescu_in_each_uncompressed_syntax(
    target: Receiving, tmp_path: Path, option: str, required: bool
) -> None:
    (original,) = write_series(tmp_path, CtSeries(slices=1, series=f"{option}{required}"))
    conversion, syntax = UNCOMPRESSED[option]
    path = tmp_path / "converted.dcm"
    subprocess.run([program("/usr/bin/dcmconv", "dcmtk"), conversion, original, path], check=True, timeout=60)
    image = dcmread(original)
    storescu(target.port, path, option, *(["-R"] if required else []))
    received = stored(target, image.SOPInstanceUID)
    assert received.file_meta.TransferSyntaxUID == syntax
    assert (received.pixel_array == image.pixel_array).all()


@pytest.mark.parametrize("option", COMPRESSED)
def test_storescu_in_each_compressed_syntax(target: Receiving, tmp_path: Path, option: str) -> None:
    """Nobody on the way looks into the pixels, so they may be anything."""
    syntax = UID(f"1.2.840.10008.1.2.{COMPRESSED[option]}")
    image = ct_image(CtSeries(series=option), 0)
    image.file_meta.TransferSyntaxUID = syntax
    image.PixelData = encapsulate([bytes(range(256)) * 40])
    image["PixelData"].VR = "OB"
    image["PixelData"].is_undefined_length = True
    path = tmp_path / "compressed.dcm"
    path.write_bytes(part10(image))
    storescu(target.port, path, option, "-R")
    received = stored(target, image.SOPInstanceUID)
    assert received.file_meta.TransferSyntaxUID == syntax
    assert same_elements(dcmread(path), received) == []


def propose(port: int, contexts: list[PresentationContext]) -> Association:
    entity = AE(ae_title="SCANNER")
    entity.acse_timeout = entity.dimse_timeout = 30
    association = entity.associate("127.0.0.1", port, contexts=contexts, ae_title="EDGE")
    assert association.is_established
    return association


def test_a_hundred_and_twenty_eight_contexts(target: Receiving) -> None:
    classes = [str(context.abstract_syntax) for context in AllStoragePresentationContexts]
    classes = [uid for uid in classes if uid != CT][:127]
    association = propose(target.port, [build_context(uid, [IMPLICIT, EXPLICIT]) for uid in [*classes, CT]])
    assert len(association.accepted_contexts) == 128
    assert {context.transfer_syntax[0] for context in association.accepted_contexts} == {EXPLICIT}
    image = ct_image(CtSeries(series="128"), 0)
    assert association.send_c_store(image).Status == 0
    association.release()
    assert same_elements(image, stored(target, image.SOPInstanceUID)) == []


def test_a_private_syntax_that_comes_first_is_passed_over(target: Receiving) -> None:
    association = propose(target.port, [build_context(CT, [GE_PRIVATE_SYNTAX, IMPLICIT, EXPLICIT])])
    assert association.accepted_contexts[0].transfer_syntax == [EXPLICIT]
    image = ct_image(CtSeries(series="GE"), 0)
    assert association.send_c_store(image).Status == 0
    association.release()
    assert same_elements(image, stored(target, image.SOPInstanceUID)) == []


def test_a_private_class(target: Receiving) -> None:
    association = propose(target.port, [build_context(PRIVATE_CLASS, [EXPLICIT])])
    image = ct_image(CtSeries(series="private").with_attributes(SOPClassUID=PRIVATE_CLASS), 0)
    assert association.send_c_store(image).Status == 0
    association.release()
    assert same_elements(image, stored(target, image.SOPInstanceUID)) == []


def test_each_context_of_a_class_keeps_its_own_syntax(target: Receiving) -> None:
    proposed = [[EXPLICIT], [IMPLICIT], [JPEG_2000], [BIG_ENDIAN, IMPLICIT]]
    contexts = [build_context(CT, syntaxes) for syntaxes in proposed]
    association = propose(target.port, contexts)
    accepted = [context.transfer_syntax[0] for context in association.accepted_contexts]
    assert accepted == [EXPLICIT, IMPLICIT, JPEG_2000, IMPLICIT]
    association.release()


def test_what_cannot_be_stored_is_refused_in_the_right_words(target: Receiving) -> None:
    contexts = [
        build_context(CT, [EXPLICIT]),
        build_context("1.2.840.10008.5.1.4.1.1.4", [GE_PRIVATE_SYNTAX]),
        build_context("1.2.840.10008.5.1.4.31", [EXPLICIT]),
    ]
    association = propose(target.port, contexts)
    results = {str(context.abstract_syntax): context.result for context in association.rejected_contexts}
    assert results == {
        "1.2.840.10008.5.1.4.1.1.4": NO_TRANSFER_SYNTAX,
        "1.2.840.10008.5.1.4.31": NO_ABSTRACT_SYNTAX,
    }
    association.release()


def test_an_idle_association_lives_until_its_own_deadline(target: Receiving) -> None:
    begin = time.monotonic()
    with Peer(target.port) as peer:
        peer.associate()
        assert not peer.is_cut_off(IDLE_S - 2.0), "no other deadline matters between two messages"
        peer.connection.settimeout(30.0)
        peer.send(wire.p_data(wire.pdv(3, wire.COMMAND | wire.LAST, wire.echo_request())))
        assert peer.receive()[0] == wire.P_DATA
        begin = time.monotonic()
        assert peer.is_cut_off(IDLE_S + 10.0)
    assert time.monotonic() - begin > IDLE_S - 1.0


def answers(
    port: int, count: int, calling: Callable[[int], str], open_peers: ExitStack
) -> list[Peer | bytes]:
    """Ask for `count` associations, which stay open: each is a peer, or the reasons of its refusal."""
    answered: list[Peer | bytes] = []
    for number in range(count):
        peer = open_peers.enter_context(Peer(port))
        peer.send(wire.associate_request([(CT, [EXPLICIT])], calling=calling(number)))
        kind, body = peer.receive()
        answered.append(peer if kind == wire.ACCEPT else body)
    return answered


def processes_with(appliance: RunningAppliance, metric: str) -> set[str]:
    """The processes of which a metric whose line begins like this is not 0."""
    lines = [line for line in appliance.get("/metrics").splitlines() if re.match(metric, line)]
    return {
        name[1]
        for line in lines
        if (name := re.search(r'process="([^"]*)"', line)) and float(line.split()[-1])
    }


@pytest.mark.parametrize("processes", [1, 2])
def test_the_sixty_fifth_association_is_rejected(tmp_path: Path, processes: int) -> None:
    port = free_port()
    listener = {"host": "127.0.0.1", "port": port, "processes": processes, "maximum_associations_per_peer": 5}
    settings = {"pipelines": [], "listener": listener}
    appliance = RunningAppliance(tmp_path, pacs_port=free_port(), settings=settings).start()
    try:
        with ExitStack() as open_peers:
            accepted = answers(port, 64, lambda number: f"SCANNER{number // 4}", open_peers)
            assert all(isinstance(one, Peer) for one in accepted)
            assert answers(port, 2, lambda _: "ANOTHER", open_peers) == [LIMIT_EXCEEDED] * 2
            for one in accepted[:6]:
                assert isinstance(one, Peer)
                one.release()
                one.connection.close()
            time.sleep(2.0)
            again = answers(port, 6, lambda _: "SCANNER", open_peers)
            assert [isinstance(one, Peer) for one in again] == [True] * 5 + [False], "five for one peer"
            assert again[5] == LIMIT_EXCEEDED
            assert answers(port, 1, lambda _: "ANOTHER", open_peers) != [LIMIT_EXCEEDED]
        names = {"receive", "receive-2"} if processes == 2 else {"receive"}
        assert processes_with(appliance, r"appliance_associations_total{[^}]*accepted") == names
    finally:
        appliance.stop()


def test_both_processes_of_one_port_receive(tmp_path: Path) -> None:
    port = free_port()
    settings = {"pipelines": [], "listener": {"host": "127.0.0.1", "port": port, "processes": 2}}
    appliance = RunningAppliance(tmp_path / "edge", pacs_port=free_port(), settings=settings).start()
    files = write_series(tmp_path / "files", CtSeries(slices=24, series="shared"))
    try:
        for number in range(0, len(files), 2):
            send(files[number : number + 2], port)
        assert processes_with(appliance, "appliance_received_bytes_total{") == {"receive", "receive-2"}
    finally:
        appliance.stop()
    spool = tmp_path / "edge" / "var" / "spool" / "originals"
    spooled = [path for path in spool.glob("*/*.dcm") if path.stat().st_size]
    assert sorted(map(data_set_sha256, spooled)) == sorted(map(data_set_sha256, files))
