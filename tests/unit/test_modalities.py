"""Images of every modality become volumes in which bright is high, and come back as their own kind."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import JPEGBaseline8Bit

from appliance.dicom.outcome import PrivateElement
from appliance.dicom.unusable import Unusable
from appliance.domain.errors import GiveUp
from tests.modality_samples import cr_image, dx_image, enhanced_image, mr_images, us_image
from tests.result_samples import derive, load, twice_as_fine

PROJECTIONS = [
    cr_image(),
    cr_image(photometric="MONOCHROME2"),
    dx_image(),
    dx_image(photometric="MONOCHROME2"),
]


def source_uid(image: Dataset) -> str:
    if "PerFrameFunctionalGroupsSequence" in image:
        image = image.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0]
    return str(image.SourceImageSequence[0].ReferencedSOPInstanceUID)


def all_samples() -> list[Sequence[Dataset]]:
    ultrasound = [us_image(colour=colour, frames=frames) for colour in (False, True) for frames in (1, 3)]
    enhanced_ones = [enhanced_image("CT"), enhanced_image("MR")]
    return [mr_images(), *([one] for one in (*PROJECTIONS, *ultrasound, *enhanced_ones))]


@pytest.mark.parametrize("images", all_samples())
def test_an_unchanged_volume_gives_back_the_pixels_of_the_source(
    tmp_path: Path, images: Sequence[Dataset]
) -> None:
    volume = load(tmp_path, *images)
    derived = derive(volume, volume.voxels)
    assert len(derived) == len(images)
    pixels = {source_uid(one): one for one in derived}
    for image in images:
        result = pixels[image.SOPInstanceUID]
        assert result.PixelData == image.PixelData
        for keyword in (
            "SOPClassUID",
            "Modality",
            "Rows",
            "Columns",
            "BitsStored",
            "PhotometricInterpretation",
        ):
            assert result[keyword].value == image[keyword].value, keyword
        assert result.SOPInstanceUID != image.SOPInstanceUID
        assert result.SeriesNumber == 9002


@pytest.mark.parametrize("make", [cr_image, dx_image])
def test_what_is_bright_is_high_in_both_photometric_interpretations(tmp_path: Path, make: object) -> None:
    assert callable(make)
    one = load(tmp_path / "1", make(photometric="MONOCHROME1")).voxels
    two = load(tmp_path / "2", make(photometric="MONOCHROME2")).voxels
    np.testing.assert_array_equal(one, 4095 - two)


def test_an_inverse_presentation_lut_does_not_turn_monochrome_1_round_again(tmp_path: Path) -> None:
    # For MONOCHROME1 it is the only shape allowed, and says the same thing once more (PS3.3 C.8.11.3.1.2).
    without = dx_image()
    del without.PresentationLUTShape
    one, two = load(tmp_path / "1", dx_image()), load(tmp_path / "2", without)
    np.testing.assert_array_equal(one.voxels, two.voxels)


def test_making_tissue_brighter_makes_it_brighter_in_monochrome_1(tmp_path: Path) -> None:
    volume = load(tmp_path, dx_image())
    (image,) = derive(volume, volume.voxels + np.float32(100))
    before = np.frombuffer(dx_image().PixelData, "<u2").astype(int)
    after = np.frombuffer(image.PixelData, "<u2").astype(int)
    np.testing.assert_array_equal(after, np.maximum(before - 100, 0))
    assert (image.WindowCenter, image.PresentationLUTShape) == (1500, "INVERSE")
    assert image.PhotometricInterpretation == "MONOCHROME1"


def test_padding_of_monochrome_1_stays(tmp_path: Path) -> None:
    padded = dx_image()
    cells = np.frombuffer(padded.PixelData, "<u2").copy()
    cells[:50] = 4095
    padded.PixelData, padded.PixelPaddingValue = cells.tobytes(), 4095
    volume = load(tmp_path, padded)
    assert volume.padding is not None
    (image,) = derive(volume, volume.voxels - np.float32(3000))
    after = np.frombuffer(image.PixelData, "<u2")
    assert (after[:50] == 4095).all()
    assert (after[50:] != 4095).all(), "nothing else may become padding"


def test_the_type_of_a_derived_detector_image_has_an_empty_third_value(tmp_path: Path) -> None:
    volume = load(tmp_path, dx_image())
    (image,) = derive(volume, volume.voxels)
    assert list(image.ImageType) == ["DERIVED", "SECONDARY", ""]


def test_projections_are_sorted_by_number_and_must_have_one_size(tmp_path: Path) -> None:
    first, second = cr_image(), cr_image(photometric="MONOCHROME2")
    second.SOPInstanceUID, first.InstanceNumber, second.InstanceNumber = "2.25.77", 2, 1
    volume = load(tmp_path / "same", first, second)
    assert [source.InstanceNumber for source in volume.sources] == [1, 2]
    assert volume.spacing == (0.0, 0.2, 0.2)
    second.Rows //= 2
    with pytest.raises(Unusable) as caught:
        load(tmp_path / "other", first, second)
    assert caught.value.reason == "mixed_geometry"


def test_magnetic_resonance_without_rescale_keeps_the_scale_of_its_samples(tmp_path: Path) -> None:
    volume = load(tmp_path, *mr_images())
    assert "RescaleSlope" not in volume.sources[0]
    (first, *_) = derive(volume, volume.voxels + 1)
    assert "RescaleSlope" not in first
    before = np.frombuffer(mr_images()[0].PixelData, "<u2")
    np.testing.assert_array_equal(np.frombuffer(first.PixelData, "<u2"), before + 1)


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("frames", [1, 3])
def test_only_grey_tissue_of_ultrasound_is_changed(tmp_path: Path, colour: bool, frames: int) -> None:
    source = us_image(colour=colour, frames=frames)
    volume = load(tmp_path, source)
    np.testing.assert_allclose(volume.spacing, (0.0, 0.4, 0.5))
    (image,) = derive(volume, volume.voxels + np.float32(20))
    shape = (frames, 48, 64, 3 if colour else 1)
    before = np.frombuffer(source.PixelData, np.uint8).reshape(shape).astype(int)
    after = np.frombuffer(image.PixelData, np.uint8).reshape(shape).astype(int)
    tissue = np.zeros((frames, 48, 64), bool)
    tissue[:, 4:44, 8:40] = True
    if colour:
        tissue[:, 20:26, 16:22] = False
    np.testing.assert_array_equal((after - before)[~tissue], 0)
    np.testing.assert_array_equal(after[tissue], before[tissue] + 20)


def test_ultrasound_that_does_not_say_where_its_tissue_is_is_left_alone(tmp_path: Path) -> None:
    source = us_image()
    del source.SequenceOfUltrasoundRegions
    with pytest.raises(Unusable) as caught:
        load(tmp_path, source)
    assert caught.value.reason == "no_tissue_region"


def test_a_region_of_flow_within_the_tissue_is_not_tissue(tmp_path: Path) -> None:
    source = us_image()
    flow = deepcopy(source.SequenceOfUltrasoundRegions[0])
    flow.RegionDataType = 2
    flow.RegionLocationMinX0, flow.RegionLocationMaxX1 = 20, 29
    source.SequenceOfUltrasoundRegions = [source.SequenceOfUltrasoundRegions[0], flow]
    volume = load(tmp_path, source)
    assert volume.padding is not None
    assert (~volume.padding).sum() == 40 * 32 - 40 * 10


def test_a_lossy_encoding_is_remembered_even_if_the_source_forgot_it(tmp_path: Path) -> None:
    source = us_image(colour=True, frames=1)
    source.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)  # RLE: lossless
    volume = load(tmp_path, source)
    assert derive(volume, volume.voxels)[0].LossyImageCompression == "00"
    for header in volume.sources:
        header.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    (image,) = derive(volume, volume.voxels)
    assert (image.LossyImageCompression, image.LossyImageCompressionMethod) == ("01", "ISO_10918_1")


def corner(image: Dataset) -> NDArray[np.float64]:
    """Where the outer corner of the first pixel lies in the patient."""
    position, orientation, spacing = (
        np.array(image[keyword].value, np.float64)
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    )
    return np.asarray(position - orientation[:3] * spacing[1] / 2 - orientation[3:] * spacing[0] / 2)


def test_a_finer_grid_has_the_edges_of_the_old_one(tmp_path: Path) -> None:
    images = mr_images()
    volume = load(tmp_path, *images)
    derived = derive(volume, twice_as_fine(volume.voxels))
    for source, image in zip(images, derived, strict=True):
        assert (image.Rows, image.Columns) == (2 * source.Rows, 2 * source.Columns)
        assert [float(v) for v in image.PixelSpacing] == [0.25, 0.25]
        np.testing.assert_allclose(corner(image), corner(source), atol=1e-6)
        assert image.SourceImageSequence[0].SpatialLocationsPreserved == "NO"
        assert (image.SliceThickness, image.AcquisitionTime) == (
            source.SliceThickness,
            source.AcquisitionTime,
        )


def test_a_finer_grid_moves_everything_that_is_told_in_pixels(tmp_path: Path) -> None:
    source = us_image(colour=True)
    volume = load(tmp_path / "us", source)
    (image,) = derive(volume, twice_as_fine(volume.voxels))
    (region,) = image.SequenceOfUltrasoundRegions
    ends = (region.RegionLocationMinX0, region.RegionLocationMinY0)
    assert (*ends, region.RegionLocationMaxX1, region.RegionLocationMaxY1) == (16, 8, 79, 87)
    assert (region.PhysicalDeltaX, region.PhysicalDeltaY) == (0.025, 0.02)
    assert region.PhysicalUnitsXDirection == 3
    before = np.frombuffer(source.PixelData, np.uint8).reshape(48, 64, 3)
    after = np.frombuffer(image.PixelData, np.uint8).reshape(96, 128, 3)
    np.testing.assert_array_equal(after, before.repeat(2, axis=0).repeat(2, axis=1))
    shuttered = dx_image()
    shuttered.ShutterShape, shuttered.ShutterLeftVerticalEdge = "RECTANGULAR", 3
    shuttered.ShutterRightVerticalEdge, shuttered.ShutterUpperHorizontalEdge = 27, 4
    shuttered.ShutterLowerHorizontalEdge = 36
    volume = load(tmp_path / "dx", shuttered)
    (image,) = derive(volume, twice_as_fine(volume.voxels))
    assert (image.ShutterLeftVerticalEdge, image.ShutterLowerHorizontalEdge) == (6, 72)
    assert [float(v) for v in image.ImagerPixelSpacing] == [0.075, 0.075]


def test_a_grid_of_other_proportions_is_not_believed(tmp_path: Path) -> None:
    volume = load(tmp_path, *mr_images())
    with pytest.raises(GiveUp):
        derive(volume, np.repeat(volume.voxels, 2, axis=1))
    with pytest.raises(GiveUp):
        derive(volume, volume.voxels[:2])


def test_private_elements_stay_only_where_the_model_names_them(tmp_path: Path) -> None:
    images = mr_images()
    for image in images:
        block = image.private_block(0x0019, "SAMPLE DIFFUSION", create=True)
        block.add_new(0x0C, "IS", 1000)
        block.add_new(0x0D, "LO", "protocol of the scanner")
        image.private_block(0x0021, "OTHER", create=True).add_new(0x0C, "LO", "more")
    volume = load(tmp_path, *images)
    assert not any(element.tag.is_private for element in derive(volume, volume.voxels)[0])
    wanted = (PrivateElement("SAMPLE DIFFUSION", 0x0019, 0x0C), PrivateElement("ABSENT", 0x0021, 0x0C))
    (image, *_) = derive(volume, volume.voxels, wanted)
    assert image.private_block(0x0019, "SAMPLE DIFFUSION")[0x0C].value == 1000
    assert sorted(element.tag for element in image if element.tag.is_private) == [0x00190010, 0x0019100C]


@pytest.mark.parametrize("images", all_samples())
def test_another_order_and_another_machine_give_the_same_uids(
    tmp_path: Path, images: Sequence[Dataset]
) -> None:
    one = load(tmp_path / "one", *images)
    other = load(tmp_path / "other", *reversed(images))
    assert other.pixel_sha256 == one.pixel_sha256
    uids = [[image.SOPInstanceUID for image in derive(volume, volume.voxels)] for volume in (one, other)]
    assert sorted(uids[0]) == sorted(uids[1])
