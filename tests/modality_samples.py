"""Builders of images of other modalities than CT, made from numbers: no patient, no scanner.

Each returns complete data sets in memory; `write_images` writes them as files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    MRImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from tests.dicom_samples import CtSeries, ct_image, part10, sample_uid

_CT_ONLY = ("KVP", "RescaleSlope", "RescaleIntercept", "RescaleType", "WindowCenter", "WindowWidth")
_PLACE = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "PatientPosition",
    "AcquisitionNumber",
)


def write_images(folder: Path, images: Sequence[Dataset]) -> list[Path]:
    """Write data sets as files, in this order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:04d}.dcm" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        path.write_bytes(part10(image))
    return paths


def mr_images(count: int = 3, *, rows: int = 32, columns: int = 24) -> list[Dataset]:
    """A classic MR series without rescale."""
    series = CtSeries(slices=count, rows=rows, columns=columns, intercept=0.0, slope=1.0, series="mr")
    return [_mr_image(series, index) for index in range(count)]


def _mr_image(series: CtSeries, index: int) -> Dataset:
    image = ct_image(series, index)
    _drop(image, _CT_ONLY)
    image.SOPClassUID, image.Modality = MRImageStorage, "MR"
    image.ImageType = ["ORIGINAL", "PRIMARY", "M", "SE"]
    image.ScanningSequence, image.SequenceVariant, image.ScanOptions = "SE", "NONE", ""
    image.MRAcquisitionType, image.EchoTime, image.RepetitionTime, image.EchoTrainLength = "2D", 10, 500, 1
    image.WindowCenter, image.WindowWidth = 500, 1000
    image.PixelData = _gradient(series.rows, series.columns, 1000, index).astype("<u2").tobytes()
    return image


def cr_image(*, photometric: str = "MONOCHROME1", rows: int = 40, columns: int = 30) -> Dataset:
    """A chest from computed radiography; by default what is bright has low values."""
    image = _projection(rows, columns, photometric)
    image.SOPClassUID, image.Modality = ComputedRadiographyImageStorage, "CR"
    image.ViewPosition = "PA"
    image.ImagerPixelSpacing = [0.2, 0.2]
    return _named(image, photometric)


def dx_image(*, photometric: str = "MONOCHROME1", rows: int = 40, columns: int = 30) -> Dataset:
    """A chest from a digital detector, for presentation."""
    image = _projection(rows, columns, photometric)
    image.SOPClassUID, image.Modality = DigitalXRayImageStorageForPresentation, "DX"
    image.PresentationIntentType = "FOR PRESENTATION"
    image.ImageType = ["ORIGINAL", "PRIMARY", ""]
    image.PresentationLUTShape = "INVERSE" if photometric == "MONOCHROME1" else "IDENTITY"
    image.PixelIntensityRelationship, image.PixelIntensityRelationshipSign = "LOG", -1
    image.RescaleSlope, image.RescaleIntercept, image.RescaleType = 1, 0, "US"
    image.LossyImageCompression, image.BurnedInAnnotation = "00", "NO"
    image.ImagerPixelSpacing, image.DetectorType = [0.15, 0.15], "DIRECT"
    image.ImageLaterality, image.PatientOrientation = "U", ["L", "F"]
    image.AnatomicRegionSequence = [_code("51185008", "SCT", "Chest")]
    image.ViewPosition, image.PositionerType = "PA", "NONE"
    image.AcquisitionContextSequence = []
    image.AcquisitionDeviceProcessingDescription = ""
    image.PatientOrientation = ["L", "F"]
    image.BodyPartExamined = "CHEST"
    return _named(image, photometric)


def us_image(*, colour: bool = False, frames: int = 1, rows: int = 48, columns: int = 64) -> Dataset:
    """An ultrasound image or cine: a region of tissue, a scale beside it, in colour a patch of flow."""
    image = _bare(rows, columns)
    image.SOPClassUID = UltrasoundImageStorage if frames == 1 else UltrasoundMultiFrameImageStorage
    image.Modality = "US"
    image.ImageType = ["ORIGINAL", "PRIMARY", "ABDOMINAL", "0001"]
    image.BodyPartExamined = "ABDOMEN"
    image.PatientOrientation = ""
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit, image.PixelRepresentation = 7, 0
    image.LossyImageCompression = "00"
    image.SequenceOfUltrasoundRegions = [_region(8, 4, 39, 43)]
    grey = np.stack([_gradient(rows, columns, 200, frame) for frame in range(frames)]).astype(np.uint8)
    if frames > 1:
        image.NumberOfFrames, image.FrameTime = frames, 40
        image.FrameIncrementPointer = 0x00181063
    if not colour:
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.PixelData = grey.tobytes()
        return _named(image, frames)
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
    image.UltrasoundColorDataPresent = 1
    pixels = np.repeat(grey[..., None], 3, axis=-1)
    pixels[:, 20:26, 16:22] = (200, 30, 10)
    image.PixelData = pixels.tobytes()
    return _named(image, "colour", frames)


def _region(left: int, top: int, right: int, bottom: int) -> Dataset:
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinX0, region.RegionLocationMinY0 = left, top
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = right, bottom
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.ReferencePixelX0, region.ReferencePixelY0 = 10, 0
    region.ReferencePixelPhysicalValueX, region.ReferencePixelPhysicalValueY = 0.0, 0.0
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.05, 0.04
    return region


def enhanced_image(modality: str = "CT", frames: int = 4, *, rows: int = 32, columns: int = 24) -> Dataset:
    """A multi-frame CT or MR; the frames are stored from head to feet, against the direction of the stack."""
    image = _bare(rows, columns)
    image.FrameOfReferenceUID, image.PositionReferenceIndicator = sample_uid("frame", "study"), ""
    image.PatientPosition, image.BodyPartExamined = "HFS", "HEAD"
    image.SOPClassUID = EnhancedCTImageStorage if modality == "CT" else EnhancedMRImageStorage
    image.Modality = modality
    image.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME" if modality == "CT" else "M", "NONE"]
    image.PixelPresentation, image.VolumetricProperties = "MONOCHROME", "VOLUME"
    image.VolumeBasedCalculationTechnique = "NONE"
    image.ContentQualification, image.BurnedInAnnotation = "PRODUCT", "NO"
    image.LossyImageCompression, image.PresentationLUTShape = "00", "IDENTITY"
    image.AcquisitionNumber, image.AcquisitionDateTime, image.AcquisitionDuration = 1, "20260102101601", 1.0
    image.AcquisitionContextSequence = []
    image.NumberOfFrames = frames
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    organization = Dataset()
    organization.DimensionOrganizationUID = sample_uid("dimensions")
    image.DimensionOrganizationSequence = [organization]
    index = Dataset()
    index.DimensionOrganizationUID = organization.DimensionOrganizationUID
    index.DimensionIndexPointer, index.FunctionalGroupPointer = 0x00209057, 0x00209111
    image.DimensionIndexSequence = [index]
    if modality == "MR":
        image.ComplexImageComponent, image.AcquisitionContrast = "MAGNITUDE", "T1"
        image.ContentQualification, image.ResonantNucleus = "PRODUCT", "1H"
        image.MagneticFieldStrength, image.KSpaceFiltering = 1.5, "NONE"
        image.ApplicableSafetyStandardAgency = "IEC"
        image.PulseSequenceName = "SE"
    image.SharedFunctionalGroupsSequence = [_shared_groups(modality)]
    image.PerFrameFunctionalGroupsSequence = [_frame_groups(number, frames) for number in range(frames)]
    values = np.stack([_gradient(rows, columns, 2000, frame) for frame in range(frames)])
    image.PixelData = values.astype("<u2").tobytes()
    return _named(image, frames)


def _shared_groups(modality: str) -> Dataset:
    shared = Dataset()
    frame_type = Dataset()
    frame_type.FrameType = ["ORIGINAL", "PRIMARY", "VOLUME" if modality == "CT" else "M", "NONE"]
    frame_type.PixelPresentation, frame_type.VolumetricProperties = "MONOCHROME", "VOLUME"
    frame_type.VolumeBasedCalculationTechnique = "NONE"
    if modality == "MR":
        frame_type.ComplexImageComponent, frame_type.AcquisitionContrast = "MAGNITUDE", "T1"
    shared.add_new(0x00189329 if modality == "CT" else 0x00189226, "SQ", [frame_type])
    shared.PixelMeasuresSequence = [_group(PixelSpacing=[0.5, 0.4], SliceThickness=5, SpacingBetweenSlices=5)]
    shared.PlaneOrientationSequence = [_group(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]
    shared.PixelValueTransformationSequence = [
        _group(
            RescaleSlope=1 if modality == "CT" else 2,
            RescaleIntercept=-1024 if modality == "CT" else 0,
            RescaleType="HU" if modality == "CT" else "US",
        )
    ]
    shared.FrameVOILUTSequence = [_group(WindowCenter=40, WindowWidth=400)]
    anatomy = _group(FrameLaterality="U")
    anatomy.AnatomicRegionSequence = [_code("69536005", "SCT", "Head")]
    shared.FrameAnatomySequence = [anatomy]
    return shared


def _frame_groups(number: int, frames: int) -> Dataset:
    group = Dataset()
    group.FrameContentSequence = [
        _group(
            StackID="1",
            InStackPositionNumber=number + 1,
            DimensionIndexValues=[number + 1],
            FrameReferenceDateTime="20260102101601",
            FrameAcquisitionDateTime="20260102101601",
            FrameAcquisitionDuration=1.0,
            FrameAcquisitionNumber=1,
        )
    ]
    group.PlanePositionSequence = [_group(ImagePositionPatient=[-6.0, -8.0, 5.0 * (frames - number)])]
    return group


def _group(**values: object) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _group(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _projection(rows: int, columns: int, photometric: str) -> Dataset:
    image = _bare(rows, columns)
    image.ImageType = ["ORIGINAL", "PRIMARY"]
    image.BodyPartExamined = "CHEST"
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, photometric
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.WindowCenter, image.WindowWidth = 1500, 3000
    image.PatientOrientation = ["L", "F"]
    image.PixelData = _gradient(rows, columns, 3000, 0).astype("<u2").tobytes()
    return image


def _bare(rows: int, columns: int) -> Dataset:
    """An image of the sample study without anything that only CT has, and without pixels."""
    image = ct_image(CtSeries(slices=1, rows=rows, columns=columns, series="other"), 0)
    _drop(image, (*_CT_ONLY, *_PLACE, "PixelData"))
    return image


def _named(image: Dataset, *parts: object) -> Dataset:
    """The image under a name of its own, in a series of its own."""
    image.SeriesInstanceUID = sample_uid("series", image.SOPClassUID, *parts)
    image.SOPInstanceUID = sample_uid("image", image.SOPClassUID, *parts)
    return image


def _drop(image: Dataset, keywords: Sequence[str]) -> None:
    for keyword in keywords:
        del image[keyword]


def _gradient(rows: int, columns: int, highest: int, seed: int) -> NDArray[np.int64]:
    """Values from 0 to `highest`, brightest in the lower right corner, with some texture."""
    y, x = np.mgrid[0 : 1 : rows * 1j, 0 : 1 : columns * 1j]
    texture = np.random.default_rng(seed).normal(0, highest / 50, x.shape)
    values: NDArray[np.float64] = np.clip(np.rint((x + y) / 2 * highest + texture), 0, highest)
    return values.astype(np.int64)
