"""Results of every outcome, with short and long texts, of made-up images of CT, MR and CR."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import UID, ComputedRadiographyImageStorage, MRImageStorage
from scipy import ndimage

from appliance.dicom.outcome import (
    CardDesign,
    Code,
    Findings,
    Identity,
    ModelIdentity,
    NotAnalysed,
    StationIdentity,
    Subject,
)
from appliance.dicom.uids import derived_uid
from appliance.dicom.volume import Volume, load_headers, load_volume
from appliance.results import Order, Produced, write, write_unanalysed
from appliance.results.retraction import retracting_card, retracting_report
from tools.simulate.head_phantom_bleeds import Bleed
from tools.simulate.head_series import simulate_series, write_series

KINDS = ("sr", "sc")
LONG = "Sixty-four letters are as much as a code of the standard may say"
"""As long as the meaning of a code, the title of a model in a report or a name of a site may be."""
UNBROKEN = "Donaudampfschifffahrtselektrizitaetenhauptbetriebswerkbauunterbe"
_SEED, _SLICES, _SIZE = 11, 12, 256
_NAMES = {  # of patient and site: none of this may be seen on a card
    "SpecificCharacterSet": "ISO_IR 192",
    "PatientName": "Яновский^Пётр=山田^太郎=やまだ^たろう",
    "PatientID": "P-0815-4711",
    "InstitutionName": LONG,
    "StationName": UNBROKEN,
}
_BLEED, _BRAIN = Code("1386000", "SCT", "Intracranial hemorrhage"), Code("12738006", "SCT", "Brain")
_MINUTES, _HOURS, _DAYS = (
    Code(f"RID4948{number}", "RADLEX", f"ACR Category {number + 1} Actionable Finding") for number in range(3)
)
_MOMENT = datetime(2026, 11, 23, 20, 15, 30, tzinfo=timezone(timedelta(hours=1)))
_IDENTITY = Identity(
    station=StationIdentity(
        ae_title="EDGE",
        manufacturer="Edge Inference Appliance project",
        product="Edge Inference Appliance",
        version="0.1.0",
        serial="EDGE-1",
        device_uid=derived_uid("station", "EDGE-1"),
    ),
    model=ModelIdentity(
        id="head-ct-triage",
        version="0.1.0",
        title="Head CT haemorrhage triage",
        manufacturer="Edge Inference Appliance project",
        sha256="0123456789abcdef" * 4,
        ran=("onnxruntime 1.23.2 sha256:0123456789abcdef",),
    ),
    pipeline_digest="samples",
    revision=1,
    created=_MOMENT,
    parameters={"threshold": "0.62"},
)


@dataclass(frozen=True)
class Sample:
    """A result object as a Part-10 file; `name` says what it shows."""

    name: str
    kind: str
    content: bytes


def samples(folder: Path, design: CardDesign) -> Iterator[Sample]:
    """The report and the card of every outcome; `folder` gets the images."""
    identity = replace(_IDENTITY, card_design=design)
    long = replace(identity, model=replace(identity.model, title=LONG, version="10.20.30"))
    head, heat = _head(folder / "head")
    bleed = _findings(head, heat, _BLEED, _MINUTES)
    yield from _told("positive-ct", write(bleed, head, identity, _order()))
    clear = load_volume(
        _named(write_series(folder / "clear", seed=_SEED, bleed=False, slices=_SLICES, size=_SIZE))
    )
    calm = replace(bleed, positive=False, score=0.052, heat=None, key_slice=0)
    yield from _told("negative-ct", write(calm, clear, identity, _order()))
    wordy = replace(bleed, finding=Code("1", "99EDGE", LONG), urgency=Code("2", "99EDGE", LONG), score=1.0)
    yield from _told("positive-long", write(wordy, head, long, _order()))
    paths = sorted((folder / "head").glob("*.dcm"))
    knee = load_volume([_mr(folder / "mr.dcm", paths[0])])
    meniscus = Code("239720000", "SCT", "Tear of meniscus of knee")
    tear = _findings(knee, _spot(knee, 0.55, 0.4), meniscus, _DAYS)
    yield from _told("positive-mr", write(replace(tear, calibrated=True), knee, identity, _order()))
    chest = load_volume([_cr(folder / "cr.dcm", paths[0])])
    air = _findings(chest, _spot(chest, 0.25, 0.68), Code("36118008", "SCT", "Pneumothorax"), _HOURS)
    yield from _told("positive-cr", write(air, chest, identity, _order()))
    headers, subject = load_headers(paths), Subject(_BLEED, _BRAIN)
    for name, reason in (
        ("not-analysed", "The pixel data of image 7 are cut off."),
        ("not-analysed-long", f"{LONG}, and {UNBROKEN}; " * 4),
    ):
        made = write_unanalysed(NotAnalysed("truncated", reason), subject, headers, identity, _order())
        yield from _told(name, made)
    for made_again in write(bleed, head, identity, _order()):
        file = folder / f"{made_again.kind}.dcm"
        file.write_bytes(made_again.encode())
        take_back = {"sr": retracting_report, "sc": retracting_card}[made_again.kind]
        yield from _told("retracted", [take_back(file, _MOMENT, "of another patient", _as_wanted, "EDGE")])


def _told(name: str, made: Iterable[Produced]) -> Iterator[Sample]:
    for produced in made:
        yield Sample(name, produced.kind, produced.encode())


def _order() -> Order:
    return Order(KINDS, (), _as_wanted)


def _as_wanted(_study: str, _series: str, wanted: int) -> int:
    return wanted


def _findings(volume: Volume, heat: NDArray[np.float32], finding: Code, urgency: Code) -> Findings:
    return Findings(
        positive=True,
        score=0.931,
        threshold=0.62,
        calibrated=False,
        finding=finding,
        site=_BRAIN,
        urgency=urgency,
        key_slice=int(np.argmax(heat.sum(axis=(1, 2)))),
        heat=heat,
    )


def _head(folder: Path) -> tuple[Volume, NDArray[np.float32]]:
    """A head with a bleed, and heat where the blood is."""
    paths = _named(write_series(folder, seed=_SEED, bleed=True, slices=_SLICES, size=_SIZE))
    drawn = simulate_series(
        seed=_SEED,
        bleed=True,
        kind=Bleed.PARENCHYMAL,
        volume_ml=(20.0, 60.0),
        slices=_SLICES,
        size=_SIZE,
        slice_mm=5.0,
    )
    heat = ndimage.gaussian_filter(drawn.blood, (0.5, 5, 5))
    return load_volume(paths), np.asarray(heat / heat.max(), np.float32)


def _named(paths: list[Path]) -> list[Path]:
    """The files with the names of patient and site, which may be longer than they should."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in paths:
            image = dcmread(path)
            for keyword, value in _NAMES.items():
                setattr(image, keyword, value)
            image.save_as(path)
    return paths


def _mr(path: Path, head: Path) -> Path:
    """A knee, as far as ellipses are one: bright marrow, dark cartilage, MONOCHROME2."""
    rows, columns = 320, 320
    picture = np.full((rows, columns), 0.03)
    for y, x, height, width, value in (
        (0.5, 0.5, 0.98, 0.62, 0.35),
        (0.24, 0.5, 0.40, 0.44, 0.80),
        (0.76, 0.5, 0.42, 0.40, 0.75),
        (0.50, 0.5, 0.07, 0.42, 0.10),
        (0.55, 0.4, 0.05, 0.08, 0.95),
    ):
        picture[_ellipse(picture, y, x, height, width)] = value
    image = _of_another_kind(head, picture, MRImageStorage, "MR", "MONOCHROME2")
    image.ImageType, image.BodyPartExamined = ["ORIGINAL", "PRIMARY", "M", "SE"], "KNEE"
    image.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    return _written(image, path)


def _cr(path: Path, head: Path) -> Path:
    """A chest, bright up to its edges, in MONOCHROME1: low values are bright."""
    picture = np.full((480, 400), 0.9)
    for y, x, height, width, value in (
        (0.45, 0.28, 0.72, 0.30, 0.15),
        (0.45, 0.72, 0.72, 0.30, 0.15),
        (0.60, 0.57, 0.34, 0.30, 0.80),
        (0.24, 0.69, 0.16, 0.14, 0.05),
    ):
        picture[_ellipse(picture, y, x, height, width)] = value
    image = _of_another_kind(head, 1 - picture, ComputedRadiographyImageStorage, "CR", "MONOCHROME1")
    image.ImageType, image.BodyPartExamined = ["ORIGINAL", "PRIMARY"], "CHEST"
    image.PatientOrientation = ["L", "F"]
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID"):
        delattr(image, keyword)
    return _written(image, path)


def _ellipse(
    picture: NDArray[np.float64], y: float, x: float, height: float, width: float
) -> NDArray[np.bool_]:
    """Where an ellipse is; all in shares of the picture."""
    rows, columns = (np.arange(size) / size for size in picture.shape)
    inside: NDArray[np.bool_] = (
        np.hypot((rows[:, None] - y) / (height / 2), (columns[None] - x) / (width / 2)) < 1
    )
    return inside


def _of_another_kind(
    head: Path, picture: NDArray[np.float64], sop_class: str, modality: str, photometric: str
) -> FileDataset:
    """An image of another modality with the patient, the study and the site of a simulated head."""
    image = dcmread(head)
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
        delattr(image, keyword)
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    for keyword in ("SeriesInstanceUID", "SOPInstanceUID"):
        setattr(image, keyword, derived_uid(modality, str(image[keyword].value)))
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.Modality, image.PhotometricInterpretation = modality, photometric
    grain = np.random.default_rng(_SEED).normal(0, 0.02, picture.shape)
    values = np.clip(ndimage.gaussian_filter(picture, 2) + grain, 0, 1) * 4095
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.Rows, image.Columns = picture.shape
    image.WindowCenter, image.WindowWidth = 2048, 4096
    image.PixelData = np.rint(values).astype("<u2").tobytes()
    return image


def _written(image: FileDataset, path: Path) -> Path:
    image.save_as(path, enforce_file_format=True)
    return path


def _spot(volume: Volume, y: float, x: float) -> NDArray[np.float32]:
    """Heat around one place, which is given in shares of the image."""
    heat = np.zeros(volume.voxels.shape)
    heat[0, int(y * heat.shape[1]), int(x * heat.shape[2])] = 1
    heat = ndimage.gaussian_filter(heat, (0, 14, 14))
    return np.asarray(heat / heat.max(), np.float32)
