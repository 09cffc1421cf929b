"""The last look at a result object before it is queued: does it keep the standard, and our own policy?

What a source has wrong stays wrong in what is copied of it; only what is ours is held against us.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import SecondaryCaptureImageStorage, SegmentationStorage

from appliance.dicom.codes import ACQUISITION_EQUIPMENT, NOTICE, PROCESSING_EQUIPMENT
from appliance.dicom.unusable import UNREADABLE
from appliance.results.attributes import patient_and_study_tags, quiet, readable_element
from appliance.results.conformance_content import content_problems
from appliance.results.conformance_pixels import pixel_problems
from appliance.results.conformance_rules import DOCUMENTS, Rule, rules_of
from appliance.results.conformance_values import Problem, code_problems, value_problem

_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")
_OURS = frozenset(
    {
        "SOPClassUID",
        "SOPInstanceUID",
        "SeriesInstanceUID",
        "StudyInstanceUID",
        "InstanceCreatorUID",
        "ContributingEquipmentSequence",
        "PixelData",
        "Rows",
        "Columns",
    }
)
"""Attributes whose faults no source excuses."""
_QUALIFICATIONS = ("PRODUCT", "RESEARCH", "SERVICE")
_KEPT_FLAGS = {"LossyImageCompression": "01", "BurnedInAnnotation": "YES"}
"""Once true of a source, true of every image that is made of it."""
_EQUIPMENT = (ACQUISITION_EQUIPMENT.value, PROCESSING_EQUIPMENT.value)


@dataclass(frozen=True)
class Violation:
    """One thing that is wrong: `where` by keywords, and `problem` in words. Never a value of the object."""

    where: str
    problem: str


@dataclass(frozen=True)
class Sources:
    """The headers of what a result was made of, by SOP Instance UID, in their order."""

    headers: Mapping[str, Dataset]
    series_uids: frozenset[str]


def sources_of(headers: Sequence[Dataset]) -> Sources:
    """The sources of the results of one job."""
    return Sources(
        {str(header.SOPInstanceUID): header for header in headers},
        frozenset(str(header.SeriesInstanceUID) for header in headers),
    )


def check(result: Dataset, sources: Sources) -> list[Violation]:
    """What keeps a result object from being sent; nothing for one that conforms."""
    with quiet():
        try:
            return [Violation(*problem) for problem in dict.fromkeys(_problems(result, sources))]
        except UNREADABLE as error:
            return [Violation("object", f"cannot be examined: {type(error).__name__}")]


def _problems(result: Dataset, sources: Sources) -> Iterator[Problem]:
    rules = rules_of(str(result.get("SOPClassUID")))
    if rules is None:
        yield "SOPClassUID", "not a class that we make"
        return
    source = _source_of(result, sources)
    found = list(_walk(result, rules, ""))
    yield from _not_inherited(found, result, source, rules)
    if found and any(where in _PIXEL_MODULE or where in _OURS for where, _ in found):
        return  # what follows needs these
    yield from _identity(result, source, sources)
    yield from _patient(result, source)
    yield from _equipment(result)
    if str(result.SOPClassUID) in DOCUMENTS:
        yield from content_problems(result)
        return
    # A card that corrects a card is no more derived from it than the first was from the images.
    derived = result.SOPClassUID == source.SOPClassUID != SecondaryCaptureImageStorage
    yield from pixel_problems(result, source if derived else None)
    yield from _image(result, source)
    if derived:
        yield from _derivation(result, sources)


_PIXEL_MODULE = frozenset(
    {
        "Rows",
        "Columns",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "PixelData",
        "NumberOfFrames",
        "ImageType",
    }
)


def _walk(dataset: Dataset, rules: Mapping[BaseTag, Rule], above: str) -> Iterator[Problem]:
    """Where a data set does not have what its rules demand."""
    present = dataset.keys()
    for tag, rule in rules.items():
        if tag not in present:
            if rule.need in ("1", "2"):
                yield f"{above}{rule.keyword}", "missing"
            continue
        where = f"{above}{rule.keyword}"
        try:
            element = dataset[tag]
        except UNREADABLE:
            yield where, "cannot be read"
            continue
        if element.is_empty:
            if rule.need in ("1", "1C"):
                yield where, "empty"
            continue
        problem = value_problem(element)
        if problem is not None:
            yield where, problem
        elif element.VR == "SQ":
            coded = rule.keyword.endswith("CodeSequence")
            for item in element.value:
                if coded:
                    yield from code_problems(item, where)
                yield from _walk(item, rule.children, f"{where}.")


def _not_inherited(
    found: Sequence[Problem], result: Dataset, source: Dataset, rules: Mapping[BaseTag, Rule]
) -> Iterator[Problem]:
    if not found:
        return
    same_class = result.SOPClassUID == source.SOPClassUID
    inherited = frozenset(_walk(source, rules, "")) if same_class else frozenset()
    for where, problem in found:
        top = where.partition(".")[0]
        if top in _OURS or not ((where, problem) in inherited or _is_copied(result, source, Tag(top))):
            yield where, problem


def _is_copied(result: Dataset, source: Dataset, tag: BaseTag) -> bool:
    """Whether an element is there, the same as in the source."""
    if tag not in result or tag not in source:
        return False
    copied = readable_element(source, tag)
    return copied is not None and not copied.is_empty and copied == result[tag]


def _source_of(result: Dataset, sources: Sources) -> Dataset:
    """The source whose patient and study a result repeats: what it refers to, else any that fits."""
    for reference in _references(result):
        header = sources.headers.get(str(reference.get("ReferencedSOPInstanceUID")))
        if header is not None:
            return header
    candidates = list(sources.headers.values())
    return next((one for one in candidates if not any(_patient(result, one))), candidates[0])


def _references(result: Dataset) -> Iterator[Dataset]:
    """The items of Source Image Sequence, of the image or of its frames."""
    yield from result.get("SourceImageSequence") or ()
    if str(result.get("SOPClassUID")) == SegmentationStorage:
        return
    for group in result.get("PerFrameFunctionalGroupsSequence") or ():
        for derivation in (group.get("DerivationImageSequence") or ())[-1:]:
            yield from derivation.get("SourceImageSequence") or ()


def _identity(result: Dataset, source: Dataset, sources: Sources) -> Iterator[Problem]:
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "InstanceCreatorUID"):
        if not _UID.fullmatch(str(result.get(keyword))):
            yield keyword, "not a UID"
    if str(result.SOPInstanceUID) in sources.headers:
        yield "SOPInstanceUID", "the source's"
    if str(result.SeriesInstanceUID) in sources.series_uids:
        yield "SeriesInstanceUID", "the source's"
    frames = (result.get("FrameOfReferenceUID"), source.get("FrameOfReferenceUID"))
    if frames[0] is not None and frames[1] is not None and frames[0] != frames[1]:
        yield "FrameOfReferenceUID", "not the source's"


def _patient(result: Dataset, source: Dataset) -> Iterator[Problem]:
    """Patient and study attributes that are not those of the source (PS3.3 A.1.2)."""
    for tag in patient_and_study_tags(source):
        try:
            same = tag in result and result[tag].value == source[tag].value
        except UNREADABLE:
            same = False
        if not same:
            copied = readable_element(source, tag)
            if copied is not None and (tag not in result or result[tag].value != copied.value):
                yield copied.keyword, "not as in the source"
    for tag in patient_and_study_tags(result):
        if tag not in source and not result[tag].is_empty:
            yield result[tag].keyword, "not in the source"


def _equipment(result: Dataset) -> Iterator[Problem]:
    where = "ContributingEquipmentSequence"
    items = {
        purpose.get("CodeValue"): item
        for item in result.get(where) or ()
        for purpose in item.get("PurposeOfReferenceCodeSequence") or ()
    }
    for value in _EQUIPMENT:
        if value not in items:
            yield where, f"no item of purpose {value}"
    model = items.get(PROCESSING_EQUIPMENT.value, Dataset())
    for keyword in ("ManufacturerModelName", "SoftwareVersions", "DeviceUID", "ContributionDateTime"):
        if not model.get(keyword):
            yield f"{where}.{keyword}", "not said of the model"


def _image(result: Dataset, source: Dataset) -> Iterator[Problem]:
    if NOTICE not in str(result.get("ImageComments") or ""):
        yield "ImageComments", "no notice"
    if result.get("ContentQualification") not in _QUALIFICATIONS:
        yield "ContentQualification", "not a defined value"
    if list(result.get("ImageType") or ())[:1] != ["DERIVED"]:
        yield "ImageType", "not DERIVED"
    is_mask, is_card = (
        result.SOPClassUID == one for one in (SegmentationStorage, SecondaryCaptureImageStorage)
    )
    for keyword, value in _KEPT_FLAGS.items():
        if source.get(keyword) == value != result.get(keyword) and not is_mask and not is_card:
            yield keyword, "lost"
    if is_card and result.get("BurnedInAnnotation") != "YES":
        yield "BurnedInAnnotation", "not YES"


def _derivation(result: Dataset, sources: Sources) -> Iterator[Problem]:
    """What was done, and to which images: of the image, or of each of its frames."""
    groups = result.get("PerFrameFunctionalGroupsSequence")
    items = (
        [result]
        if groups is None
        else [(g.get("DerivationImageSequence") or [Dataset()])[-1] for g in groups]
    )
    for item in items:
        for keyword in ("DerivationDescription", "DerivationCodeSequence", "SourceImageSequence"):
            if not item.get(keyword):
                yield keyword, "missing"
        for reference in item.get("SourceImageSequence") or ():
            if str(reference.get("ReferencedSOPInstanceUID")) not in sources.headers:
                yield "SourceImageSequence", "not the source"
            for keyword in ("PurposeOfReferenceCodeSequence", "SpatialLocationsPreserved"):
                if not reference.get(keyword):
                    yield f"SourceImageSequence.{keyword}", "missing"
