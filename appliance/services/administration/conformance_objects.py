"""Where the attributes of our result objects come from, found out by making each of made-up images.

The same object is made of other images, and by another appliance and model: an attribute that stays the same
is fixed, and one that changes comes from what was changed. So the tables cannot differ from the writers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from appliance.dicom.codes import ARTIFICIAL_INTELLIGENCE, NOISE_REDUCTION
from appliance.dicom.geometry import SeriesGeometry
from appliance.dicom.outcome import Code, Enhanced, Findings, Identity, ModelIdentity, StationIdentity
from appliance.dicom.uids import derived_uid
from appliance.dicom.volume import Volume
from appliance.domain.rejection import Rejection
from appliance.results import WRITERS, Order, Produced, write
from appliance.results.rejection_note import Rejected, Rejecting, rejection_note

_SIZES = {"a": 16, "b": 24}
_LONGEST_VALUE = 60


@dataclass(frozen=True)
class Attribute:
    """One attribute of an object, and where its value comes from."""

    tag: BaseTag
    keyword: str
    representation: str
    origin: str


@dataclass(frozen=True)
class MadeObject:
    """One kind of result object as it is made of CT images."""

    kind: str
    sop_class_uid: str
    attributes: tuple[Attribute, ...]
    concepts: frozenset[Code]
    """The codes in it, wherever they stand."""


def made_objects() -> list[MadeObject]:
    """Every kind of result object, in the order in which they are produced, and what takes them back."""
    usual = _objects("a", "a")
    other_source, other_maker = _objects("b", "a"), _objects("a", "b")
    found = []
    for kind, made in usual.items():
        attributes = tuple(
            Attribute(
                element.tag,
                keyword_for_tag(element.tag),
                element.VR,
                _origin(element, other_source[kind], other_maker[kind], derived=kind == "enhanced"),
            )
            for element in made
        )
        found.append(MadeObject(kind, str(made.SOPClassUID), attributes, frozenset(_codes(made))))
    return found


def _codes(part: Dataset) -> Iterator[Code]:
    if "CodeValue" in part:
        yield Code(part.CodeValue, part.CodingSchemeDesignator, part.CodeMeaning)
    for element in part:
        for item in element.value if element.VR == "SQ" else ():
            yield from _codes(item)


def _origin(element: DataElement, other_source: Dataset, other_maker: Dataset, *, derived: bool) -> str:
    by_source = other_source.get(element.tag) != element
    by_maker = other_maker.get(element.tag) != element
    if by_source and by_maker:
        return "computed of source, appliance, model and time"
    if by_maker:
        return "appliance, model and time"
    copied = _source("a", 0).get(element.tag) == element
    if by_source:
        return "copied from the source" if copied else "computed of the source"
    return "copied from the source" if copied and derived else _fixed(element)


def _fixed(element: DataElement) -> str:
    if element.is_empty:
        return "fixed: empty"
    text = str(element.value)
    if element.VR in ("SQ", "OB", "OW") or len(text) > _LONGEST_VALUE:
        return "fixed by the kind of object or the outcome"
    if element.VM > 1:
        text = "\\".join(str(value) for value in element.value)
    return f"fixed: `{text}`"


def _objects(source: str, maker: str) -> dict[str, Dataset]:
    volume, identity = _volume(source), _identity(maker)
    outcomes = (_enhanced(volume), _findings(volume))
    order = Order(tuple(WRITERS), (), _as_wanted)
    made: dict[str, Dataset] = {}
    for outcome in outcomes:
        for produced in write(outcome, volume, identity, order):
            made.setdefault(produced.kind, produced.dataset)
    note = _note(made["sr"], identity)
    return {**{kind: made[kind] for kind in WRITERS}, note.kind: note.dataset}


def _as_wanted(_study: str, _series: str, wanted: int) -> int:
    return wanted


def _note(report: Dataset, identity: Identity) -> Produced:
    rejected = Rejected(str(report.SOPClassUID), str(report.SOPInstanceUID), str(report.SeriesInstanceUID))
    why = Rejecting(identity.station, identity.created, Rejection.PATIENT_SAFETY, "Sentence of the operator")
    return rejection_note(report, [rejected], why, _as_wanted)


def _enhanced(volume: Volume) -> Enhanced:
    return Enhanced(
        volume.voxels, "Sentence of the model", "AI-DN", (NOISE_REDUCTION, ARTIFICIAL_INTELLIGENCE)
    )


def _findings(volume: Volume) -> Findings:
    mask = np.zeros(volume.voxels.shape, np.bool_)
    mask[:, 4:8, 4:8] = True
    return Findings(
        positive=True,
        score=0.9,
        threshold=0.5,
        calibrated=False,
        finding=Code("1386000", "SCT", "Intracranial hemorrhage"),
        site=Code("12738006", "SCT", "Brain"),
        urgency=Code("RID49480", "RADLEX", "ACR Category 1 Actionable Finding"),
        key_slice=0,
        heat=mask.astype(np.float32),
        mask=mask,
    )


def _identity(which: str) -> Identity:
    hours = {"a": 0, "b": 1}[which]
    return Identity(
        station=StationIdentity(
            f"EDGE-{which}",
            f"maker {which}",
            f"product {which}",
            f"1.{hours}",
            f"serial-{which}",
            derived_uid("statement", "station", which),
        ),
        model=ModelIdentity(f"model-{which}", f"2.{hours}", f"Model {which}", f"vendor {which}", which * 64),
        pipeline_digest=which,
        revision=1,
        created=datetime(2026, 1, 1 + hours, 12 + hours, 30 + hours, 10 + hours, 100 + hours, timezone.utc),
    )


def _volume(which: str) -> Volume:
    sources = tuple(_source(which, index) for index in range(2))
    number = {"a": 1.0, "b": 2.0}[which]
    y, x = np.mgrid[0 : _SIZES[which], 0 : _SIZES[which]]
    slice_ = (40.0 + number * ((x + y) % 7)).astype(np.float32)
    return Volume(
        voxels=np.stack([slice_, slice_ + 1.0]),
        padding=None,
        sources=sources,
        pixel_sha256=tuple(f"{which}{index}" for index in range(2)),
        spacing=(5.0, number / 2, number / 2),
        geometry=SeriesGeometry((0, 1), (0.0, 5.0), 5.0, 0, 0, True, 0.0, ()),
        frames=(1, 1),
    )


def _source(which: str, index: int) -> Dataset:
    """The header of one image of a made-up CT series; all that can differ between two series does."""
    number = {"a": 1, "b": 2}[which]
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword, value in _values(which, number, index).items():
        setattr(header, keyword, value)
    return header


def _values(which: str, number: int, index: int) -> dict[str, Any]:
    size = _SIZES[which]
    return {
        "SpecificCharacterSet": {"a": "ISO_IR 100", "b": "ISO_IR 192"}[which],
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", which.upper()],
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": UID(derived_uid("statement", "image", which, str(index))),
        "StudyDate": f"2026010{number}",
        "SeriesDate": f"2026010{number}",
        "AcquisitionDate": f"2026010{number}",
        "ContentDate": f"2026010{number}",
        "StudyTime": f"10150{number}",
        "SeriesTime": f"10160{number}",
        "AcquisitionTime": f"10170{number}",
        "ContentTime": f"10170{number}",
        "TimezoneOffsetFromUTC": f"+0{number}00",
        "AccessionNumber": f"ACC{number}",
        "Modality": "CT",
        "Manufacturer": f"Scanners {which}",
        "InstitutionName": f"Hospital {which}",
        "ReferringPhysicianName": f"Doctor^{which}",
        "StationName": f"CT{number}",
        "StudyDescription": f"STUDY {which}",
        "SeriesDescription": f"SERIES {which}",
        "ManufacturerModelName": f"Scanner {which}",
        "PatientName": f"Name^{which}",
        "PatientID": f"ID{number}",
        "PatientBirthDate": f"1970010{number}",
        "PatientSex": {"a": "F", "b": "M"}[which],
        "BodyPartExamined": {"a": "HEAD", "b": "BRAIN"}[which],
        "SliceThickness": f"{number}.5",
        "KVP": f"1{number}0",
        "DeviceSerialNumber": f"SCANNER{number}",
        "SoftwareVersions": f"{number}.0",
        "PatientPosition": {"a": "HFS", "b": "HFP"}[which],
        "StudyInstanceUID": UID(derived_uid("statement", "study", which)),
        "SeriesInstanceUID": UID(derived_uid("statement", "series", which)),
        "StudyID": f"{number}",
        "SeriesNumber": number,
        "AcquisitionNumber": number,
        "InstanceNumber": 10 * number + index,
        "ImagePositionPatient": [0.0, float(number), 5.0 * index],
        "ImageOrientationPatient": {"a": [1.0, 0, 0, 0, 1, 0], "b": [1.0, 0, 0, 0, -1, 0]}[which],
        "FrameOfReferenceUID": UID(derived_uid("statement", "frame", which)),
        "PositionReferenceIndicator": f"R{number}",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": size,
        "Columns": size,
        "PixelSpacing": [number / 2, number / 2],
        "BitsAllocated": 16,
        "BitsStored": 11 + number,
        "HighBit": 10 + number,
        "PixelRepresentation": number - 1,
        "WindowCenter": f"{number}0",
        "WindowWidth": f"{number}00",
        "RescaleIntercept": f"-100{number}",
        "RescaleSlope": f"{number}",
        "RescaleType": {"a": "HU", "b": "US"}[which],
    }
