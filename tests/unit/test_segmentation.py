"""Masks come back from a Segmentation pixel by pixel, on the frames that they were drawn on."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from highdicom.ko import KeyObjectSelectionDocument
from highdicom.seg import Segmentation, segread
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from appliance.config.schema import ResultObjects
from appliance.dicom.codes import NOTICE
from appliance.dicom.outcome import Findings
from appliance.dicom.uids import tracking_uid
from appliance.dicom.volume import Volume, load_volume
from appliance.domain.errors import GiveUp
from tests.dicom_samples import CtSeries
from tests.modality_samples import dx_image, enhanced_image, us_image, write_images
from tests.result_samples import HAEMORRHAGE, IDENTITY, findings, produce, revised, sample_volume

SERIES = CtSeries(slices=4, rows=24, columns=20)


def masked(volume: Volume) -> Findings:
    """A finding in a block of pixels of two slices."""
    mask = np.zeros(volume.voxels.shape, np.bool_)
    mask[-2:, 5:9, 3:12] = True
    return replace(findings(volume, positive=True), mask=mask)


def segmentation_of(outcome: Findings, volume: Volume) -> Segmentation:
    (made,) = produce(outcome, volume, kinds=["seg"])
    return segread(io.BytesIO(made.encode()))


def drawn(segmentation: Segmentation, volume: Volume) -> NDArray[np.bool_]:
    """The mask on the grid of the volume, read as any program would read it."""
    uids = [str(source.SOPInstanceUID) for source in volume.sources]
    if "NumberOfFrames" in volume.sources[0]:
        pixels = segmentation.get_pixels_by_source_frame(
            uids[0], list(volume.frames), ignore_spatial_locations=True, assert_missing_frames_are_empty=True
        )
    else:
        pixels = segmentation.get_pixels_by_source_instance(
            uids, ignore_spatial_locations=True, assert_missing_frames_are_empty=True
        )
    return np.asarray(pixels[..., 0] == 1)


def test_the_mask_is_read_back_on_the_images_of_its_source(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    outcome = masked(volume)
    segmentation = segmentation_of(outcome, volume)
    np.testing.assert_array_equal(drawn(segmentation, volume), outcome.mask)
    assert segmentation.NumberOfFrames == 2, "empty frames are left out"
    assert segmentation.SegmentationType == "BINARY"
    assert segmentation.FrameOfReferenceUID == volume.sources[0].FrameOfReferenceUID


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_the_mask_is_read_back_on_the_frames_of_its_source(tmp_path: Path, modality: str) -> None:
    volume = load_volume(write_images(tmp_path, [enhanced_image(modality)]))
    outcome = masked(volume)
    np.testing.assert_array_equal(drawn(segmentation_of(outcome, volume), volume), outcome.mask)


def test_a_mask_on_a_projection_has_no_place_in_space(tmp_path: Path) -> None:
    volume = load_volume(write_images(tmp_path, [dx_image()]))
    segmentation = segmentation_of(masked(volume), volume)
    assert "FrameOfReferenceUID" not in segmentation
    assert segmentation.pixel_array.sum() == 4 * 9


def test_a_mask_over_a_cine_cannot_be_told_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    volume = load_volume(write_images(tmp_path, [us_image(frames=3)]))
    made = list(produce(masked(volume), volume, kinds=["sr", "seg", "sc"]))
    assert [one.kind for one in made] == ["sr", "sc"]
    assert [record.message for record in caplog.records] == ["no_segmentation"]


def test_the_segment_says_what_it_is_and_who_drew_it(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    segmentation = segmentation_of(masked(volume), volume)
    (segment,) = segmentation.SegmentSequence
    assert segment.SegmentLabel == "Intracranial hemorrhage"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == HAEMORRHAGE.value
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("Sample model", "1.2.3")
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
    series = str(volume.sources[0].SeriesInstanceUID)
    tracked = tracking_uid(series, HAEMORRHAGE.value, IDENTITY.pipeline_digest)
    assert segment.TrackingUID == tracked
    (report,) = produce(masked(volume), volume, kinds=["sr"])
    assert tracked in str(report.dataset), "the report tracks the same finding"
    assert (segmentation.ContentLabel, segmentation.Modality) == ("AI_FINDING", "SEG")
    assert (segmentation.SeriesNumber, segmentation.PatientID) == (9102, "SYNTHETIC-1")


def test_nothing_is_made_of_an_absent_or_empty_mask(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    empty = np.zeros(volume.voxels.shape, np.bool_)
    for mask in (None, empty):
        assert list(produce(replace(masked(volume), mask=mask), volume, kinds=["seg"])) == []


def test_a_mask_of_another_grid_is_not_believed(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    outcome = replace(masked(volume), mask=np.ones((4, 12, 10), np.bool_))
    with pytest.raises(GiveUp):
        list(produce(outcome, volume, kinds=["seg"]))


def test_doing_the_work_again_gives_the_same_uids_and_a_revision_others(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path / "one", SERIES)
    again = sample_volume(tmp_path / "two", SERIES)
    for kind in ("seg", "ko"):
        (one,), (two,) = (produce(masked(v), v, kinds=[kind]) for v in (volume, again))
        assert (one.sop_instance_uid, one.series_instance_uid) == (
            two.sop_instance_uid,
            two.series_instance_uid,
        )
        (later,) = produce(masked(volume), volume, revised(2), kinds=[kind])
        assert later.sop_instance_uid != one.sop_instance_uid
        assert later.series_instance_uid != one.series_instance_uid


def test_doing_the_work_again_gives_the_same_bytes(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    first, second = (list(produce(masked(volume), volume, kinds=["seg"])) for _ in range(2))
    assert [one.encode() for one in first] == [one.encode() for one in second]


def key_objects(volume: Volume) -> Dataset:
    (made,) = produce(findings(volume, positive=True), volume, kinds=["ko"])
    return dcmread(io.BytesIO(made.encode()))


def test_the_key_image_is_selected(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    document = key_objects(volume)
    content = KeyObjectSelectionDocument.from_dataset(document).content
    (reference,) = content.get_references()
    key = volume.sources[2]
    assert reference.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == key.SOPInstanceUID
    assert document.ConceptNameCodeSequence[0].CodeValue == "113000"
    words = [item.TextValue for item in document.ContentSequence if item.ValueType == "TEXT"]
    assert words[-1:] == [f"Suspected: Intracranial hemorrhage. {NOTICE}"]
    assert (document.Modality, document.SeriesNumber) == ("KO", 9105)


def test_the_key_frame_is_selected(tmp_path: Path) -> None:
    volume = load_volume(write_images(tmp_path, [enhanced_image()]))
    (reference,) = [item for item in key_objects(volume).ContentSequence if item.ValueType == "IMAGE"]
    assert reference.ReferencedSOPSequence[0].ReferencedFrameNumber == volume.frames[2]


def test_key_images_are_an_option_and_only_of_findings(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, SERIES)
    assert "ko" not in ResultObjects().kinds("positive")
    assert "ko" in ResultObjects(ko=["positive"]).kinds("positive")
    assert list(produce(findings(volume, positive=False), volume, kinds=["ko"])) == []
