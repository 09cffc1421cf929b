"""Transcoding: the same values in another encoding, bit for bit, or a refusal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_charset_files, get_testdata_file
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_dataset
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from appliance.dicom.transcode import TARGETS, targets, transcode
from appliance.dicom.transcoder import Transcoder
from appliance.domain.errors import GiveUp
from tests.dicom_samples import CtSeries, ct_image, part10

EXPLICIT, IMPLICIT = TARGETS


def converted(source: bytes, syntax: str) -> Dataset:
    target = io.BytesIO()
    transcode(io.BytesIO(source), target, syntax)
    target.seek(0)
    return read_dataset(target, syntax == IMPLICIT, True)


def raw_values(data_set: Dataset) -> dict[tuple[int, ...], bytes | None]:
    """The bytes of every element, without group lengths; the elements of items by their way there.

    None for the few that the parser has decoded while it was reading.
    """
    values: dict[tuple[int, ...], bytes | None] = {}
    for tag in sorted(data_set.keys()):
        element = data_set.get_item(tag)
        if isinstance(element, RawDataElement) and element.VR != "SQ" and not _is_sequence(data_set, tag):
            values[(tag,)] = element.value or b""
        elif data_set[tag].VR == "SQ":
            for number, item in enumerate(data_set[tag].value):
                nested = raw_values(item)
                values.update({(tag, number, *way): value for way, value in nested.items()})
        else:
            values[(tag,)] = b"" if data_set[tag].is_empty else None
    return {way: value for way, value in values.items() if way[-1] & 0xFFFF}


def _is_sequence(data_set: Dataset, tag: int) -> bool:
    """Whether an element that was read without a value representation has items."""
    element = data_set.get_item(tag)
    return element.VR is None and dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ"


def differing(before: Dataset, after: Dataset) -> set[tuple[int, ...]]:
    """Where the values of two data sets differ in any bit."""
    one, other = raw_values(before), raw_values(after)
    known = {way for way in one.keys() & other.keys() if None not in (one[way], other[way])}
    assert len(known) > len(one) - 10
    return {way for way in known if one[way] != other[way]} | (one.keys() ^ other.keys())


@pytest.mark.parametrize("path", get_charset_files("*.dcm"), ids=lambda path: Path(path).stem)
@pytest.mark.filterwarnings("ignore")
def test_text_of_every_character_set_stays_as_it_is(path: str) -> None:
    """Names with ideograms, right-to-left ones, and such as no decoder accepts."""
    source = dcmread(path)
    for syntax in targets(source.file_meta.TransferSyntaxUID):
        result = converted(Path(path).read_bytes(), syntax)
        assert differing(source, result) == set()
        assert result.get("SpecificCharacterSet") == source.get("SpecificCharacterSet")


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "MR_small_implicit.dcm",
        "rtplan.dcm",
        "reportsi.dcm",
        "test-SR.dcm",
        "waveform_ecg.dcm",
        "priv_SQ.dcm",
        "image_dfl.dcm",
        "examples_palette.dcm",
        "examples_overlay.dcm",
    ],
)
@pytest.mark.parametrize("syntax", TARGETS)
@pytest.mark.filterwarnings("ignore")
def test_values_stay_as_they_are(name: str, syntax: str) -> None:
    path = Path(str(get_testdata_file(name, download=False)))
    assert differing(dcmread(path), converted(path.read_bytes(), syntax)) == set()


@pytest.mark.parametrize(
    ("name", "same"), [("MR_small_bigendian.dcm", "MR_small.dcm"), ("ExplVR_BigEnd.dcm", None)]
)
@pytest.mark.parametrize("syntax", TARGETS)
@pytest.mark.filterwarnings("ignore")
def test_numbers_change_their_byte_order(name: str, same: str | None, syntax: str) -> None:
    path = Path(str(get_testdata_file(name, download=False)))
    source = dcmread(path)
    result = converted(path.read_bytes(), syntax)
    for element in source:
        if element.tag.element != 0 and element.tag != 0x7FE00010 and element.VR != "OW":
            assert result[element.tag].value == element.value, element.tag
    result.file_meta = source.file_meta
    result.file_meta.TransferSyntaxUID = UID(syntax)
    assert (pixel_array(result) == pixel_array(path)).all()
    if same is not None:
        assert result.PixelData == dcmread(str(get_testdata_file(same, download=False))).PixelData


@pytest.mark.filterwarnings("ignore")
def test_what_has_no_certain_byte_order_is_refused() -> None:
    path = Path(str(get_testdata_file("rtdose_expb.dcm", download=False)))
    with pytest.raises(GiveUp, match="more than 16 bits"):
        converted(path.read_bytes(), EXPLICIT)
    swapped = dcmread(str(get_testdata_file("MR_small_bigendian.dcm", download=False)))
    swapped.add_new(0x00991001, "UN", b"\1\2\3\4")
    with pytest.raises(GiveUp, match="unknown representation"):
        converted(part10(swapped), EXPLICIT)


def test_a_data_set_that_is_cut_off_is_refused() -> None:
    whole = part10(ct_image(CtSeries(), 0))
    for missing in (1, 2, 100, 5000):
        with pytest.raises(GiveUp):
            converted(whole[:-missing], IMPLICIT)
    assert converted(whole, IMPLICIT).PatientID


@pytest.mark.filterwarnings("ignore")
def test_only_lossless_syntaxes_have_targets() -> None:
    lossy = [f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 81, 91, 100, 102, 107, 203)]
    assert [targets(syntax) for syntax in lossy] == [()] * len(lossy)
    assert targets("1.2.3.4") == ()
    path = Path(str(get_testdata_file("SC_rgb_jpeg_dcmtk.dcm", download=False)))
    with pytest.raises(GiveUp, match="without a loss"):
        converted(path.read_bytes(), IMPLICIT)


def test_an_element_that_is_too_long_for_its_representation() -> None:
    """Implicit VR has 32 bits for the length of a DS, explicit VR has 16 (PS3.5 6.2.2)."""
    image = ct_image(CtSeries(), 0)
    image.file_meta.TransferSyntaxUID = UID(IMPLICIT)
    del image.PixelData
    value = b"1.5\\" * 20_000
    # (3006,0050) Contour Data
    source = part10(image) + b"\x06\x30\x50\x00" + len(value).to_bytes(4, "little") + value
    with pytest.warns(UserWarning, match="changed from 'DS' to 'UN'"):
        result = converted(source, EXPLICIT)
    assert raw_values(result)[(0x30060050,)] == value


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.dcm"
    path.write_bytes(part10(ct_image(CtSeries(), 0)))
    return path


@pytest.mark.slow
def test_the_process_survives_refusals_and_is_replaced_when_it_dies(image: Path, tmp_path: Path) -> None:
    transcoder = Transcoder()
    try:
        with (tmp_path / "target").open("w+b") as target:
            transcoder.transcode(image, target, IMPLICIT)
            assert (tmp_path / "target").stat().st_size > 1000
        process = transcoder._process
        assert process is not None
        damaged = tmp_path / "damaged.dcm"
        damaged.write_bytes(image.read_bytes()[:-100])
        with (tmp_path / "other").open("w+b") as target, pytest.raises(GiveUp, match="cut off"):
            transcoder.transcode(damaged, target, IMPLICIT)
        assert transcoder._process is process
        process.kill()
        process.wait()
        with (tmp_path / "third").open("w+b") as target:
            transcoder.transcode(image, target, IMPLICIT)
        assert transcoder._process is not process
        assert (tmp_path / "third").read_bytes() == (tmp_path / "target").read_bytes()
    finally:
        transcoder.close()


@pytest.mark.slow
def test_a_full_disk_is_no_fault_of_the_image(image: Path) -> None:
    transcoder = Transcoder()
    try:
        with Path("/dev/full").open("wb", buffering=0) as target, pytest.raises(OSError, match="No space"):
            transcoder.transcode(image, target, IMPLICIT)
    finally:
        transcoder.close()


@pytest.mark.slow
def test_an_image_that_wants_too_much_memory_is_refused(tmp_path: Path) -> None:
    huge = ct_image(CtSeries(), 0)
    del huge.PixelData
    path = tmp_path / "huge.dcm"
    with path.open("w+b") as file:
        file.write(part10(huge))
        file.write(b"\xe0\x7f\x10\x00OW\0\0" + (0xFFFFFFF0).to_bytes(4, "little"))
        file.truncate(file.tell() + 0xFFFFFFF0)  # a hole: no disk is used
    transcoder = Transcoder()
    try:
        with (tmp_path / "target").open("w+b") as target, pytest.raises(GiveUp, match="MemoryError"):
            transcoder.transcode(path, target, IMPLICIT)
    finally:
        transcoder.close()
