"""Simulated CT slices as Part-10 files, whose UIDs are changed in place so that no image arrives twice."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

ROWS = COLUMNS = 512
_UID_LENGTH = 43


@dataclass(frozen=True)
class _Slice:
    """One file and where its UIDs stand: offset and index into (study, series, instance)."""

    path: Path
    places: tuple[tuple[int, int], ...]


class Slices:
    """`count` axial CT slices of one series, 512 x 512 x 16 bit, in `folder`."""

    def __init__(self, folder: Path, count: int) -> None:
        folder.mkdir(parents=True)
        generator = np.random.default_rng(1)
        pixels = generator.integers(-1024, 2000, (ROWS, COLUMNS), dtype=np.int16)
        self._slices = [_write(folder / f"{number:05d}.dcm", number, pixels) for number in range(count)]

    @property
    def paths(self) -> list[Path]:
        """The files in the order of the slices."""
        return [one.path for one in self._slices]

    @property
    def total_bytes(self) -> int:
        """Size of all files."""
        return sum(path.stat().st_size for path in self.paths)

    def renew(self) -> None:
        """Give every file a SOP Instance UID that was never used, and all the same new study and series."""
        study, series = _new_uid(), _new_uid()
        for one in self._slices:
            uids = (study, series, _new_uid())
            descriptor = os.open(one.path, os.O_WRONLY)
            try:
                for offset, which in one.places:
                    os.pwrite(descriptor, uids[which], offset)
            finally:
                os.close(descriptor)


def _new_uid() -> bytes:
    """A UID made from a UUID (PS3.5 B.2), always of the same length."""
    number = 10**37 + uuid.uuid4().int % (9 * 10**37)
    return f"2.25.{number}".encode()


def _write(path: Path, number: int, pixels: np.ndarray[tuple[int, ...], np.dtype[np.int16]]) -> _Slice:
    uids = (_new_uid(), _new_uid(), _new_uid())
    data_set = _header(number, *(uid.decode() for uid in uids))
    data_set.PixelData = np.roll(pixels, number, axis=0).tobytes()
    data_set.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    places = []
    for which, uid in enumerate(uids):
        at = content.find(uid)
        while at >= 0:
            places.append((at, which))
            at = content.find(uid, at + _UID_LENGTH)
    return _Slice(path, tuple(places))


def _header(number: int, study: str, series: str, instance: str) -> Dataset:
    """What a scanner of today writes about a slice, the pixels left out."""
    one = Dataset()
    one.SpecificCharacterSet = "ISO_IR 100"
    one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, UID(instance)
    one.StudyDate = one.SeriesDate = one.AcquisitionDate = one.ContentDate = "20260101"
    one.StudyTime = one.SeriesTime = one.AcquisitionTime = one.ContentTime = "120000.000000"
    one.AccessionNumber, one.Modality, one.Manufacturer = "1", "CT", "Simulated"
    one.InstitutionName, one.ReferringPhysicianName, one.StationName = "", "", "CT1"
    one.StudyDescription, one.SeriesDescription = "Head", "Head 1.0 H30s"
    one.PatientName, one.PatientID, one.PatientBirthDate, one.PatientSex = "Simulated", "1", "", "O"
    one.BodyPartExamined, one.SliceThickness, one.KVP = "HEAD", "1", "120"
    one.DataCollectionDiameter, one.ProtocolName, one.ReconstructionDiameter = "500", "Head", "250"
    one.GantryDetectorTilt, one.TableHeight, one.RotationDirection = "0", "150", "CW"
    one.ExposureTime, one.XRayTubeCurrent, one.Exposure = "1000", "300", "300"
    one.FilterType, one.ConvolutionKernel, one.PatientPosition = "0", "H30s", "HFS"
    one.StudyInstanceUID, one.SeriesInstanceUID = study, series
    one.StudyID, one.SeriesNumber, one.AcquisitionNumber = "1", "2", "1"
    one.InstanceNumber = str(number + 1)
    one.ImagePositionPatient = [-125.0, -125.0, float(number)]
    one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    one.FrameOfReferenceUID = "2.25.1"
    one.PositionReferenceIndicator, one.SliceLocation = "", str(float(number))
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.Rows, one.Columns, one.PixelSpacing = ROWS, COLUMNS, [0.48828125, 0.48828125]
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
    one.WindowCenter, one.WindowWidth = "40", "80"
    one.RescaleIntercept, one.RescaleSlope, one.RescaleType = "0", "1", "HU"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, UID(instance)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.file_meta = meta
    return one
