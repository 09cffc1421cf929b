"""What the demonstration sends: simulated heads, and the scanner files that ship inside pydicom."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
)

from tools.simulate.head_series import write_series

# Images of several scanners and, on purpose, odd ones: the common compressions, big-endian and deflated
# encodings, palette and YBR colour, many frames, an ECG, a report, a segmentation.
WHEEL_FILES = (
    "CT_small.dcm",
    "J2K_pixelrep_mismatch.dcm",
    "693_J2KI.dcm",
    "MR_small.dcm",
    "examples_overlay.dcm",
    "ExplVR_BigEnd.dcm",
    "examples_jpeg2k.dcm",
    "examples_palette.dcm",
    "examples_ybr_color.dcm",
    "JPEG-lossy.dcm",
    "image_dfl.dcm",
    "waveform_ecg.dcm",
    "test-SR.dcm",
    "liver_1frame.dcm",
)
SCANNER_FOLDERS = ("77654033", "98892001")
"""Two patients of pydicom's DICOMDIR sample: small CR and CT series."""

ENCODINGS = {
    ExplicitVRBigEndian: "big-endian",
    DeflatedExplicitVRLittleEndian: "deflated",
    JPEGBaseline8Bit: "JPEG",
    JPEGExtended12Bit: "JPEG extended",
    JPEG2000Lossless: "JPEG 2000",
    JPEG2000: "JPEG 2000 lossy",
}


@dataclass(frozen=True)
class Image:
    """One file to send."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True)
class Series:
    """The files of one series. `bleed` says what is in a simulated head; of real files nobody says."""

    uid: str
    name: str
    images: tuple[Image, ...]
    bleed: bool | None

    @cached_property
    def sop_instance_uids(self) -> frozenset[str]:
        """The SOP Instance UIDs of all images."""
        return frozenset(image.sop_instance_uid for image in self.images)


def simulated_series(folder: Path, *, seed: int) -> list[Series]:
    """A head with a bleed and one without, written into `folder`."""
    heads = []
    for bleed in (False, True):
        name = f"simulated head, {'bleed' if bleed else 'no bleed'}"
        paths = write_series(folder / ("bleed" if bleed else "clear"), seed=seed, bleed=bleed)
        heads += _by_series(paths, bleed=bleed, name=name)
    return heads


def scanner_series() -> list[Series]:
    """The scanner files inside pydicom's wheel, by series. Nothing is fetched from the network."""
    paths = [_wheel_file(name) for name in WHEEL_FILES]
    folder = _wheel_file("CT_small.dcm").parent / "dicomdirtests"
    for patient in SCANNER_FOLDERS:
        paths += sorted(path for path in (folder / patient).rglob("*") if path.is_file())
    return _by_series(paths, bleed=None)


def _wheel_file(name: str) -> Path:
    found = get_testdata_file(name, download=False)
    if not isinstance(found, str):
        raise FileNotFoundError(f"pydicom's test file {name} is not installed")
    return Path(found)


def _by_series(paths: list[Path], *, bleed: bool | None, name: str | None = None) -> list[Series]:
    """Group files by Series Instance UID. Of files that share a SOP Instance UID the first one counts."""
    images: dict[str, dict[str, Image]] = {}
    names: dict[str, str] = {}
    for path in paths:
        header = dcmread(path, stop_before_pixels=True)
        image = Image(
            path=path,
            sop_class_uid=str(header.file_meta.MediaStorageSOPClassUID),
            sop_instance_uid=str(header.file_meta.MediaStorageSOPInstanceUID),
            transfer_syntax_uid=str(header.file_meta.TransferSyntaxUID),
        )
        series = images.setdefault(str(header.SeriesInstanceUID), {})
        if image.sop_instance_uid not in series:
            series[image.sop_instance_uid] = image
            names.setdefault(str(header.SeriesInstanceUID), name or _name(header, path))
    return [Series(uid, names[uid], tuple(files.values()), bleed) for uid, files in images.items()]


def _name(header: Dataset, path: Path) -> str:
    """Modality, device or file, and how the object is encoded if not in the most common way."""
    device = str(header.get("ManufacturerModelName") or "")
    scanner = device if device and len(device) < 20 else path.name
    encoding = ENCODINGS.get(header.file_meta.TransferSyntaxUID)
    return f"{header.Modality} {scanner}" + (f" ({encoding})" if encoding else "")
