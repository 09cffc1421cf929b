"""Facts are read from any encoding, and from data sets that are cut off, odd or hostile."""

from __future__ import annotations

import io
import time
import zlib
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmwrite
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from appliance.dicom.header import Facts, facts_of_head, read_facts
from appliance.domain.errors import GiveUp
from tests.dicom_samples import CtSeries, ct_image, part10
from tests.support.examples import examples

SERIES = CtSeries(rows=8, columns=8)
IDENTIFIERS = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]


def encoded(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """The data set without group 2, as it comes over the network."""
    buffer = pydicom.filebase.DicomBytesIO()
    buffer.is_little_endian = syntax != ExplicitVRBigEndian
    buffer.is_implicit_VR = syntax == ImplicitVRLittleEndian
    write_dataset(buffer, ds)
    data = buffer.getvalue()
    if syntax == DeflatedExplicitVRLittleEndian:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return deflate.compress(data) + deflate.flush()
    return data


def test_facts_of_a_synthetic_image() -> None:
    ds = ct_image(SERIES, 2)
    facts = read_facts(encoded(ds), ExplicitVRLittleEndian)
    assert facts.sop_instance_uid == ds.SOPInstanceUID
    assert facts.series_instance_uid == ds.SeriesInstanceUID
    assert facts.study_instance_uid == ds.StudyInstanceUID
    assert facts.frame_of_reference_uid == ds.FrameOfReferenceUID
    assert (facts.modality, facts.body_part, facts.station_name) == ("CT", "HEAD", "CT1")
    assert facts.image_type == ("ORIGINAL", "PRIMARY", "AXIAL")
    assert (facts.rows, facts.columns, facts.number_of_frames) == (8, 8, 1)
    assert facts.pixel_spacing == (0.5, 0.5)
    assert facts.image_position == (-16.0, -16.0, 110.0)
    assert facts.image_orientation == SERIES.orientation
    assert (facts.slice_thickness, facts.acquisition_number, facts.instance_number) == (5.0, 1, 3)


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
    ids=lambda syntax: syntax.name,
)
def test_facts_do_not_depend_on_the_encoding(syntax: str) -> None:
    ds = ct_image(SERIES, 0)
    reference = read_facts(encoded(ds), ExplicitVRLittleEndian)
    # The pixels of a data set in memory are little endian; only the header is compared.
    del ds.PixelData
    assert read_facts(encoded(ds, syntax), syntax) == reference


def test_a_file_is_read_by_path_and_by_content(tmp_path: Path) -> None:
    content = part10(ct_image(SERIES, 0))
    path = tmp_path / "image.dcm"
    path.write_bytes(content)
    assert read_facts(path) == read_facts(content)


def test_the_head_of_a_data_set_tells_everything_or_that_it_is_too_short() -> None:
    data = encoded(ct_image(SERIES, 0))
    told = [facts_of_head(data[:size], ExplicitVRLittleEndian) for size in range(len(data))]
    assert told[0] is None
    assert told[-1] == read_facts(data, ExplicitVRLittleEndian)
    assert set(told) == {None, told[-1]}


def test_an_encoding_other_than_declared_is_noticed() -> None:
    ds = ct_image(SERIES, 0)
    assert read_facts(encoded(ds), ImplicitVRLittleEndian) == read_facts(encoded(ds), ExplicitVRLittleEndian)


@pytest.mark.parametrize("keyword", IDENTIFIERS)
def test_without_an_identifier_the_data_set_is_given_up(keyword: str) -> None:
    ds = ct_image(SERIES, 0)
    delattr(ds, keyword)
    with pytest.raises(GiveUp) as caught:
        read_facts(encoded(ds), ExplicitVRLittleEndian)
    assert caught.value.status == 0xC000


def test_an_empty_file_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "empty.dcm"
    path.touch()
    with pytest.raises(GiveUp):
        read_facts(path)


def test_every_truncation_gives_facts_or_gives_up() -> None:
    data = encoded(ct_image(SERIES, 0))
    whole = read_facts(data, ExplicitVRLittleEndian)
    understood = 0
    for length in range(len(data)):
        try:
            facts = read_facts(data[:length], ExplicitVRLittleEndian)
        except GiveUp as error:
            assert error.status == 0xC000
            continue
        understood += 1
        assert facts.series_instance_uid == whole.series_instance_uid
        assert facts.image_position in (whole.image_position, None)
    assert understood > 0


@settings(max_examples=examples(200))
@given(st.binary(max_size=400), st.sampled_from([ImplicitVRLittleEndian, ExplicitVRLittleEndian]))
def test_garbage_is_given_up(data: bytes, syntax: str) -> None:
    with pytest.raises(GiveUp):
        read_facts(data, syntax)


@settings(max_examples=examples(300))
@given(st.data())
def test_damaged_bytes_give_facts_or_give_up(data: st.DataObject) -> None:
    content = bytearray(_WHOLE)
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[position] = data.draw(st.integers(0, 255))
    try:
        facts = read_facts(bytes(content))
    except GiveUp as error:
        assert error.status == 0xC000
    else:
        assert Facts.from_json(facts.to_json()) == facts


_WHOLE = part10(ct_image(SERIES, 0))


def test_odd_values_are_absent_and_not_fatal() -> None:
    ds = ct_image(SERIES, 0)
    data = encoded(ds).replace(b"0.5\\0.5 ", b"0,5\\wide")
    facts = read_facts(data, ExplicitVRLittleEndian)
    assert facts.pixel_spacing is None
    assert facts.sop_instance_uid == ds.SOPInstanceUID


def test_sequences_of_undefined_length_are_stepped_over() -> None:
    ds = ct_image(SERIES, 0)
    inner = Dataset()
    inner.add_new(0x00081155, "UI", "1.2.3")
    inner.add_new(0x0020000E, "UI", "9.9.9")
    outer = Dataset()
    outer.add_new(0x00081199, "SQ", [inner, inner])
    outer["ReferencedSOPSequence"].is_undefined_length = True
    inner.is_undefined_length_sequence_item = True
    outer.is_undefined_length_sequence_item = True
    ds.add_new(0x00081140, "SQ", [outer])
    ds["ReferencedImageSequence"].is_undefined_length = True
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        assert read_facts(encoded(ds, syntax), syntax).series_instance_uid == ds.SeriesInstanceUID


def test_an_unknown_value_of_undefined_length_is_implicit_inside() -> None:
    data = encoded(ct_image(SERIES, 0))
    item = b"\x08\x00\x55\x11\x06\x00\x00\x001.2.3\0"
    unknown = (
        b"\x09\x00\x10\x00UN\0\0\xff\xff\xff\xff"
        b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + item + b"\xfe\xff\x0d\xe0\0\0\0\0"
        b"\xfe\xff\xdd\xe0\0\0\0\0"
    )
    split = data.index(b"\x10\x00\x10\x00PN")
    facts = read_facts(data[:split] + unknown + data[split:], ExplicitVRLittleEndian)
    assert facts == read_facts(data, ExplicitVRLittleEndian)


def test_sequences_nested_without_end_are_given_up() -> None:
    level = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    with pytest.raises(GiveUp):
        read_facts(level * 100_000, ExplicitVRLittleEndian)


def test_facts_hold_nothing_of_the_patient() -> None:
    text = read_facts(part10(ct_image(SERIES, 0))).to_json()
    assert "Sample" not in text
    assert "SYNTHETIC" not in text
    assert "19700101" not in text


def test_facts_survive_the_journal_and_a_newer_version() -> None:
    facts = read_facts(part10(ct_image(SERIES, 0)))
    assert Facts.from_json(facts.to_json()) == facts
    assert Facts.from_json(facts.to_json()[:-1] + ',"not_yet_known":[1]}') == facts


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_facts_agree_with_pydicom_on_its_own_files() -> None:
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    compared = 0
    for path in sorted(folder.glob("*.dcm")):
        try:
            facts = read_facts(path)
        except GiveUp:
            continue
        with path.open("rb") as file:
            ds = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=IDENTIFIERS)
        assert facts.sop_instance_uid == ds.SOPInstanceUID, path.name
        assert facts.series_instance_uid == ds.SeriesInstanceUID, path.name
        compared += 1
    assert compared >= 40


def test_reading_facts_is_quick() -> None:
    data = encoded(ct_image(CtSeries(), 0))
    times = []
    for _ in range(50):
        start = time.perf_counter()
        read_facts(data, ExplicitVRLittleEndian)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.002


def test_a_file_without_preamble_is_a_bare_data_set(tmp_path: Path) -> None:
    ds = ct_image(SERIES, 0)
    del ds.file_meta
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, implicit_vr=True, little_endian=True)
    assert read_facts(buffer.getvalue()).sop_instance_uid == ds.SOPInstanceUID
