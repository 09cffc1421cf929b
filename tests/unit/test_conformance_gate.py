"""The gate: what we make passes, and nothing that lacks a Type 1 attribute or breaks our policy does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest
from pydicom import DataElement, Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.sequence import Sequence as Items
from pydicom.tag import Tag

from appliance.dicom.outcome import NotAnalysed, Subject
from appliance.dicom.volume import load_volume
from appliance.domain.rejection import Rejection
from appliance.results import UNANALYSED_WRITERS, WRITERS, Order, write_unanalysed
from appliance.results.conformance import Sources, Violation, check, sources_of
from appliance.results.conformance_rules import DOCUMENTS, FRAME_GROUPS, Rule, rules_of
from appliance.results.rejection_note import Rejected, Rejecting, rejection_note
from tests.dicom_samples import CtSeries, ct_image
from tests.modality_samples import cr_image, dx_image, enhanced_image, mr_images, us_image, write_images
from tests.result_samples import BRAIN, HAEMORRHAGE, IDENTITY, as_wanted, enhanced, findings, produce
from tools import iod_rules

SOURCES: dict[str, Callable[[], list[Dataset]]] = {
    "ct": lambda: [ct_image(CtSeries(slices=3, rows=32, columns=32), index) for index in range(3)],
    "mr": mr_images,
    "cr": lambda: [cr_image()],
    "dx": lambda: [dx_image()],
    "us": lambda: [us_image()],
    "us-colour": lambda: [us_image(colour=True)],
    "us-cine": lambda: [us_image(colour=True, frames=3)],
    "enhanced-ct": lambda: [enhanced_image("CT")],
    "enhanced-mr": lambda: [enhanced_image("MR")],
}


@dataclass(frozen=True)
class Case:
    """One result object, and what it was made of."""

    result: Dataset
    sources: Sources


@cache
def _cases(source: str, folder: Path) -> dict[str, list[Case]]:
    """Every result object of one sample series, by kind."""
    volume = load_volume(write_images(folder, SOURCES[source]()))
    finding = findings(volume, positive=True)
    assert finding.heat is not None
    finding = replace(finding, mask=finding.heat > 0.5)
    sources = sources_of(volume.sources)
    made = {}
    for kind in WRITERS:
        outcome = enhanced(volume.voxels + 1) if kind == "enhanced" else finding
        simpler = ["sr"] if kind == "sr" else []
        made[kind] = [
            Case(one.dataset, sources) for one in produce(outcome, volume, kinds=[kind], stand_ins=simpler)
        ]
    negative = findings(volume, positive=False)
    made["negative"] = [Case(one.dataset, sources) for one in produce(negative, volume, kinds=["sr", "sc"])]
    order = Order(UNANALYSED_WRITERS, ["sr"], as_wanted)
    unanalysed, subject = NotAnalysed("cut_off", "cut off"), Subject(HAEMORRHAGE, BRAIN)
    told = write_unanalysed(unanalysed, subject, volume.sources, IDENTITY, order)
    made["not-analysed"] = [Case(one.dataset, sources) for one in told]
    made["rejection"] = [_rejection([case.result for cases in made.values() for case in cases])]
    return made


def _rejection(objects: list[Dataset]) -> Case:
    """The note that takes all these back, made of a derived image as it was sent."""
    named = [
        Rejected(str(one.SOPClassUID), str(one.SOPInstanceUID), str(one.SeriesInstanceUID)) for one in objects
    ]
    why = Rejecting(IDENTITY.station, IDENTITY.created, Rejection.PATIENT_SAFETY, "wrong patient")
    note = rejection_note(objects[0], named, why, as_wanted)
    return Case(note.dataset, sources_of([objects[0]]))


# One of each kind that is written in a way of its own; the others are for the whole run.
FAST = ("ct", "mr", "us", "enhanced-ct")


@pytest.fixture(params=[one if one in FAST else pytest.param(one, marks=pytest.mark.slow) for one in SOURCES])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Case]]:
    return _cases(request.param, tmp_path_factory.getbasetemp() / f"gate-{request.param}")


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Case]]:
    return _cases("ct", tmp_path_factory.getbasetemp() / "gate-ct")


def test_what_we_make_passes(made: dict[str, list[Case]]) -> None:
    found = {kind: [check(case.result, case.sources) for case in cases] for kind, cases in made.items()}
    assert {kind: each for kind, each in found.items() if any(each)} == {}
    for kind in ("enhanced", "sr", "sc", "ko", "negative", "not-analysed", "rejection"):
        assert found[kind], kind


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        *(("ct", kind) for kind in WRITERS if kind != "sr"),
        *(pytest.param("ct", kind, marks=pytest.mark.slow) for kind in ("sr", "rejection")),
        *(pytest.param(source, "enhanced", marks=pytest.mark.slow) for source in SOURCES if source != "ct"),
        *(pytest.param(source, "seg", marks=pytest.mark.slow) for source in ("us", "enhanced-mr")),
    ],
)
def test_a_missing_or_corrupt_type_1_attribute_anywhere_is_caught(
    tmp_path_factory: pytest.TempPathFactory, source: str, kind: str
) -> None:
    case = _cases(source, tmp_path_factory.getbasetemp() / f"gate-{source}")[kind][0]
    missed, tried = [], 0
    for place in {place.where: place for place in _type_1(case.result)}.values():
        for change, mutated in place.mutations():
            tried += 1
            with mutated:
                if not check(case.result, case.sources):
                    missed.append(f"{place.where}: {change}")
    assert missed == []
    assert tried > 100


@dataclass(frozen=True)
class Place:
    """One Type 1 element of a result."""

    owner: Dataset
    element: DataElement
    where: str

    def mutations(self) -> Iterator[tuple[str, _Mutated]]:
        """The element gone, empty, and with values that its value representation does not allow."""
        yield "removed", _Mutated(self.owner, self.element, None)
        empty = Items() if self.element.VR == "SQ" else b"" if self.element.VR in ("OB", "OW") else None
        yield "empty", _Mutated(self.owner, self.element, _as(self.element, empty))
        for value in _INVALID.get(str(self.element.VR), ()):
            yield f"as {value!r:.20}", _Mutated(self.owner, self.element, _as(self.element, value))
        if self.element.keyword == "PixelData":
            for value in (self.element.value[:-2], self.element.value + b"\0\0"):
                yield "of another length", _Mutated(self.owner, self.element, _as(self.element, value))
        else:
            wrong = "OB" if self.element.VR != "OB" else "FD"
            other = DataElement(self.element.tag, wrong, None)
            other._value = b"\1\2"
            yield f"as {wrong}", _Mutated(self.owner, self.element, other)


_INVALID: dict[str, tuple[object, ...]] = {
    "AT": ("x",),
    "CS": ("lower case", "ABCDEFGHIJKLMNOPQ"),
    "DA": ("2026-01-02", "20261340"),
    "DS": ("one", "1." + "0" * 16),
    "DT": ("now",),
    "FD": ("one",),
    "FL": ("one",),
    "IS": ("one", "9" * 13),
    "LO": ("x" * 65,),
    "LT": ("x" * 10241,),
    "SH": ("x" * 17,),
    "ST": ("x" * 1025,),
    "TM": ("25:00", "9"),
    "UI": ("2.25.x", "2.25." + "1" * 60, "1.02.3"),
    "UL": ("one", -1),
    "US": ("one", 65536),
    "UT": (1.5,),
}


def _as(element: DataElement, value: object) -> DataElement:
    """The element with a value that pydicom would not let in."""
    changed = DataElement(element.tag, element.VR, None)
    changed._value = value
    return changed


class _Mutated:
    """An element of a data set, replaced for a while."""

    def __init__(self, owner: Dataset, element: DataElement, instead: DataElement | None) -> None:
        self._owner, self._element, self._instead = owner, element, instead

    def __enter__(self) -> None:
        if self._instead is None:
            del self._owner[self._element.tag]
        else:
            self._owner[self._element.tag] = self._instead

    def __exit__(self, *_: object) -> None:
        self._owner[self._element.tag] = self._element


def _type_1(result: Dataset) -> Iterator[Place]:
    """Every Type 1 element of a result, as highdicom's tables say, and every element of its content."""
    attributes, modules, names = _tables()
    done: set[tuple[int, int]] = set()
    for module in modules[names[result.SOPClassUID]]:
        if module["key"] == "sr-document-content":
            continue
        for one in attributes[module["key"]]:
            if one["type"] == "1" and (one["path"] or module["usage"] == "M"):
                yield from _places(result, [*one["path"], one["keyword"]], done)
    if result.SOPClassUID in DOCUMENTS:
        yield from _content(result)
    else:
        yield Place(result, result["PixelData"], "PixelData")


def _places(dataset: Dataset, path: list[str], done: set[tuple[int, int]]) -> Iterator[Place]:
    tag = tag_for_keyword(path[0])
    if tag is None or tag not in dataset:
        return
    element = dataset[tag]
    if len(path) > 1:
        for item in element.value[:2]:
            for place in _places(item, path[1:], done):
                yield replace(place, where=f"{path[0]}.{place.where}")
    elif (id(dataset), tag) not in done:
        done.add((id(dataset), tag))
        yield Place(dataset, element, path[0])


def _content(document: Dataset) -> Iterator[Place]:
    for keyword in ("ValueType", "ConceptNameCodeSequence", "ContinuityOfContent", "ContentTemplateSequence"):
        yield Place(document, document[keyword], keyword)
    for item in document.ContentSequence:
        yield from _elements(item, "content")


_MAY_BE_ABSENT = (
    "ContentSequence",  # children
    "ContentTemplateSequence",  # only the root has to cite its template
    "FloatingPointValue",  # repeats Numeric Value with more precision
    "ReferencedFrameNumber",  # all frames
)


def _elements(item: Dataset, where: str) -> Iterator[Place]:
    for element in list(item):
        here = f"{where}.{element.keyword}"
        if element.keyword not in _MAY_BE_ABSENT:
            yield Place(item, element, here)
        if element.VR == "SQ":
            for inner in element.value:
                yield from _elements(inner, here)


@cache
def _tables() -> tuple[dict, dict, dict]:  # type: ignore[type-arg]
    attributes, modules, names = (
        json.loads(files("highdicom").joinpath(f"_standard/{name}.json").read_text())
        for name in ("module_attribute_map", "iod_module_map", "sop_class_iod_map")
    )
    return attributes, modules, names


@pytest.mark.parametrize(
    "keyword", ["PatientID", "PatientName", "PatientSex", "StudyDate", "AccessionNumber"]
)
@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_no_result_passes_with_another_patient_or_study(
    ct: dict[str, list[Case]], kind: str, keyword: str
) -> None:
    case = ct[kind][0]
    changed = _copy(case.result)
    setattr(changed, keyword, {"StudyDate": "20250101", "PatientSex": "F"}.get(keyword, "OTHER"))
    assert Violation(keyword, "not as in the source") in check(changed, case.sources)


@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_a_result_has_uids_of_its_own(ct: dict[str, list[Case]], kind: str) -> None:
    case = ct[kind][0]
    (uid, source), *_ = case.sources.headers.items()
    for keyword, value in (("SOPInstanceUID", uid), ("SeriesInstanceUID", source.SeriesInstanceUID)):
        changed = _copy(case.result)
        setattr(changed, keyword, value)
        assert Violation(keyword, "the source's") in check(changed, case.sources)


@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_no_result_passes_without_the_notice(ct: dict[str, list[Case]], kind: str) -> None:
    case = ct[kind][0]
    changed = _copy(case.result)
    if kind in ("sr", "ko"):
        _remove_notice(changed)
    else:
        changed.ImageComments = "Looks fine"
    assert [one.problem for one in check(changed, case.sources)] == ["no notice"]


def _remove_notice(item: Dataset) -> None:
    for child in item.get("ContentSequence") or ():
        if "Not for diagnostic use" in str(child.get("TextValue") or ""):
            child.TextValue = "Looks fine"
        _remove_notice(child)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("BitsStored", 10),
        ("HighBit", 15),
        ("Rows", 33),
        ("SamplesPerPixel", 3),
        ("PixelRepresentation", 2),
        ("PhotometricInterpretation", "RGB"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "AXIAL"]),
        ("FrameOfReferenceUID", "2.25.7"),
        ("DerivationDescription", None),
        ("ContentQualification", "FINE"),
    ],
)
def test_a_derived_image_that_contradicts_itself_is_caught(
    ct: dict[str, list[Case]], keyword: str, value: object
) -> None:
    case = ct["enhanced"][0]
    changed = _copy(case.result)
    setattr(changed, keyword, value)
    assert check(changed, case.sources) != []


def test_provenance_is_not_optional(ct: dict[str, list[Case]]) -> None:
    case = ct["enhanced"][0]
    for number in (-1, -2):
        changed = _copy(case.result)
        del changed.ContributingEquipmentSequence[number]
        assert "ContributingEquipmentSequence" in {one.where for one in check(changed, case.sources)}
    changed = _copy(case.result)
    changed.SourceImageSequence[0].ReferencedSOPInstanceUID = "2.25.9"
    assert Violation("SourceImageSequence", "not the source") in check(changed, case.sources)


def test_a_loss_and_what_is_burned_in_are_never_forgotten(tmp_path: Path) -> None:
    image = us_image()
    image.LossyImageCompression, image.LossyImageCompressionRatio = "01", 10
    image.LossyImageCompressionMethod, image.BurnedInAnnotation = "ISO_10918_1", "YES"
    volume = load_volume(write_images(tmp_path, [image]))
    (one,) = produce(enhanced(volume.voxels + 1), volume)
    sources = sources_of(volume.sources)
    assert check(one.dataset, sources) == []
    one.dataset.LossyImageCompression, one.dataset.BurnedInAnnotation = "00", "NO"
    assert {found.where for found in check(one.dataset, sources)} == {
        "LossyImageCompression",
        "BurnedInAnnotation",
    }


def test_a_fault_of_the_source_is_not_held_against_its_copy(tmp_path: Path) -> None:
    image = ct_image(CtSeries(slices=1), 0)
    image.add_new(0x00100000, "UL", 4)  # a group length, which is never copied
    del image.KVP
    image["PatientBirthDate"]._value = "unknown!"
    volume = load_volume(write_images(tmp_path, [image]))
    sources = sources_of(volume.sources)
    (one,) = produce(enhanced(volume.voxels + 1), volume)
    assert check(one.dataset, sources) == []
    one.dataset["PatientBirthDate"]._value = "unknown?"
    assert check(one.dataset, sources) != []


def test_segments_and_frames_have_to_match(ct: dict[str, list[Case]]) -> None:
    case = ct["seg"][0]
    changed = _copy(case.result)
    changed.SharedFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 2
    assert Violation("SegmentIdentificationSequence", "a frame of no segment") in check(changed, case.sources)
    changed = _copy(case.result)
    changed.NumberOfFrames = 7
    assert {"PixelData", "NumberOfFrames"} <= {one.where for one in check(changed, case.sources)}


def test_content_refers_to_evidence_only(ct: dict[str, list[Case]]) -> None:
    case = ct["sr"][0]
    changed = _copy(case.result)
    for study in changed.CurrentRequestedProcedureEvidenceSequence:
        del study.ReferencedSeriesSequence[0].ReferencedSOPSequence[:]
    found = check(changed, case.sources)
    assert Violation("content.ReferencedSOPSequence", "not in the evidence") in found


def test_a_class_that_we_never_make_does_not_pass(ct: dict[str, list[Case]]) -> None:
    case = ct["enhanced"][0]
    changed = _copy(case.result)
    changed.SOPClassUID = "1.2.840.10008.5.1.4.1.1.128"
    assert [one.where for one in check(changed, case.sources)] == ["SOPClassUID"]


def test_no_violation_quotes_a_value(ct: dict[str, list[Case]]) -> None:
    case = ct["enhanced"][0]
    changed = _copy(case.result)
    changed["PatientID"]._value = "SECRET" * 20
    changed["StudyDate"]._value = "SECRET"
    found = check(changed, case.sources)
    assert found
    assert "SECRET" not in str(found)


def test_the_rules_are_those_of_highdicom() -> None:
    assert iod_rules.TARGET.read_text() == iod_rules.text()


def test_every_class_has_rules_and_every_functional_group_is_known() -> None:
    for uid in iod_rules.CLASSES:
        rules = rules_of(uid)
        assert rules is not None
        assert isinstance(rules[Tag("SOPInstanceUID")], Rule)
        assert rules[Tag("SOPInstanceUID")].need == "1"
    for groups in FRAME_GROUPS.values():
        assert all(tag_for_keyword(keyword) for keyword in groups)


def _copy(result: Dataset) -> Dataset:
    copied: Dataset = deepcopy(result)
    return copied
