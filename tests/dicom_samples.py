"""Builders of small valid CT series for tests, made from numbers and seeds: no patient, no scanner."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

IMPLEMENTATION_CLASS_UID = UID("1.2.826.0.1.3680043.8.498.1")


def sample_uid(*parts: object) -> str:
    """A UID that depends on the parts only."""
    return f"2.25.{uuid5(NAMESPACE_OID, repr(parts)).int}"


@dataclass(frozen=True)
class CtSeries:
    """What a synthetic CT series looks like; `attributes` overrides any element of every image.

    Series with the same `study` share the study, the patient and the frame of reference.
    """

    slices: int = 5
    rows: int = 64
    columns: int = 64
    pixel_spacing: tuple[float, float] = (0.5, 0.5)
    gap: float = 5.0
    orientation: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    origin: tuple[float, float, float] = (-16.0, -16.0, 100.0)
    shear: tuple[float, float] = (0.0, 0.0)
    """Millimetres by which each further slice is displaced along rows and columns."""
    slope: float = 1.0
    intercept: float = -1024.0
    bits_stored: int = 12
    signed: bool = False
    study: str = "study"
    series: str = "series"
    body_part: str = "HEAD"
    seed: int = 0
    attributes: dict[str, Any] = field(default_factory=dict)

    def with_attributes(self, **attributes: Any) -> CtSeries:
        """The same series with other elements."""
        return replace(self, attributes={**self.attributes, **attributes})


def ct_hounsfield(series: CtSeries, index: int) -> NDArray[np.float64]:
    """A disc of brain in a ring of bone in air, with noise; shape (rows, columns), in HU."""
    y, x = np.mgrid[-1 : 1 : series.rows * 1j, -1 : 1 : series.columns * 1j]
    radius = np.hypot(x, y)
    noise = np.random.default_rng([series.seed, index]).normal(0, 5, radius.shape)
    values = np.where(radius < 0.8, np.where(radius < 0.7, 35.0, 900.0), -1000.0)
    return np.asarray(values + noise, np.float64)


def stored_pixels(series: CtSeries, hounsfield: NDArray[np.float64]) -> NDArray[np.integer[Any]]:
    """HU as stored values of the series' bit depth."""
    low = -(1 << (series.bits_stored - 1)) if series.signed else 0
    high = low + (1 << series.bits_stored) - 1
    values = np.clip(np.rint((hounsfield - series.intercept) / series.slope), low, high)
    return values.astype(np.int16 if series.signed else np.uint16)


def ct_image(series: CtSeries, index: int) -> Dataset:
    """Image `index` of the series: a complete, valid CT Image in memory."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    _patient_and_study(ds, series)
    _series_and_equipment(ds, series)
    _image(ds, series, index)
    for name, value in series.attributes.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def _patient_and_study(ds: Dataset, series: CtSeries) -> None:
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName = "Sample^Synthetic"
    ds.PatientID = "SYNTHETIC-1"
    ds.PatientBirthDate = "19700101"
    ds.PatientSex = "O"
    ds.StudyInstanceUID = sample_uid("study", series.study)
    ds.StudyDate = "20260102"
    ds.StudyTime = "101500"
    ds.StudyID = "1"
    ds.StudyDescription = "CT HEAD"
    ds.AccessionNumber = "ACC1"
    ds.ReferringPhysicianName = ""


def _series_and_equipment(ds: Dataset, series: CtSeries) -> None:
    ds.Modality = "CT"
    ds.SeriesInstanceUID = sample_uid("series", series.study, series.series)
    ds.SeriesNumber = 2
    ds.SeriesDescription = "HEAD 5MM"
    ds.SeriesDate = "20260102"
    ds.SeriesTime = "101600"
    ds.BodyPartExamined = series.body_part
    ds.PatientPosition = "HFS"
    ds.FrameOfReferenceUID = sample_uid("frame", series.study)
    ds.PositionReferenceIndicator = ""
    ds.Manufacturer = "Sample Scanners"
    ds.ManufacturerModelName = "Simulator"
    ds.DeviceSerialNumber = "SIM1"
    ds.SoftwareVersions = "1.0"
    ds.StationName = "CT1"
    ds.InstitutionName = "Sample Hospital"


def _image(ds: Dataset, series: CtSeries, index: int) -> None:
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = sample_uid("image", series.study, series.series, index)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.AcquisitionDate = ds.ContentDate = "20260102"
    ds.AcquisitionTime = ds.ContentTime = "101601"
    ds.AcquisitionNumber = 1
    ds.InstanceNumber = index + 1
    row, column = np.array(series.orientation[:3]), np.array(series.orientation[3:])
    along = np.cross(row, column) * series.gap + row * series.shear[0] + column * series.shear[1]
    ds.ImagePositionPatient = [round(float(v), 6) for v in np.array(series.origin) + index * along]
    ds.ImageOrientationPatient = list(series.orientation)
    ds.SliceThickness = series.gap
    ds.KVP = "120"
    ds.PixelSpacing = list(series.pixel_spacing)
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = series.rows, series.columns
    ds.BitsAllocated = 16
    ds.BitsStored = series.bits_stored
    ds.HighBit = series.bits_stored - 1
    ds.PixelRepresentation = int(series.signed)
    ds.RescaleSlope = series.slope
    ds.RescaleIntercept = series.intercept
    ds.RescaleType = "HU"
    ds.WindowCenter, ds.WindowWidth = 40, 80
    ds.PixelData = stored_pixels(series, ct_hounsfield(series, index)).tobytes()


def part10(ds: Dataset) -> bytes:
    """The data set as the content of a Part-10 file, in the syntax of its file meta information."""
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def write_series(
    folder: Path,
    series: CtSeries = CtSeries(),
    *,
    indices: Sequence[int] | None = None,
    change: Callable[[int, Dataset], None] | None = None,
) -> list[Path]:
    """Write a series (or its images `indices`) as files, each after `change(index, image)`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(series.slices) if indices is None else indices:
        image = ct_image(series, index)
        if change is not None:
            change(index, image)
        path = folder / f"{index:04d}.dcm"
        path.write_bytes(part10(image))
        paths.append(path)
    return paths
