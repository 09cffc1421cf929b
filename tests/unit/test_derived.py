"""Derived images keep everything about patient, study, acquisition and grid, and say who made them."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.uid import UID, ImplicitVRLittleEndian, JPEGLSLossless

from appliance.dicom.codes import NOTICE
from appliance.dicom.volume import Volume, load_volume
from appliance.domain.errors import GiveUp
from appliance.results import Produced
from tests.dicom_samples import CtSeries, ct_image, sample_uid, write_series
from tests.result_samples import IDENTITY, enhanced, findings, produce, revised, sample_volume
from tests.support.examples import examples

SERIES = CtSeries(slices=3, rows=16, columns=12)


def code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def reference(uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", uid
    return item


def derive(volume: Volume, change: float = 0.0) -> list[Dataset]:
    outcome = enhanced((volume.voxels + np.float32(change)).astype(np.float32))
    return [dcmread(io.BytesIO(produced.encode())) for produced in produce(outcome, volume, IDENTITY)]


def test_one_image_per_source_with_every_described_attribute(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    images = derive(volume)
    assert len(images) == 3
    for image, source in zip(images, volume.sources, strict=True):
        for keyword in [
            "SOPClassUID",
            "StudyInstanceUID",
            "FrameOfReferenceUID",
            "PatientID",
            "PatientName",
            "AccessionNumber",
            "StudyDate",
            "Rows",
            "Columns",
            "PixelSpacing",
            "ImagePositionPatient",
            "ImageOrientationPatient",
            "SliceThickness",
            "BitsAllocated",
            "BitsStored",
            "HighBit",
            "PixelRepresentation",
            "RescaleSlope",
            "RescaleIntercept",
            "RescaleType",
            "WindowCenter",
            "InstanceNumber",
            "AcquisitionTime",
            "KVP",
        ]:
            assert image[keyword] == source[keyword], keyword
        assert image.SOPInstanceUID != source.SOPInstanceUID
        assert image.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID
        assert image.SeriesInstanceUID != source.SeriesInstanceUID
        assert image.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
        assert image.SeriesNumber == 9002
        assert image.SeriesDescription == "AI-DN HEAD 5MM"
        assert image.ImageComments == NOTICE
        assert image.ContentQualification == "RESEARCH"
        assert image.InstanceCreatorUID == IDENTITY.station.device_uid
    assert len({image.SeriesInstanceUID for image in images}) == 1
    assert len({image.SOPInstanceUID for image in images}) == 3


def test_the_derivation_is_coded_and_names_its_source(tmp_path: Path) -> None:
    earlier = SERIES.with_attributes(
        DerivationDescription="Reformatted", SourceImageSequence=[reference("1.2.3")]
    )
    volume = sample_volume(tmp_path, earlier)
    image = derive(volume)[0]
    assert image.DerivationDescription == (
        "Reformatted; Noise reduction by sample-model 1.2.3 (sha256:0123456789ab)"
    )
    codes = [(item.CodeValue, item.CodingSchemeDesignator) for item in image.DerivationCodeSequence]
    assert codes == [("DN", "99EDGE"), ("123110", "DCM")]
    (source,) = image.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == volume.sources[0].SOPInstanceUID
    assert source.SpatialLocationsPreserved == "YES"
    assert source.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    (scheme,) = image.CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == "99EDGE"
    assert scheme.CodingSchemeResponsibleOrganization


def test_equipment_names_appliance_scanner_and_model(tmp_path: Path) -> None:
    image = derive(sample_volume(tmp_path, SERIES))[0]
    assert (image.Manufacturer, image.ManufacturerModelName) == (
        "Sample Appliances",
        "Edge Inference Appliance",
    )
    assert image.SoftwareVersions == ["0.1.0", "sample-model:1.2.3"]
    assert (image.StationName, image.InstitutionName) == ("EDGE", "Sample Hospital")
    scanner, model = image.ContributingEquipmentSequence
    assert scanner.PurposeOfReferenceCodeSequence[0].CodeValue == "109101"
    assert (scanner.Manufacturer, scanner.StationName) == ("Sample Scanners", "CT1")
    assert model.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert (model.ManufacturerModelName, model.SoftwareVersions[0]) == ("sample-model", "1.2.3")
    assert model.DeviceUID
    assert model.ContributionDateTime == "20260102113015.250000+0100"


def test_the_scanner_may_be_named_as_the_equipment(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    identity = replace(IDENTITY, names_scanner=True, primary=True)
    made = next(produce(enhanced(volume.voxels), volume, identity)).dataset
    assert (made.Manufacturer, made.StationName) == ("Sample Scanners", "CT1")
    assert made.InstanceCreatorUID == IDENTITY.station.device_uid
    assert made.ImageType == ["DERIVED", "PRIMARY", "AXIAL"]
    purposes = [
        item.PurposeOfReferenceCodeSequence[0].CodeValue for item in made.ContributingEquipmentSequence
    ]
    assert purposes == ["109101", "109102"]


def test_an_unnamed_scanner_is_unknown_and_earlier_contributors_stay(tmp_path: Path) -> None:
    earlier = Dataset()
    earlier.Manufacturer = "Earlier"
    earlier.PurposeOfReferenceCodeSequence = [code("109103", "DCM", "Modifying Equipment")]
    series = SERIES.with_attributes(Manufacturer="", ContributingEquipmentSequence=[earlier])
    makers = [
        item.Manufacturer for item in derive(sample_volume(tmp_path, series))[0].ContributingEquipmentSequence
    ]
    assert makers == ["Earlier", "UNKNOWN", "Sample Models"]


def test_what_would_be_stale_or_private_is_dropped(tmp_path: Path) -> None:
    icon = Dataset()
    icon.Rows = icon.Columns = 2
    nested = code("1", "99X", "Nested")
    nested.private_block(0x0009, "SCANNER", create=True).add_new(1, "LO", "secret")
    series = SERIES.with_attributes(
        IconImageSequence=[icon],
        ReferencedPerformedProcedureStepSequence=[reference("1.2.3")],
        PerformedProcedureStepID="PPS1",
        PerformedProcedureStepStartDate="20260102",
        SmallestImagePixelValue=0,
        LargestImagePixelValue=5,
        SeriesDescriptionCodeSequence=[code("1", "99X", "Head")],
        ProcedureCodeSequence=[nested],
        ReferencedImageSequence=[reference("1.2.4")],
    )

    def private(index: int, image: Dataset) -> None:
        image.private_block(0x0011, "SCANNER", create=True).add_new(1, "LO", "stale")
        image.add_new(0xFFFCFFFC, "OB", b"\0\0")

    image = derive(load_volume(write_series(tmp_path, series, change=private)))[0]
    for keyword in [
        "IconImageSequence",
        "ReferencedPerformedProcedureStepSequence",
        "PerformedProcedureStepID",
        "PerformedProcedureStepStartDate",
        "SmallestImagePixelValue",
        "LargestImagePixelValue",
        "SeriesDescriptionCodeSequence",
        "DataSetTrailingPadding",
    ]:
        assert keyword not in image, keyword
    private_tags = [element.tag for element in image.iterall() if element.tag.is_private]
    assert private_tags == []
    assert image.ProcedureCodeSequence[0].CodeMeaning == "Nested"
    assert image.ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.2.4"


def test_overlays_stay_unless_they_live_in_the_pixel_data(tmp_path: Path) -> None:
    def overlay(index: int, image: Dataset) -> None:
        for group in (0x6000, 0x6002):
            image.add_new(group << 16 | 0x0010, "US", 16)
            image.add_new(group << 16 | 0x0102, "US", 0 if group == 0x6000 else 14)
        image.add_new(0x60003000, "OW", b"\0" * 24)

    image = derive(load_volume(write_series(tmp_path, SERIES, change=overlay)))[0]
    assert 0x60003000 in image
    assert 0x60020010 not in image


def test_lossy_compression_is_never_forgotten(tmp_path: Path) -> None:
    series = SERIES.with_attributes(LossyImageCompression="01", LossyImageCompressionRatio="10")
    assert derive(sample_volume(tmp_path, series))[0].LossyImageCompression == "01"


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, JPEGLSLossless], ids=lambda uid: uid.name)
def test_sources_in_other_encodings_give_the_same_images(tmp_path: Path, syntax: UID) -> None:
    def encode(index: int, image: Dataset) -> None:
        image.PixelPaddingValue = 24
        if syntax == JPEGLSLossless:
            image.compress(syntax, generate_instance_uid=False)
        else:
            image.file_meta.TransferSyntaxUID = syntax

    def pad(index: int, image: Dataset) -> None:
        image.PixelPaddingValue = 24

    plain = derive(load_volume(write_series(tmp_path / "plain", SERIES, change=pad)))
    other = derive(load_volume(write_series(tmp_path / "other", SERIES, change=encode)))
    assert other == plain


def test_doing_the_work_again_gives_the_same_bytes(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    outcome = enhanced(volume.voxels)
    first = [produced.encode() for produced in produce(outcome, volume, IDENTITY)]
    assert [produced.encode() for produced in produce(outcome, volume, IDENTITY)] == first


def test_late_slices_join_the_series_and_known_ones_keep_their_uid(tmp_path: Path) -> None:
    paths = write_series(tmp_path, SERIES)
    early, late = load_volume(paths[:2]), load_volume(paths)
    first = list(produce(enhanced(early.voxels), early, IDENTITY))
    second = list(produce(enhanced(late.voxels), late, revised(2)))
    assert {produced.series_instance_uid for produced in [*first, *second]} == {first[0].series_instance_uid}
    assert [p.sop_instance_uid for p in second[:2]] == [p.sop_instance_uid for p in first]


def test_another_pipeline_makes_another_series(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    outcome = enhanced(volume.voxels)
    one = next(produce(outcome, volume, IDENTITY))
    other = next(produce(outcome, volume, replace(IDENTITY, pipeline_digest="digest-2")))
    assert one.series_instance_uid != other.series_instance_uid
    assert one.sop_instance_uid != other.sop_instance_uid


def test_dates_follow_the_time_zone_of_the_source(tmp_path: Path) -> None:
    zoned = sample_volume(tmp_path / "zoned", SERIES.with_attributes(TimezoneOffsetFromUTC="-0500"))
    image = derive(zoned)[0]
    assert (image.ContentDate, image.ContentTime) == ("20260102", "053015.250000")
    assert (image.SeriesTime, image.InstanceCreationTime) == ("053015.250000", "053015.250000")
    assert image.TimezoneOffsetFromUTC == "-0500"
    image = derive(sample_volume(tmp_path / "bare", SERIES))[0]
    assert image.ContentTime == "113015.250000"
    assert "TimezoneOffsetFromUTC" not in image


@pytest.mark.parametrize(
    ("charset", "name"),
    [("ISO_IR 192", "Größe^Jürgen"), ("ISO_IR 144", "Голова"), ("ISO_IR 100", "Müller")],
)
def test_names_in_other_alphabets_stay_as_they_are(tmp_path: Path, charset: str, name: str) -> None:
    series = SERIES.with_attributes(
        SpecificCharacterSet=charset, PatientName=name, SeriesDescription="K\u00f6pf"
    )
    if charset == "ISO_IR 144":
        series = series.with_attributes(SeriesDescription="Голова")
    image = derive(sample_volume(tmp_path, series))[0]
    assert image.PatientName == name
    assert str(image.SeriesDescription).startswith("AI-DN ")


def test_long_descriptions_are_cut_to_what_the_standard_allows(tmp_path: Path) -> None:
    series = SERIES.with_attributes(SeriesDescription="x" * 64, DerivationDescription="y" * 1020)
    image = derive(sample_volume(tmp_path, series))[0]
    assert image.SeriesDescription == "AI-DN " + "x" * 58
    assert len(image.DerivationDescription) == 1024


def test_values_that_cannot_be_read_do_not_stop_the_work(tmp_path: Path) -> None:
    paths = write_series(tmp_path, SERIES.with_attributes(RevolutionTime=0.5))
    for path in paths:
        path.write_bytes(
            path.read_bytes()
            # A double of four bytes followed by something that is hardly an element.
            .replace(b"\x18\x00\x05\x93FD\x08\x00" + struct.pack("<d", 0.5), _SHORT_DOUBLE)
            .replace(b"\x20\x00\x11\x00IS\x02\x002 ", b"\x20\x00\x11\x00IS\x02\x00##")
        )
    assert all(_SHORT_DOUBLE in path.read_bytes() for path in paths)
    image = derive(load_volume(paths))[0]
    assert "RevolutionTime" not in image
    assert image.SeriesNumber == 9000
    assert image.PatientID == "SYNTHETIC-1"


_SHORT_DOUBLE = b"\x18\x00\x05\x93FD\x04\x00\0\0\0\0"


def test_libraries_do_not_tell_the_log_about_the_patient(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def odd(index: int, image: Dataset) -> None:
        image.PatientName = "Secret"
        image.add_new("PatientSex", "LO", "secret")
        image.add_new("PatientBirthDate", "LO", "secret day")

    volume = load_volume(write_series(tmp_path, SERIES, change=odd))
    assert len(derive(volume)) == 3
    for produced in produce(findings(volume, positive=True), volume, IDENTITY):
        produced.encode()
    captured = capfd.readouterr()
    assert "secret" not in (caplog.text + captured.out + captured.err).lower()


@settings(max_examples=examples(25), deadline=None)
@given(
    slope=st.sampled_from([1.0, 0.5, 2.0, 1.7]),
    intercept=st.sampled_from([0.0, -1024.0, -8192.0]),
    bits=st.sampled_from([12, 16]),
    signed=st.booleans(),
    padding=st.sampled_from([None, 0, 5]),
)
def test_an_unchanged_volume_gives_back_the_stored_pixels(
    tmp_path_factory: pytest.TempPathFactory,
    slope: float,
    intercept: float,
    bits: int,
    signed: bool,
    padding: int | None,
) -> None:
    series = CtSeries(
        slices=1, rows=8, columns=8, slope=slope, intercept=intercept, bits_stored=bits, signed=signed
    )
    if padding is not None:
        series = series.with_attributes(PixelPaddingValue=padding)
    image = derive(sample_volume(tmp_path_factory.mktemp("series"), series))[0]
    assert image.PixelData == ct_image(series, 0).PixelData


@pytest.mark.parametrize("change", [1e6, 1e30])
@pytest.mark.parametrize("signed", [False, True])
def test_values_are_clipped_to_the_bits_stored(tmp_path: Path, signed: bool, change: float) -> None:
    series = CtSeries(slices=1, rows=8, columns=8, signed=signed, intercept=0.0 if signed else -1024.0)
    volume = sample_volume(tmp_path, series)
    low, high = (-2048, 2047) if signed else (0, 4095)
    assert np.all(derive(volume, change=change)[0].pixel_array == high)
    assert np.all(derive(volume, change=-change)[0].pixel_array == low)


def test_padding_is_written_back_exactly_and_nothing_else_becomes_padding(tmp_path: Path) -> None:
    def pad(index: int, image: Dataset) -> None:
        cells = np.frombuffer(image.PixelData, np.uint16).copy()
        cells[:3] = 63536
        image.PixelData = cells.tobytes()
        image.PixelPaddingValue = 63536

    volume = load_volume(write_series(tmp_path / "high", SERIES, change=pad))
    cells = np.frombuffer(derive(volume, change=7.0)[0].PixelData, np.uint16)
    assert cells[:3].tolist() == [63536] * 3
    assert cells[3:].max() < 4096

    def zero(index: int, image: Dataset) -> None:
        image.PixelPaddingValue = 0

    volume = load_volume(write_series(tmp_path / "zero", SERIES, change=zero))
    assert np.frombuffer(derive(volume, change=-1e6)[0].PixelData, np.uint16).min() == 1


def test_a_model_that_misbehaves_is_not_believed(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    with pytest.raises(GiveUp):
        list(produce(enhanced(volume.voxels[:2]), volume, IDENTITY))
    broken = volume.voxels.copy()
    broken[1, 2, 3] = np.nan
    with pytest.raises(GiveUp):
        list(produce(enhanced(broken), volume, IDENTITY))


def test_images_are_made_one_at_a_time(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    broken = volume.voxels.copy()
    broken[2] = np.inf
    produced = produce(enhanced(broken), volume, IDENTITY)
    assert isinstance(next(produced), Produced)
    assert next(produced).kind == "enhanced"
    with pytest.raises(GiveUp):
        next(produced)


def test_the_frame_of_reference_is_that_of_the_source(tmp_path: Path) -> None:
    assert derive(sample_volume(tmp_path, SERIES))[0].FrameOfReferenceUID == sample_uid("frame", "study")
