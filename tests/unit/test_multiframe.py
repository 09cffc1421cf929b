"""Multi-frame CT and MR are stacks of frames, and come back as what they were, frame by frame."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

from appliance.dicom.unusable import Unusable
from tests.modality_samples import enhanced_image
from tests.result_samples import derive, load, twice_as_fine


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_frames_are_sorted_by_place_and_written_back_in_their_order(tmp_path: Path, modality: str) -> None:
    source = enhanced_image(modality)
    volume = load(tmp_path, source)
    assert volume.frames == (4, 3, 2, 1)
    assert volume.spacing == (5.0, 0.5, 0.4)
    stored = np.frombuffer(source.PixelData, "<u2").reshape(4, 32, 24).astype(int)
    slope, intercept = (1, -1024) if modality == "CT" else (2, 0)
    np.testing.assert_array_equal(volume.voxels[0], stored[3] * slope + intercept)
    change = np.arange(4, dtype=np.float32)[:, None, None] * slope
    (image,) = derive(volume, volume.voxels + change)
    after = np.frombuffer(image.PixelData, "<u2").reshape(4, 32, 24)
    np.testing.assert_array_equal(after, stored + np.array([3, 2, 1, 0])[:, None, None])


def test_a_derived_multi_frame_image_says_so_of_each_frame(tmp_path: Path) -> None:
    source = enhanced_image()
    volume = load(tmp_path, source)
    (image,) = derive(volume, volume.voxels)
    assert list(image.ImageType) == ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    shared = image.SharedFunctionalGroupsSequence[0]
    assert list(shared.CTImageFrameTypeSequence[0].FrameType) == ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    for number, group in enumerate(image.PerFrameFunctionalGroupsSequence, 1):
        (derivation,) = group.DerivationImageSequence
        assert derivation.DerivationCodeSequence[0].CodeValue == "DN"
        (reference,) = derivation.SourceImageSequence
        assert (reference.ReferencedSOPInstanceUID, reference.ReferencedFrameNumber) == (
            source.SOPInstanceUID,
            number,
        )
        assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    evidence = image.SourceImageEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert image.ContentQualification == "RESEARCH"


def test_what_is_shared_stays_shared(tmp_path: Path) -> None:
    volume = load(tmp_path, enhanced_image())
    (image,) = derive(volume, volume.voxels)
    shared = image.SharedFunctionalGroupsSequence[0]
    assert "PixelMeasuresSequence" in shared
    assert all("PixelMeasuresSequence" not in group for group in image.PerFrameFunctionalGroupsSequence)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ConcatenationUID": "2.25.5"}, "concatenation"),
        (
            {"ConcatenationUID": "2.25.5", "InConcatenationNumber": 2, "InConcatenationTotalNumber": 2},
            "concatenation",
        ),
        ({"NumberOfFrames": 3}, "missing_geometry"),
        ({"NumberOfFrames": 0}, "multi_frame"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.2"}, "multi_frame"),
    ],
)
def test_objects_that_are_not_one_stack_of_frames_are_refused(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    source = enhanced_image()
    for keyword, value in change.items():
        setattr(source, keyword, value)
    with pytest.raises(Unusable) as caught:
        load(tmp_path, source)
    assert caught.value.reason == reason


def parts_of(whole: Dataset, first: int) -> list[Dataset]:
    """The object as a concatenation of two, the first with `first` frames."""
    parts = []
    groups, cells = list(whole.PerFrameFunctionalGroupsSequence), len(whole.PixelData) // whole.NumberOfFrames
    for number, (start, end) in enumerate(((0, first), (first, len(groups))), 1):
        part = deepcopy(whole)
        part.SOPInstanceUID = f"2.25.{number}"
        part.ConcatenationUID, part.InConcatenationNumber = "2.25.9", number
        part.InConcatenationTotalNumber, part.ConcatenationFrameOffsetNumber = 2, start
        part.SOPInstanceUIDOfConcatenationSource = whole.SOPInstanceUID
        part.NumberOfFrames = end - start
        part.PerFrameFunctionalGroupsSequence = groups[start:end]
        part.PixelData = whole.PixelData[start * cells : end * cells]
        parts.append(part)
    return parts


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_the_parts_of_a_concatenation_become_one_object(tmp_path: Path, modality: str) -> None:
    whole = enhanced_image(modality)
    parts = parts_of(whole, 1)
    volume = load(tmp_path / "parts", *reversed(parts))
    np.testing.assert_array_equal(volume.voxels, load(tmp_path / "whole", whole).voxels)
    (image,) = derive(volume, volume.voxels)
    assert image.PixelData == whole.PixelData
    assert image.NumberOfFrames == len(image.PerFrameFunctionalGroupsSequence) == 4
    assert not [element.keyword for element in image if "Concatenation" in element.keyword]
    sources = [
        group.DerivationImageSequence[0].SourceImageSequence[0]
        for group in image.PerFrameFunctionalGroupsSequence
    ]
    named = [(source.ReferencedSOPInstanceUID, source.ReferencedFrameNumber) for source in sources]
    assert named == [("2.25.1", 1), ("2.25.2", 1), ("2.25.2", 2), ("2.25.2", 3)]
    evidence = image.SourceImageEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert [item.ReferencedSOPInstanceUID for item in evidence] == ["2.25.1", "2.25.2"]


def test_a_frame_without_a_place_is_refused(tmp_path: Path) -> None:
    source = enhanced_image()
    del source.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    with pytest.raises(Unusable) as caught:
        load(tmp_path, source)
    assert caught.value.reason == "missing_geometry"


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_frames_on_a_finer_grid_have_the_edges_of_the_old_one(tmp_path: Path, modality: str) -> None:
    source = enhanced_image(modality)
    volume = load(tmp_path, source)
    (image,) = derive(volume, twice_as_fine(volume.voxels))
    measures = image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [float(v) for v in measures.PixelSpacing] == [0.25, 0.2]
    first = image.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient
    np.testing.assert_allclose([float(v) for v in first], [-6.0 - 0.1, -8.0 - 0.125, 20.0])
