"""Sending to real peers: storescp of DCMTK with its faults, with TLS, and with few transfer syntaxes."""

from __future__ import annotations

import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from appliance.destinations.base import Parcel
from appliance.domain.errors import Misconfigured, TryAgain
from appliance.domain.types import Refused, SendResult, Stored
from appliance.network.tls import server_context
from tests.dicom_samples import CtSeries, ct_image, part10
from tests.support.certificates import certificates
from tests.support.pacs import StoreScp
from tests.support.parcels import destination, send, spooled
from tests.support.processes import free_port, listens, program, wait_until
from tests.support.receiving import Receiving
from tests.support.scanner import data_set, data_set_sha256, same_elements
from tests.support.storage_scp import RawScp

pytestmark = pytest.mark.slow

JPEG_BASELINE = "1.2.840.10008.1.2.4.50"


@contextmanager
def storescp(folder: Path, *options: str) -> Iterator[StoreScp]:
    pacs = StoreScp(folder / "storescp", faults=options)
    try:
        yield pacs.start()
    finally:
        pacs.stop()


def images(folder: Path, count: int) -> list[Parcel]:
    parcels = []
    for index in range(count):
        image = ct_image(CtSeries(rows=256, columns=256, seed=index), index)
        path = folder / f"image-{index}.dcm"
        path.write_bytes(part10(image))
        parcels.append(spooled(folder, path, uid=image.SOPInstanceUID))
    return parcels


def test_storescp_gets_what_lies_in_the_files(tmp_path: Path) -> None:
    parcels = images(tmp_path, 20)
    with storescp(tmp_path) as pacs, destination(tmp_path, pacs.port) as store:
        store.probe()
        assert send(store, parcels) == [Stored(0)] * 20
        store.rest()
        arrived = sorted(data_set_sha256(path) for path in pacs.files)
        assert arrived == sorted(data_set_sha256(parcel.file) for parcel in parcels)


@pytest.mark.parametrize(
    "fault",
    [
        ("--refuse",),
        ("--abort-after",),
        ("--abort-during",),
        ("--sleep-after", "2"),
        ("--sleep-during", "2"),
    ],
    ids=lambda fault: fault[0],
)
def test_every_fault_of_storescp_is_an_outage_and_no_more(tmp_path: Path, fault: Sequence[str]) -> None:
    parcels = images(tmp_path, 3)
    pacs = StoreScp(tmp_path / "storescp", faults=fault)
    with destination(tmp_path, pacs.port, timeout_s=1.0) as store:
        pacs.start()
        begin = time.monotonic()
        with pytest.raises(TryAgain):
            send(store, parcels)
        assert time.monotonic() - begin < 6
        pacs.stop()
        # What it has forked still sleeps, and listens.
        wait_until(lambda: not listens(pacs.port), 10, "nobody listens")
        pacs.faults = ()
        with pytest.raises(TryAgain):
            send(store, parcels)
        pacs.start()
        try:
            assert send(store, parcels) == [Stored(0)] * 3
            arrived = {path.name: data_set_sha256(path) for path in pacs.files}
            assert sorted(arrived.values()) == sorted(data_set_sha256(one.file) for one in parcels)
        finally:
            pacs.stop()


def test_the_appliance_names_itself(tmp_path: Path) -> None:
    """`--reject` wants an implementation class UID."""
    with storescp(tmp_path, "--reject") as pacs, destination(tmp_path, pacs.port) as store:
        assert send(store, images(tmp_path, 1)) == [Stored(0)]


def colour() -> Dataset:
    image = ct_image(CtSeries(rows=16, columns=16), 0)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (67, 65, 3), np.uint8)
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit = 7
    image.PixelData = pixels.tobytes() + b"\0"
    image.Rows, image.Columns = 67, 65
    image["PixelData"].VR = "OB"
    return image


def grey(*, signed: bool = False) -> Dataset:
    return ct_image(CtSeries(rows=70, columns=100, signed=signed, bits_stored=16 if signed else 12), 0)


def compressed(syntax: str, encoder: str) -> Callable[[Dataset, Path], None]:
    def write(image: Dataset, path: Path) -> None:
        image.compress(syntax, encoding_plugin=encoder, generate_instance_uid=False)
        path.write_bytes(part10(image))

    return write


def converted(tool: str, *options: str) -> Callable[[Dataset, Path], None]:
    def write(image: Dataset, path: Path) -> None:
        native = path.with_suffix(".native")
        native.write_bytes(part10(image))
        command = [program(f"/usr/bin/{tool}", "dcmtk"), *options, str(native), str(path)]
        subprocess.run(command, check=True, timeout=60)

    return write


ENCODINGS = {
    RLELossless: compressed(RLELossless, "pylibjpeg"),
    JPEG2000Lossless: compressed(JPEG2000Lossless, "pylibjpeg"),
    JPEGLSLossless: compressed(JPEGLSLossless, "pyjpegls"),
    JPEGLosslessSV1: converted("dcmcjpeg", "+e1", "+un"),
    JPEGLossless: converted("dcmcjpeg", "+el", "+un"),
    "1.2.840.10008.1.2.1.99": converted("dcmconv", "+td"),
    ExplicitVRBigEndian: converted("dcmconv", "+tb"),
    ExplicitVRLittleEndian: converted("dcmconv", "+te"),
}


@pytest.mark.parametrize("kind", [grey, lambda: grey(signed=True), colour], ids=["grey", "signed", "colour"])
@pytest.mark.parametrize("syntax", ENCODINGS)
def test_a_peer_that_takes_implicit_only_gets_the_same_image(
    tmp_path: Path, syntax: str, kind: Callable[[], Dataset]
) -> None:
    path = tmp_path / "image.dcm"
    ENCODINGS[syntax](kind(), path)
    stored, before = dcmread(path), path.read_bytes()
    assert stored.file_meta.TransferSyntaxUID == syntax
    parcel = spooled(tmp_path, path, syntax=syntax, uid=stored.SOPInstanceUID)
    with storescp(tmp_path, "+xi") as pacs, destination(tmp_path, pacs.port) as store:
        assert send(store, [parcel, parcel]) == [Stored(0)] * 2
        store.rest()
        (arrived,) = pacs.datasets().values()
    assert arrived.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    # A codec may keep the colours as planes or in another colour space, without a loss.
    assert set(same_elements(stored, arrived)) <= {"(0028,0004)", "(0028,0006)", "(7FE0,0010)"}
    pixels = pixel_array(kind())
    assert np.array_equal(pixel_array(arrived), pixels)
    assert path.read_bytes() == before


def test_lossy_images_are_never_touched(tmp_path: Path) -> None:
    path = tmp_path / "image.dcm"
    converted("dcmcjpeg", "+eb", "+un")(colour(), path)
    lossy = spooled(tmp_path, path, syntax=JPEG_BASELINE, uid=dcmread(path).SOPInstanceUID)
    fine = images(tmp_path, 1)
    with storescp(tmp_path, "+xi") as pacs, destination(tmp_path, pacs.port) as store:
        results = send(store, [lossy, *fine])
        assert [type(one) for one in results] == [Refused, Stored]
        assert "cannot be converted without a loss" in str(results[0])


def test_damaged_images_are_refused_and_hold_up_no_other(tmp_path: Path) -> None:
    """JPEG lossless too, on which the only free decoder is known to crash."""
    parcels = []
    for syntax in (JPEGLosslessSV1, RLELossless, JPEG2000Lossless, JPEGLSLossless):
        path = tmp_path / f"{syntax}.dcm"
        ENCODINGS[syntax](grey(), path)
        whole = path.read_bytes()
        rng = np.random.default_rng(1)
        for number, cut in enumerate((len(whole) - 300, len(whole) - 9, len(whole))):
            damaged = bytearray(whole[:cut])
            if cut == len(whole):
                start = whole.rindex(b"\xe0\x7f\x10\x00") + 40
                for at in rng.integers(start, len(whole) - 20, 200):
                    damaged[at] = rng.integers(256)
            file = tmp_path / f"{syntax}-{number}.dcm"
            file.write_bytes(damaged)
            parcels.append(spooled(tmp_path, file, syntax=syntax))
    with storescp(tmp_path, "+xi") as pacs, destination(tmp_path, pacs.port) as store:
        *results, last = send(store, [*parcels, *images(tmp_path, 1)])
        assert last == Stored(0)
        cut_off = [one for index, one in enumerate(results) if index % 3 != 2]
        assert {type(one) for one in cut_off} == {Refused}
        assert {type(one) for one in results} <= {Refused, Stored}


def test_the_same_goes_for_real_files(tmp_path: Path, real_data: Callable[[str], Path]) -> None:
    """Whatever the odd files hold: it arrives with the same elements, or is refused."""
    outcomes: dict[str, list[type[SendResult]]] = {}
    with (
        RawScp(choose=lambda _, syntaxes: ImplicitVRLittleEndian if len(syntaxes) > 1 else None) as scp,
        destination(tmp_path, scp.port) as store,
    ):
        for path in sorted(real_data("odd/pydicom-data").rglob("*.dcm")):
            meta = dcmread(path, force=True, stop_before_pixels=True).get("file_meta")
            if meta is None or "TransferSyntaxUID" not in meta or "MediaStorageSOPClassUID" not in meta:
                continue
            if not data_set(path):
                continue
            syntax = meta.TransferSyntaxUID
            parcel = spooled(tmp_path, path, syntax=syntax, sop_class=meta.MediaStorageSOPClassUID)
            outcomes.setdefault(syntax, []).extend(map(type, send(store, [parcel])))
    assert {type_ for types in outcomes.values() for type_ in types} == {Stored, Refused}
    assert set(outcomes["1.2.840.10008.1.2.4.91"]) == {Refused}
    assert outcomes[JPEG2000Lossless].count(Stored) >= 3
    assert outcomes["1.2.840.10008.1.2.4.201"].count(Stored) >= 1
    assert outcomes[ExplicitVRLittleEndian].count(Stored) >= 10


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir()
    certificates(folder, "pacs", "edge")
    other = folder / "other"
    other.mkdir()
    certificates(other, "edge")
    return folder


def tls_options(keys: Path, *more: str) -> tuple[str, ...]:
    return ("+tls", str(keys / "pacs.key"), str(keys / "pacs.pem"), "+cf", str(keys / "ca.pem"), *more)


def test_tls_with_certificates_on_both_sides(tmp_path: Path, keys: Path) -> None:
    parcels = images(tmp_path, 5)
    large = spooled(tmp_path, bytes(30_000_001))
    ours = {"certificate": str(keys / "edge.pem"), "key": str(keys / "edge.key")}
    with storescp(tmp_path, *tls_options(keys, "--require-peer-cert")) as pacs:
        with destination(tmp_path, pacs.port, tls={"ca": str(keys / "ca.pem"), **ours}) as store:
            store.probe()
            assert send(store, parcels) == [Stored(0)] * 5
            assert send(store, parcels) == [Stored(0)] * 5
        for tls in ({"ca": str(keys / "ca.pem")}, None):
            with destination(tmp_path, pacs.port, tls=tls) as store, pytest.raises(TryAgain):
                send(store, parcels)
    arrived = {data_set_sha256(path) for path in pacs.files}
    assert arrived == {data_set_sha256(parcel.file) for parcel in parcels}
    with (
        RawScp(tls=server_context(keys / "pacs.pem", keys / "pacs.key", keys / "ca.pem")) as scp,
        destination(tmp_path, scp.port, tls={"ca": str(keys / "ca.pem"), **ours}) as store,
    ):
        assert send(store, [large]) == [Stored(0)]
        assert scp.received[0].size == 30_000_001
        with (
            destination(tmp_path, scp.port, tls={"ca": str(keys / "ca.pem")}) as other,
            pytest.raises(TryAgain, match="CERTIFICATE_REQUIRED"),
        ):
            other.probe()


def test_tls_without_a_certificate_of_ours(tmp_path: Path, keys: Path) -> None:
    with storescp(tmp_path, *tls_options(keys, "--ignore-peer-cert")) as pacs:
        with destination(tmp_path, pacs.port, tls={"ca": str(keys / "ca.pem")}) as store:
            assert send(store, images(tmp_path, 2)) == [Stored(0)] * 2
        with (
            destination(tmp_path, pacs.port, tls={"ca": str(keys / "other" / "ca.pem")}) as store,
            pytest.raises(TryAgain, match="no TLS connection"),
        ):
            store.probe()


def test_the_certificate_has_to_be_for_the_peer(tmp_path: Path) -> None:
    certificates(tmp_path, "pacs", alternative="DNS:pacs.example")
    ca = str(tmp_path / "ca.pem")
    with storescp(tmp_path, *tls_options(tmp_path, "--ignore-peer-cert")) as pacs:
        for tls, problem in (
            ({"ca": ca}, "IP address mismatch"),
            ({"ca": ca, "name": "pacs.other"}, "Hostname mismatch"),
        ):
            with (
                destination(tmp_path, pacs.port, tls=tls) as store,
                pytest.raises(TryAgain, match=problem),
            ):
                store.probe()
        with destination(tmp_path, pacs.port, tls={"ca": ca, "name": "pacs.example"}) as store:
            store.probe()


def test_old_tls_and_silence_are_refused(tmp_path: Path, keys: Path) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.warns(DeprecationWarning):
        old.maximum_version = old.minimum_version = ssl.TLSVersion.TLSv1_1
    old.load_cert_chain(keys / "pacs.pem", keys / "pacs.key")
    tls = {"ca": str(keys / "ca.pem")}
    for server in (old, None):
        begin = time.monotonic()
        with (
            RawScp(tls=server) as scp,
            destination(tmp_path, scp.port, tls=tls, timeout_s=1.0) as store,
            pytest.raises(TryAgain, match="no TLS connection"),
        ):
            store.probe()
        assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (("ca.pem", "edge.pem", "pacs.key"), "the certificate, key or ca cannot be used"),
        (("ca.pem", "edge.pem", None), "certificate and key go together"),
        (("ca.pem", None, "edge.key"), "certificate and key go together"),
    ],
)
def test_tls_files_that_do_not_fit_are_named(
    tmp_path: Path, keys: Path, files: Sequence[str | None], problem: str
) -> None:
    named = zip(("ca", "certificate", "key"), files, strict=True)
    tls = {name: str(keys / file) for name, file in named if file}
    with (
        pytest.raises(Misconfigured, match=rf"destinations\.pacs\.tls: {problem}"),
        destination(tmp_path, 104, tls=tls),
    ):
        pass


def test_our_own_listener_with_tls(tmp_path: Path, keys: Path) -> None:
    """One appliance sends to another, each with its certificate."""
    port, tls_port = free_port(), free_port()
    tls = {
        "port": tls_port,
        "certificate": str(keys / "pacs.pem"),
        "key": str(keys / "pacs.key"),
        "ca": str(keys / "ca.pem"),
    }
    networks = [{"ae_title": "EDGE", "networks": ["127.0.0.0/8"]}]
    listener = {"host": "127.0.0.1", "port": port, "accept": networks, "tls": tls}
    other = Receiving(tmp_path / "other", {"listener": listener}).start()
    try:
        ours = {"certificate": str(keys / "edge.pem"), "key": str(keys / "edge.key")}
        client = {"ca": str(keys / "ca.pem"), **ours}
        parcels = images(tmp_path, 3)
        with destination(tmp_path, tls_port, ae_title="EDGE", tls=client) as store:
            store.probe()
            assert send(store, parcels) == [Stored(0)] * 3
        arrived = sorted(data_set_sha256(path) for path in other.files())
        assert arrived == sorted(data_set_sha256(parcel.file) for parcel in parcels)
    finally:
        other.stop()
