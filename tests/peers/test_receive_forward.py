"""From scanners to the PACS: everything arrives as it was sent, whatever it is."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pydicom.data
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests.dicom_samples import CtSeries, ct_image, part10, sample_uid, write_series
from tests.support.certificates import certificates
from tests.support.pacs import Orthanc, StoreScp, send
from tests.support.processes import DCMTK_ENVIRONMENT, free_port, listens, program, stop, wait_until
from tests.support.running import ENVIRONMENT, RunningAppliance
from tests.support.scanner import (
    AnySyntaxPacs,
    associate,
    data_set,
    data_set_sha256,
    refusal,
    same_elements,
    scanner,
    send_verbatim,
)
from tests.support.settling import waiting_deliveries

pytestmark = pytest.mark.slow

NO_MODELS: dict[str, Any] = {"pipelines": []}
HTJ2K_LOSSLESS = "1.2.840.10008.1.2.4.201"
# DCMTK 3.6.7 refuses these: Deflated Image Frame Compression and high-throughput JPEG 2000.
UNKNOWN_TO_DCMTK = ("1.2.840.10008.1.2.8.1", HTJ2K_LOSSLESS, "1.2.840.10008.1.2.4.203")
PRIVATE_CLASS = "1.3.12.2.1107.5.9.1"
UID_ELEMENTS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


class Site:
    """An appliance without models that sends to DCMTK's storescp and to a PACS that takes every syntax."""

    def __init__(self, folder: Path) -> None:
        self.pacs = StoreScp(folder / "pacs", every_copy=True).start()
        self.other = AnySyntaxPacs()
        pacs = {
            name: {"ae_title": "PACS", "host": "127.0.0.1", "port": port}
            for name, port in (("pacs", self.pacs.port), ("other", self.other.port))
        }
        settings = {**NO_MODELS, "destinations": pacs}
        self.appliance = RunningAppliance(folder / "edge", pacs_port=self.pacs.port, settings=settings)
        self.appliance.start()
        self._rounds = 0

    @property
    def port(self) -> int:
        return self.appliance.port

    def close(self) -> None:
        self.appliance.stop()
        self.pacs.stop()
        self.other.stop()

    def spooled(self, folder: str = "originals") -> list[Path]:
        return [
            path
            for path in (self.appliance.folder / "var" / "spool" / folder).glob("*/*.dcm")
            if path.stat().st_size
        ]

    def settle(self) -> None:
        """Wait until all that came in went out."""
        time.sleep(0.3)  # the journal is written behind the answer
        wait_until(lambda: not waiting_deliveries(self.appliance), 60, "everything is delivered")

    def newly_arrived(self, expected: int) -> list[Path]:
        """The files that came to storescp since the last call; both PACS must have got `expected`."""
        wait_until(lambda: len(self.pacs.files) >= expected, 60, f"{expected} files arrive")
        self.settle()
        arrived = self.pacs.folder.with_name(f"arrived-{self._rounds}")
        self._rounds += 1
        arrived.mkdir()
        moved = [path.rename(arrived / path.name) for path in self.pacs.files]
        assert len(moved) == expected
        counted, self.other.arrived = self.other.arrived, Counter()
        assert counted == hashes(moved)
        return moved


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    try:
        yield site
    finally:
        site.close()


def hashes(files: Iterable[Path]) -> Counter[str]:
    return Counter(map(data_set_sha256, files))


def readable(path: Path) -> Dataset | None:
    """The data set, if it can be a SOP instance of a study."""
    try:
        image = dcmread(path)
    except InvalidDicomError:
        return None
    return image if all(image.get(keyword) for keyword in UID_ELEMENTS) else None


REAL = [
    "ct/philips-skull-phantom/std-5mm",
    "ct/philips-skull-phantom/scout",
    "ct/philips-skull-phantom/exam-summary-sc",
    "ct/human-lung",
    "mr/human-brain",
    "mr/philips-epi",
    "single",
]


@pytest.mark.parametrize("name", REAL)
def test_real_images_arrive_as_a_real_scanner_sent_them(
    site: Site, real_data: Callable[[str], Path], name: str
) -> None:
    files = sorted(path for path in real_data(name).rglob("*") if path.is_file())
    send(files, site.port)
    arrived = site.newly_arrived(len(files))
    assert not hashes(arrived) - hashes(site.spooled())
    received = {str(image.SOPInstanceUID): image for image in map(dcmread, arrived)}
    for image in map(dcmread, files):
        assert same_elements(image, received.pop(image.SOPInstanceUID)) == []
    assert not received


@pytest.mark.filterwarnings("ignore")
def test_every_syntax_passes_byte_for_byte(
    site: Site, tmp_path: Path, real_data: Callable[[str], Path]
) -> None:
    """pydicom's own files: odd, broken, compressed, of many vendors, in many syntaxes."""
    package = Path(pydicom.data.__file__).parent
    folders = [package / "test_files", package / "charset_files", real_data("odd/pydicom-data")]
    files: dict[str, Path] = {}
    syntaxes = set()
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        image = readable(path)
        if image is None or image.file_meta.TransferSyntaxUID in UNKNOWN_TO_DCMTK:
            continue
        content = data_set(path)
        if len(content) % 2:
            continue  # at an odd length, which no data set has (PS3.5 section 7.1), DCMTK hangs up
        fits = image.file_meta.get("MediaStorageSOPInstanceUID") == image.SOPInstanceUID
        sent = path if fits else with_meta_of(image, content, tmp_path / path.name)
        files.setdefault(data_set_sha256(sent), sent)
        syntaxes.add(str(image.file_meta.TransferSyntaxUID))
    deflated = ct_image(CtSeries(series="deflated"), 0)
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    (tmp_path / "deflated.dcm").write_bytes(part10(deflated))
    files["deflated"] = tmp_path / "deflated.dcm"
    assert len(files) > 150
    assert len(syntaxes) >= 10
    send_verbatim(files.values(), site.port)
    assert hashes(site.newly_arrived(len(files))) == hashes(files.values())


def with_meta_of(image: Dataset, content: bytes, path: Path) -> Path:
    """A file of `content` whose file meta information names the UIDs of `image`."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = image.SOPClassUID
    meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    meta.TransferSyntaxUID = image.file_meta.TransferSyntaxUID
    return with_meta(meta, content, path)


def with_meta(meta: FileMetaDataset, content: bytes, path: Path) -> Path:
    encoded = DicomBytesIO()
    write_file_meta_info(encoded, meta, enforce_standard=False)
    path.write_bytes(b"\0" * 128 + b"DICM" + encoded.getvalue() + content)
    return path


@pytest.mark.filterwarnings("ignore")
def test_syntaxes_that_dcmtk_does_not_know(
    site: Site, tmp_path: Path, real_data: Callable[[str], Path]
) -> None:
    files, syntaxes = [], []
    for path in sorted(real_data("odd/pydicom-data").rglob("*.dcm")):
        image = dcmread(path, force=True)
        if image.get("file_meta", {}).get("TransferSyntaxUID") in UNKNOWN_TO_DCMTK:
            for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
                image.setdefault(keyword, sample_uid(keyword, path.name))
            image.save_as(tmp_path / path.name)
            files.append(tmp_path / path.name)
            syntaxes.append(str(image.file_meta.TransferSyntaxUID))
    assert len(set(syntaxes)) >= 3
    send_verbatim(files, site.port)
    wait_until(lambda: site.other.arrived.total() >= len(files), 30, "all arrive")
    site.settle()
    assert site.other.arrived == hashes(files)
    site.other.arrived.clear()
    # What can be transcoded without a loss is, for the PACS that takes it in no other way.
    assert len(site.pacs.files) == syntaxes.count(HTJ2K_LOSSLESS) > 0
    for path in site.pacs.files:
        path.unlink()


def test_a_private_class_passes(site: Site, tmp_path: Path) -> None:
    files = write_series(
        tmp_path / "private",
        CtSeries(slices=3, series="private").with_attributes(SOPClassUID=PRIVATE_CLASS),
    )
    send_verbatim(files, site.port)
    assert hashes(site.newly_arrived(3)) == hashes(files)


def test_truncated_pixels_pass(site: Site, tmp_path: Path) -> None:
    (path,) = write_series(tmp_path, CtSeries(slices=1, series="truncated"))
    path.write_bytes(path.read_bytes()[:-2000])
    send_verbatim([path], site.port)
    assert hashes(site.newly_arrived(1)) == hashes([path])


@pytest.mark.parametrize(
    ("keyword", "element"),
    [("MediaStorageSOPClassUID", 0x00080016), ("MediaStorageSOPInstanceUID", 0x00080018)],
)
def test_a_request_that_names_another_uid_is_refused_and_kept(
    site: Site, tmp_path: Path, keyword: str, element: int
) -> None:
    image = ct_image(CtSeries(series=keyword), 0)
    original = tmp_path / "original.dcm"
    original.write_bytes(part10(image))
    other = {"MediaStorageSOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "MediaStorageSOPInstanceUID": "1.2.3.4"}
    setattr(image.file_meta, keyword, other[keyword])
    path = with_meta(image.file_meta, data_set(original), tmp_path / "other.dcm")
    with scanner(site.port, [path]) as sender:
        answer = sender.store(path)
        assert sender.store(path).status == 0xA900, "the association goes on"
    assert (answer.status, answer.offending_element) == (0xA900, element)
    assert answer.comment
    assert data_set_sha256(path) in hashes(site.spooled("quarantine"))
    assert site.newly_arrived(0) == []


@pytest.mark.parametrize(
    "missing", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"]
)
def test_a_data_set_without_identifiers_is_refused_and_kept(site: Site, tmp_path: Path, missing: str) -> None:
    image = ct_image(CtSeries(series=missing), 0)
    meta = image.file_meta
    delattr(image, missing)
    encoded = DicomBytesIO()
    encoded.is_implicit_VR, encoded.is_little_endian = False, True
    write_dataset(encoded, image)
    path = with_meta(meta, encoded.getvalue(), tmp_path / "lacking.dcm")
    with scanner(site.port, [path]) as sender:
        answer = sender.store(path)
    assert answer.status == 0xC000
    assert data_set_sha256(path) in hashes(site.spooled("quarantine"))
    assert site.newly_arrived(0) == []


def test_noise_instead_of_a_data_set_is_refused_and_kept(site: Site, tmp_path: Path) -> None:
    path = with_meta_of(ct_image(CtSeries(series="noise"), 0), b"\xff\x00noise" * 999, tmp_path / "noise.dcm")
    with scanner(site.port, [path]) as sender:
        assert sender.store(path).status == 0xC000
    assert data_set_sha256(path) in hashes(site.spooled("quarantine"))


def test_the_same_bytes_twice_are_delivered_once(site: Site, tmp_path: Path) -> None:
    files = write_series(tmp_path, CtSeries(slices=3, series="twice"))
    send_verbatim(files, site.port)
    send_verbatim(files, site.port)
    assert hashes(site.newly_arrived(3)) == hashes(files)
    send_verbatim(files, site.port)
    assert site.newly_arrived(0) == []
    wait_until(lambda: sum(hashes(site.spooled())[d] for d in hashes(files)) == 3, 10, "no copy is kept")


def test_other_pixels_under_the_same_uid_are_both_delivered(site: Site, tmp_path: Path) -> None:
    first = write_series(tmp_path / "first", CtSeries(slices=1, series="changed", seed=1))
    second = write_series(tmp_path / "second", CtSeries(slices=1, series="changed", seed=2))
    send_verbatim(first, site.port)
    send_verbatim(second, site.port)
    assert hashes(site.newly_arrived(2)) == hashes([*first, *second])


@pytest.mark.parametrize(
    ("option", "syntax"),
    [("-xi", "1.2.840.10008.1.2"), ("-xe", "1.2.840.10008.1.2.1"), ("-xb", "1.2.840.10008.1.2.2")],
)
def test_storescu_in_each_uncompressed_syntax(site: Site, tmp_path: Path, option: str, syntax: str) -> None:
    files = write_series(tmp_path, CtSeries(slices=2, series=f"storescu{option}"))
    command = [
        program("/usr/bin/storescu", "dcmtk"),
        "-R",
        option,
        "-aec",
        "EDGE",
        "127.0.0.1",
        str(site.port),
    ]
    subprocess.run([*command, *files], env=DCMTK_ENVIRONMENT, check=True, capture_output=True, timeout=60)
    arrived = site.newly_arrived(2)
    assert not hashes(arrived) - hashes(site.spooled())
    received = {str(image.SOPInstanceUID): image for image in map(dcmread, arrived)}
    for image in map(dcmread, files):
        other = received[image.SOPInstanceUID]
        assert other.file_meta.TransferSyntaxUID in (syntax, "1.2.840.10008.1.2.1")
        assert (other.pixel_array == image.pixel_array).all()


def test_a_scanner_is_told_in_its_own_words_why_it_may_not_send(site: Site) -> None:
    assert refusal(associate(site.port, called="OTHER")) == (1, 1, 7)
    association = associate(site.port)
    assert association.send_c_echo().Status == 0
    association.release()


def test_an_aborted_association_leaves_nothing_and_hurts_nobody(site: Site, tmp_path: Path) -> None:
    files = write_series(tmp_path, CtSeries(slices=2, series="aborted"))
    association = associate(site.port, files)
    association.abort()
    half_open = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(20)]
    send_verbatim(files, site.port)
    for connection in half_open:
        connection.close()
    assert hashes(site.newly_arrived(2)) == hashes(files)


def listening(port: int, **changes: object) -> dict[str, object]:
    """The section `listener` of a configuration."""
    accept = [{"ae_title": "SCANNER", "networks": ["127.0.0.0/8"]}]
    return {"host": "127.0.0.1", "port": port, "accept": accept, **changes}


def test_who_may_not_send_and_when_nobody_may(tmp_path: Path) -> None:
    port = free_port()
    settings = {
        **NO_MODELS,
        "listener": listening(port),
        "storage": {"path": "./var", "minimum_free_mb": 10**9},
    }
    config = RunningAppliance(tmp_path, pacs_port=free_port(), settings=settings).config
    command = [sys.executable, "-m", "appliance", "receive", "--config", str(config)]
    with (tmp_path / "log").open("wb") as log:
        receive = subprocess.Popen(command, env=ENVIRONMENT, stderr=log)
    try:
        wait_until(lambda: listens(port), 30, "the receiver listens")
        assert refusal(associate(port, calling="STRANGER")) == (1, 1, 3)
        assert refusal(associate(port, called="OTHER")) == (1, 1, 7)
        assert refusal(associate(port)) == (2, 3, 1), "no room on the disk"
    finally:
        assert stop(receive) == 0


def storescu_tls(port: int, folder: Path, files: list[Path], *identity: str | Path) -> int:
    command = [program("/usr/bin/storescu", "dcmtk"), "-aet", "SCANNER", "-aec", "EDGE", *identity]
    command += ["+cf", folder / "ca.pem", "127.0.0.1", str(port), *files]
    return subprocess.run(
        command, env=DCMTK_ENVIRONMENT, capture_output=True, timeout=60, check=False
    ).returncode


def test_tls_and_draining(tmp_path: Path) -> None:
    """With mutual certificates; no silent client holds up the others; a stop lets open transfers end."""
    certificates(tmp_path, "edge", "scanner")
    port, tls_port = free_port(), free_port()
    names = {"certificate": "edge.pem", "key": "edge.key", "ca": "ca.pem"}
    tls = {"port": tls_port, **{name: str(tmp_path / file) for name, file in names.items()}}
    with_tls = {**NO_MODELS, "listener": listening(port, tls=tls)}
    pacs = StoreScp(tmp_path / "pacs").start()
    appliance = RunningAppliance(tmp_path / "edge", pacs_port=pacs.port, settings=with_tls).start()
    files = write_series(tmp_path / "files", CtSeries(slices=2, series="tls"))
    try:
        silent = [socket.create_connection(("127.0.0.1", tls_port)) for _ in range(3)]
        own = ("+tls", tmp_path / "scanner.key", tmp_path / "scanner.pem")
        begin = time.monotonic()
        assert storescu_tls(tls_port, tmp_path, files, *own) == 0
        assert time.monotonic() - begin < 5, "a silent client held it up"
        assert storescu_tls(tls_port, tmp_path, files, "+tla") != 0, "a certificate is asked for"
        for connection in silent:
            connection.close()
        wait_until(lambda: len(pacs.files) == 2, 30, "both arrive")
        late = write_series(tmp_path / "late", CtSeries(slices=1, series="late"))
        with scanner(port, late) as sender:
            assert appliance.process is not None
            appliance.process.terminate()
            wait_until(lambda: refusal(associate(port)) == (2, 3, 1), 10, "new associations are refused")
            assert sender.store(late[0]).status == 0, "an open association may finish"
    finally:
        appliance.stop()
        pacs.stop()
    deliveries = appliance.status()["deliveries"]
    assert sum(deliveries.values()) == 3, "what was taken in at the end is known at the next start"
    assert deliveries["rejected"] == deliveries["sending"] == 0


def test_orthanc_gets_the_same_bytes(
    orthanc: Orthanc,
    appliance: Callable[..., RunningAppliance],
    tmp_path: Path,
    real_data: Callable[[str], Path],
) -> None:
    running = appliance(orthanc.port, settings=NO_MODELS)
    files = sorted(real_data("ct/philips-skull-phantom/std-5mm").iterdir())
    send_verbatim(files, running.port)
    wait_until(lambda: len(orthanc.json("/instances")) == len(files), 60, "all arrive")
    assert hashes(orthanc.save_all(tmp_path / "saved")) == hashes(files)
