"""Volumes hold real-world values in geometric order, whatever the encoding; the rest is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.uid import (
    UID,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from appliance.dicom.unusable import Unusable
from appliance.dicom.volume import load_volume
from appliance.domain.errors import GiveUp
from tests.dicom_samples import CtSeries, ct_hounsfield, ct_image, part10, write_series
from tests.support.examples import examples

SERIES = CtSeries(slices=3, rows=16, columns=12)


def refused(paths: list[Path]) -> str:
    with pytest.raises(Unusable) as caught:
        load_volume(paths)
    return caught.value.reason


def test_slices_come_in_geometric_order_and_hounsfield_units(tmp_path: Path) -> None:
    paths = write_series(tmp_path, SERIES)
    volume = load_volume([paths[2], paths[0], paths[1]])
    assert volume.voxels.shape == (3, 16, 12)
    assert volume.voxels.dtype == np.float32
    assert volume.spacing == (5.0, 0.5, 0.5)
    assert volume.padding is None
    assert [header.InstanceNumber for header in volume.sources] == [1, 2, 3]
    for index in range(3):
        expected = np.clip(ct_hounsfield(SERIES, index), -1024, None)
        assert np.abs(volume.voxels[index] - expected).max() <= 0.5


def test_sources_keep_the_header_but_not_the_pixels(tmp_path: Path) -> None:
    volume = load_volume(write_series(tmp_path, SERIES))
    assert all("PixelData" not in header for header in volume.sources)
    assert all(header.PatientID == "SYNTHETIC-1" for header in volume.sources)


def test_a_single_slice_takes_its_thickness_as_spacing(tmp_path: Path) -> None:
    assert load_volume(write_series(tmp_path, SERIES, indices=[0])).spacing[0] == 5.0


@settings(max_examples=examples(25), deadline=None)
@given(
    slope=st.sampled_from([1.0, 0.5, 0.0625, 2.0, 1.7]),
    intercept=st.sampled_from([0.0, -1024.0, -8192.0, 31.5]),
    bits=st.sampled_from([8, 12, 15, 16]),
    signed=st.booleans(),
)
def test_rescaling_inverts_for_every_format(
    tmp_path_factory: pytest.TempPathFactory, slope: float, intercept: float, bits: int, signed: bool
) -> None:
    series = CtSeries(
        slices=1, rows=8, columns=8, slope=slope, intercept=intercept, bits_stored=bits, signed=signed
    )
    low = -(1 << (bits - 1)) if signed else 0
    stored = np.linspace(low, low + (1 << bits) - 1, 64).astype(np.int16 if signed else np.uint16)

    def pixels(index: int, image: Dataset) -> None:
        cells = stored.astype(np.int32) & ((1 << bits) - 1)
        image.PixelData = cells.astype(np.uint16).tobytes()

    volume = load_volume(write_series(tmp_path_factory.mktemp("series"), series, change=pixels))
    back = np.rint((volume.voxels.astype(np.float64) - intercept) / slope).ravel()
    assert np.array_equal(back, stored)


def test_bits_outside_bits_stored_are_ignored(tmp_path: Path) -> None:
    def overlay(index: int, image: Dataset) -> None:
        cells = np.frombuffer(image.PixelData, np.uint16)
        image.PixelData = (cells | 0xF000).tobytes()

    clean = load_volume(write_series(tmp_path / "clean", SERIES))
    drawn = load_volume(write_series(tmp_path / "drawn", SERIES, change=overlay))
    assert np.array_equal(clean.voxels, drawn.voxels)
    assert clean.pixel_sha256 == drawn.pixel_sha256


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, RLELossless, JPEGLSLossless],
    ids=lambda syntax: syntax.name,
)
@pytest.mark.parametrize("signed", [False, True])
def test_the_transfer_syntax_changes_nothing(tmp_path: Path, syntax: UID, signed: bool) -> None:
    series = CtSeries(slices=2, rows=16, columns=16, signed=signed, intercept=0.0 if signed else -1024.0)

    def encode(index: int, image: Dataset) -> None:
        if syntax.is_compressed:
            uid = image.SOPInstanceUID
            image.compress(syntax)
            image.SOPInstanceUID = uid
        else:
            image.file_meta.TransferSyntaxUID = syntax

    plain = load_volume(write_series(tmp_path / "plain", series))
    other = load_volume(write_series(tmp_path / "other", series, change=encode))
    assert np.array_equal(plain.voxels, other.voxels)
    assert plain.pixel_sha256 == other.pixel_sha256


@pytest.mark.parametrize("name", ["RLE", "jp2klossless", "jpeg_ls_lossless", "bigendian", "implicit"])
def test_every_lossless_encoding_of_a_real_image_is_the_same_volume(name: str) -> None:
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    plain = load_volume([folder / "MR_small.dcm"])
    other = load_volume([folder / f"MR_small_{name}.dcm"])
    assert np.array_equal(plain.voxels, other.voxels)
    assert plain.pixel_sha256 == other.pixel_sha256


def test_the_pixel_hash_knows_pixels_and_place_but_no_patient(tmp_path: Path) -> None:
    def hashes(name: str, series: CtSeries) -> tuple[str, ...]:
        return load_volume(write_series(tmp_path / name, series)).pixel_sha256

    original = hashes("original", SERIES)
    assert hashes("renamed", SERIES.with_attributes(PatientName="Other^Name")) == original
    assert hashes("moved", CtSeries(slices=3, rows=16, columns=12, gap=4.0))[1:] != original[1:]
    assert hashes("noise", CtSeries(slices=3, rows=16, columns=12, seed=1)) != original
    assert len(set(original)) == 3


@pytest.mark.parametrize(("limit", "expected"), [(None, 1), (-1990, 2)])
def test_padding_is_found(tmp_path: Path, limit: int | None, expected: int) -> None:
    series = CtSeries(slices=2, rows=8, columns=8, signed=True, bits_stored=16, intercept=0.0)

    def pad(index: int, image: Dataset) -> None:
        cells = np.frombuffer(image.PixelData, np.int16).copy()
        cells[:2] = (-2000, -1995)
        image.PixelData = cells.tobytes()
        image.PixelPaddingValue = -2000
        if limit is not None:
            image.PixelPaddingRangeLimit = limit

    volume = load_volume(write_series(tmp_path, series, change=pad))
    assert volume.padding is not None
    assert volume.padding.sum() == 2 * expected
    assert volume.voxels[0, 0, 0] == -2000


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
def test_padding_is_found_in_both_little_endian_encodings(tmp_path: Path, syntax: str) -> None:
    def pad(index: int, image: Dataset) -> None:
        image.PixelPaddingValue = 24  # stored value of -1000 HU
        image.file_meta.TransferSyntaxUID = UID(syntax)

    volume = load_volume(write_series(tmp_path, SERIES, change=pad))
    assert volume.padding is not None
    assert np.all(volume.voxels[volume.padding] == -1000)


def test_padding_outside_bits_stored_keeps_its_value(tmp_path: Path) -> None:
    def pad(index: int, image: Dataset) -> None:
        cells = np.frombuffer(image.PixelData, np.uint16).copy()
        cells[0] = 63536
        image.PixelData = cells.tobytes()
        image.PixelPaddingValue = 63536

    volume = load_volume(write_series(tmp_path, SERIES, change=pad))
    assert volume.padding is not None
    assert volume.padding.sum() == 3
    assert volume.voxels[0, 0, 0] == 63536 - 1024


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"RescaleSlope": 0}, "bad_rescale"),
        ({"RescaleSlope": -1}, "bad_rescale"),
        ({"RescaleSlope": None}, "missing_rescale"),
        ({"RescaleIntercept": None}, "missing_rescale"),
        ({"PhotometricInterpretation": "RGB"}, "unsupported_pixels"),
        ({"HighBit": 16}, "unsupported_pixels"),
        ({"BitsStored": None}, "unsupported_pixels"),
        ({"PixelData": None}, "missing_pixel_data"),
        ({"PixelData": b"\0\0" * 50}, "truncated_pixel_data"),
        ({"NumberOfFrames": 2}, "multi_frame"),
        ({"ImagePositionPatient": None}, "missing_geometry"),
        ({"ImagePositionPatient": [0, 0, 0]}, "repeated_positions"),
    ],
)
def test_what_no_model_can_use_is_refused_with_a_reason(
    tmp_path: Path, attributes: dict[str, Any], reason: str
) -> None:
    assert refused(write_series(tmp_path, SERIES.with_attributes(**attributes))) == reason


def test_one_image_of_another_size_is_refused(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "a", SERIES)
    other = write_series(tmp_path / "b", CtSeries(slices=4, rows=18, columns=12), indices=[3])
    assert refused([*paths, *other]) == "mixed_geometry"


def test_a_file_cut_inside_its_pixels_is_refused(tmp_path: Path) -> None:
    paths = write_series(tmp_path, SERIES)
    paths[1].write_bytes(paths[1].read_bytes()[:-100])
    assert refused(paths) == "truncated_pixel_data"


def test_a_damaged_compressed_image_is_refused(tmp_path: Path) -> None:
    def damage(index: int, image: Dataset) -> None:
        image.compress(JPEGLSLossless)
        image.PixelData = image.PixelData[:60] + b"\0\0" * 20

    assert refused(write_series(tmp_path, SERIES, change=damage)) == "undecodable_pixel_data"


@settings(max_examples=examples(100), deadline=None)
@given(st.data())
def test_a_damaged_file_gives_a_volume_or_a_reason(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from(_ENCODED)))
    for position in data.draw(st.lists(st.integers(132, len(content) - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.dcm"
    path.write_bytes(content)
    try:
        volume = load_volume([path])
    except GiveUp:
        return
    assert np.isfinite(volume.voxels).all()
    assert len(volume.sources) == 1


def _encoded(syntax: UID) -> bytes:
    image = ct_image(CtSeries(slices=1, rows=4, columns=4), 0)
    if syntax.is_compressed:
        image.compress(syntax, generate_instance_uid=False)
    image.file_meta.TransferSyntaxUID = syntax
    return part10(image)


_ENCODED = [_encoded(syntax) for syntax in (ImplicitVRLittleEndian, RLELossless, JPEGLSLossless)]


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.1", "1.2.840.113619.5.2", "1.2.3"])
def test_a_transfer_syntax_without_decoder_is_refused(tmp_path: Path, syntax: str) -> None:
    def declare(index: int, image: Dataset) -> None:
        image.compress(RLELossless)

    paths = write_series(tmp_path, SERIES, change=declare)
    for path in paths:
        content = path.read_bytes()
        padded = syntax.encode() + b"\0" * (len(RLELossless) + 1 - len(syntax))
        path.write_bytes(content.replace(RLELossless.encode() + b"\0", padded[: len(RLELossless) + 1]))
    assert refused(paths) == "no_decoder"


def test_missing_slices_are_measured_and_allowed(tmp_path: Path) -> None:
    volume = load_volume(write_series(tmp_path, CtSeries(rows=8, columns=8), indices=[0, 1, 2, 4]))
    assert volume.geometry.missing_slices == 1
    assert volume.voxels.shape[0] == 4


def test_every_file_that_pydicom_ships_is_loaded_or_refused_with_a_reason() -> None:
    folder = Path(pydicom.__file__).parent / "data"
    reasons = Counter[str]()
    for path in sorted(folder.rglob("*.dcm")):
        try:
            volume = load_volume([path])
        except Unusable as refusal:
            reasons[refusal.reason] += 1
        except GiveUp as refusal:
            assert refusal.status == 0xC000
        else:
            reasons["loaded"] += 1
            assert np.isfinite(volume.voxels).all(), path.name
    assert reasons["loaded"] >= 10
    assert reasons["truncated_pixel_data"] == 1  # MR_truncated.dcm
