"""Simulated head-CT series as a scanner would send them.

`python -m tools.simulate.head_series OUT --seed 1 --bleed` writes one.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, UID, CTImageStorage, ExplicitVRLittleEndian
from scipy import ndimage

from tools.simulate.head_phantom import AIR, Phantom, draw_phantom
from tools.simulate.head_phantom_bleeds import Bleed
from tools.simulate.head_shapes import Array, chance

Volume = NDArray[np.float32]
_SAMPLING_MM = 0.9
_TOP_MM = 84.0


@dataclass(frozen=True)
class Acquisition:
    """How a head was scanned: millimetres, degrees, HU."""

    pixel_mm: float
    slice_mm: float
    rotation_degrees: tuple[float, float, float]
    shift_mm: tuple[float, float]
    blur_mm: float
    noise_hu: float
    noise_grain_mm: float
    head_holder: bool


@dataclass(frozen=True)
class SimulatedSeries:
    """A scanned phantom: `hu` and `blood` (share of each voxel) have shape (slices, rows, columns).

    Slices are in ascending z, `slice_mm` apart and thick; `bottom_mm` is the z of the first.
    """

    hu: Volume
    blood: Volume
    bleed: Bleed | None
    acquisition: Acquisition
    bottom_mm: float


def draw_acquisition(rng: np.random.Generator, size: int, slice_mm: float | None = None) -> Acquisition:
    """Draw scan parameters for images of `size` x `size` pixels; `slice_mm` fixes the slice thickness."""
    return Acquisition(
        pixel_mm=round(float(rng.uniform(0.43, 0.49)) * 512 / size, 4),
        slice_mm=float(rng.choice([3.0, 4.0, 5.0, 6.0, 7.5])) if slice_mm is None else slice_mm,
        rotation_degrees=(
            float(rng.uniform(-12, 12)),
            float(rng.uniform(-4, 4)),
            float(rng.uniform(-10, 10)),
        ),
        shift_mm=(float(rng.uniform(-8, 8)), float(rng.uniform(-8, 8))),
        blur_mm=float(rng.uniform(0.35, 0.75)),
        noise_hu=float(rng.uniform(1.5, 5.5)),
        noise_grain_mm=float(rng.uniform(0.3, 0.8)),
        head_holder=chance(rng, 0.6),
    )


def scan(
    phantom: Phantom, acquisition: Acquisition, rng: np.random.Generator, *, slices: int, size: int
) -> SimulatedSeries:
    """Scan a phantom from the vertex downwards."""
    bottom = _TOP_MM - acquisition.slice_mm * (slices - 1)
    shape = (slices, size, size)
    hu, blood = np.empty(shape, np.float32), np.empty(shape, np.float32)
    for index in range(slices):
        hu[index], blood[index] = _scan_slice(
            phantom, acquisition, rng, bottom + index * acquisition.slice_mm, size
        )
    return SimulatedSeries(hu, blood, phantom.bleed, acquisition, bottom)


def simulate_series(
    *,
    seed: int,
    bleed: bool,
    kind: Bleed | None = None,
    volume_ml: tuple[float, float] = (2.0, 60.0),
    slices: int = 24,
    size: int = 512,
    slice_mm: float | None = None,
) -> SimulatedSeries:
    """Draw a head and its scan from one seed; see `draw_phantom` for `kind` and `volume_ml`."""
    rng = np.random.default_rng([seed, int(bleed), 20_261_123])
    phantom = draw_phantom(rng, bleed=bleed, kind=kind, volume_ml=volume_ml)
    acquisition = draw_acquisition(rng, size, slice_mm)
    return scan(phantom, acquisition, rng, slices=slices, size=size)


def _scan_slice(
    phantom: Phantom, acquisition: Acquisition, rng: np.random.Generator, height: float, size: int
) -> tuple[Array, Array]:
    coarse = min(size, round(size * acquisition.pixel_mm / _SAMPLING_MM))
    field = size * acquisition.pixel_mm
    centres = (np.arange(coarse, dtype=np.float32) + 0.5) * np.float32(field / coarse) - np.float32(field / 2)
    y, x = (axis.astype(np.float32) for axis in np.meshgrid(centres, centres, indexing="ij"))
    near = (x / 105) ** 2 + (y / 125) ** 2 < 1
    x_near, y_near = (
        x[near] - np.float32(acquisition.shift_mm[0]),
        y[near] - np.float32(acquisition.shift_mm[1]),
    )
    rotation = _rotation(acquisition.rotation_degrees)
    hu, blood = np.full(x.shape, AIR, np.float32), np.zeros(x.shape, np.float32)
    hu_near, blood_near = np.zeros(x_near.shape, np.float32), np.zeros(x_near.shape, np.float32)
    parts = max(2, round(acquisition.slice_mm / 2))
    for part in range(parts):  # the slice is a slab: the mean of thin slices
        z = np.float32(height + acquisition.slice_mm * ((part + 0.5) / parts - 0.5))
        position = [row[0] * x_near + row[1] * y_near + row[2] * z for row in rotation]
        thin_hu, thin_blood = phantom.tissue(position)
        hu_near += thin_hu / np.float32(parts)
        blood_near += thin_blood / np.float32(parts)
    hu[near], blood[near] = hu_near, blood_near
    hu, blood = (
        ndimage.zoom(image, size / coarse, order=1, grid_mode=True, mode="nearest") for image in (hu, blood)
    )
    return _degrade(hu, acquisition, rng), blood


def _degrade(hu: Array, acquisition: Acquisition, rng: np.random.Generator) -> Array:
    size, pixel = hu.shape[0], acquisition.pixel_mm
    if acquisition.head_holder:
        row, column = np.ogrid[:size, :size]
        radius = np.hypot((column - size / 2) * pixel, (row - size / 2) * pixel)
        hu = np.where((np.abs(radius - 113) < 1.2) & (row > 0.45 * size), np.float32(120), hu)
    hu = ndimage.gaussian_filter(hu, acquisition.blur_mm / pixel)
    noise = ndimage.gaussian_filter(
        rng.standard_normal(hu.shape, dtype=np.float32), acquisition.noise_grain_mm / pixel, mode="wrap"
    )
    noise *= np.float32(acquisition.noise_hu) / noise.std()
    degraded: Array = np.clip(hu + noise, -1024, 3071).astype(np.float32)
    return degraded


def _rotation(degrees: tuple[float, float, float]) -> NDArray[np.float32]:
    """The matrix that turns scanner coordinates into the frame of the tilted head."""
    a, b, c = np.radians(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    matrix: NDArray[np.float32] = (about_x @ about_y @ about_z).astype(np.float32)
    return matrix


def write_series(
    folder: Path,
    *,
    seed: int,
    bleed: bool,
    kind: Bleed = Bleed.PARENCHYMAL,
    volume_ml: tuple[float, float] = (20.0, 60.0),
    slices: int = 24,
    size: int = 512,
    slice_mm: float = 5.0,
) -> list[Path]:
    """Write a simulated series as CT images (PS3.3 A.3) and return the files in ascending z.

    `kind` and `volume_ml` apply with `bleed`: by default a large parenchymal bleed, which a test or a
    demo may expect to be found. Equal arguments give equal files, UIDs included.
    """
    series = simulate_series(
        seed=seed, bleed=bleed, kind=kind, volume_ml=volume_ml, slices=slices, size=size, slice_mm=slice_mm
    )
    folder.mkdir(parents=True, exist_ok=True)
    root = f"{seed}/{bleed}/{kind.value}/{volume_ml}/{slices}/{size}/{slice_mm}"
    paths = []
    for index in range(slices):
        path = folder / f"{index + 1:04d}.dcm"
        _image(series, index, root, seed).save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _uid(*parts: str) -> str:
    digest = hashlib.sha256("/".join(("head-series", *parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _image(series: SimulatedSeries, index: int, root: str, seed: int) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(_uid(root, "image", str(index)))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID = meta.MediaStorageSOPClassUID
    image.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    _describe(image, series, root, seed)
    _place(image, series, index)
    return image


def _describe(image: Dataset, series: SimulatedSeries, root: str, seed: int) -> None:
    """Patient, study, series and equipment (PS3.3 C.7.1 to C.7.5)."""
    image.SpecificCharacterSet = "ISO_IR 192"
    image.PatientName = "PHANTOM^BLEED" if series.bleed else "PHANTOM^CLEAR"
    image.PatientID = f"SIM-{seed}"
    image.PatientBirthDate = ""
    image.PatientSex = ""
    image.StudyInstanceUID = _uid(root, "study")
    image.StudyID = str(seed)
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = "20260101"
    image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = "120000"
    image.StudyDescription = "Simulated head CT"
    image.AccessionNumber = ""
    image.ReferringPhysicianName = ""
    image.SeriesInstanceUID = _uid(root, "series")
    image.SeriesNumber = 2
    image.SeriesDescription = "Head 5 mm simulated"
    image.Modality = "CT"
    image.BodyPartExamined = "HEAD"
    image.PatientPosition = "HFS"
    image.FrameOfReferenceUID = _uid(root, "frame of reference")
    image.PositionReferenceIndicator = ""
    image.Manufacturer = "Simulator"
    image.ManufacturerModelName = "head phantom"


def _place(image: Dataset, series: SimulatedSeries, index: int) -> None:
    """Image plane, pixels and CT image modules (PS3.3 C.7.6, C.8.2.1)."""
    scan_of = series.acquisition
    slices, rows, columns = series.hu.shape
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.AcquisitionNumber = 1
    # SyntheticData (0008,001C) would say it better, but the validators of the day take it for an error.
    image.QualityControlImage = "YES"
    image.ImageComments = "Synthetic data: YES. Simulated phantom, not a person."
    image.InstanceNumber = index + 1
    image.ImagesInAcquisition = slices
    image.KVP = 120
    image.ConvolutionKernel = "SIM"
    image.SliceThickness = scan_of.slice_mm
    image.SpacingBetweenSlices = scan_of.slice_mm
    image.PixelSpacing = [scan_of.pixel_mm, scan_of.pixel_mm]
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    corner = -scan_of.pixel_mm * (columns - 1) / 2
    image.ImagePositionPatient = [
        f"{corner:.4f}",
        f"{corner:.4f}",
        f"{series.bottom_mm + index * scan_of.slice_mm:.4f}",
    ]
    image.SliceLocation = image.ImagePositionPatient[2]
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows, image.Columns = rows, columns
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelRepresentation = 0
    image.RescaleIntercept, image.RescaleSlope, image.RescaleType = -1024, 1, "HU"
    image.WindowCenter, image.WindowWidth = 40, 80
    image.PixelData = np.round(series.hu[index] + 1024).clip(0, 4095).astype("<u2").tobytes()


def main() -> None:
    """Write one series and say how many images it has."""
    parser = argparse.ArgumentParser(description="Write a simulated head-CT series.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bleed", action="store_true")
    parser.add_argument("--slices", type=int, default=24)
    parser.add_argument("--size", type=int, default=512)
    arguments = parser.parse_args()
    paths = write_series(
        arguments.folder,
        seed=arguments.seed,
        bleed=arguments.bleed,
        slices=arguments.slices,
        size=arguments.size,
    )
    print(f"{len(paths)} images in {arguments.folder}")  # noqa: T201


if __name__ == "__main__":
    main()
