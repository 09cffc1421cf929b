"""Whether the content tree of a document is complete (PS3.3 C.17.3, PS3.16 TID 1500 and TID 2010)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from pydicom import Dataset
from pydicom.uid import KeyObjectSelectionDocumentStorage

from appliance.dicom.codes import NOTICE, OF_INTEREST, REJECTIONS
from appliance.results.conformance_values import Problem, code_problems, value_problem

_VALUES: Mapping[str, str] = MappingProxyType(
    {
        "CONTAINER": "ContinuityOfContent",
        "CODE": "ConceptCodeSequence",
        "TEXT": "TextValue",
        "NUM": "MeasuredValueSequence",
        "UIDREF": "UID",
        "IMAGE": "ReferencedSOPSequence",
        "COMPOSITE": "ReferencedSOPSequence",
        "PNAME": "PersonName",
    }
)
"""The attribute that holds the value of an item, for each Value Type (0040,A040) that we write."""
_INSIDE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "MeasuredValueSequence": ("NumericValue", "MeasurementUnitsCodeSequence"),
        "ReferencedSOPSequence": ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"),
        "ContentTemplateSequence": ("MappingResource", "TemplateIdentifier"),
    }
)
"""What an item of these sequences has to have."""
_DEFINED: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "ContinuityOfContent": frozenset({"SEPARATE", "CONTINUOUS"}),
        "RelationshipType": frozenset(
            {
                "CONTAINS",
                "HAS OBS CONTEXT",
                "HAS CONCEPT MOD",
                "HAS PROPERTIES",
                "HAS ACQ CONTEXT",
                "INFERRED FROM",
            }
        ),
    }
)
_STATUS: Mapping[str, str] = MappingProxyType(
    {"CompletionFlag": "COMPLETE", "PreliminaryFlag": "PRELIMINARY", "VerificationFlag": "UNVERIFIED"}
)
_TITLES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "1500": frozenset({"126000"}),
        "2010": frozenset({OF_INTEREST.value, *(title.value for title in REJECTIONS.values())}),
    }
)
"""The titles of the documents of each template: Imaging Measurement Report; Of Interest, and rejections."""
_SAID: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "1500": ("111001", "111003", "111017", "112039", "112040", "121012", "121058", "363698007"),
        "2010": ("121012", "113012"),
    }
)
"""What a document of ours always says, by concept: algorithm and its version, summary, tracking, observer,
procedure and finding site; observer and description."""


def content_problems(document: Dataset) -> Iterator[Problem]:
    """Everything that keeps the content of a report or a selection from being understood."""
    template = "2010" if document.SOPClassUID == KeyObjectSelectionDocumentStorage else "1500"
    if template == "1500":
        for keyword, wanted in _STATUS.items():
            if document.get(keyword) != wanted:
                yield keyword, f"not {wanted}"
    yield from _root(document, template)
    items = list(_items(document, "content"))
    for where, item in items:
        yield from _item(where, item)
        if not item.get("RelationshipType"):
            yield f"{where}.RelationshipType", "missing"
        for element in item:
            if element.keyword != "ContentSequence":
                yield from _element(element.keyword, item, f"{where}.{element.keyword}")
    concepts = {_concept(item) for _, item in items}
    for value in _SAID[template]:
        if value not in concepts:
            yield "content", f"nothing says {value}"
    if not any(NOTICE in str(item.get("TextValue") or "") for _, item in items):
        yield "content", "no notice"
    yield from _evidence(document, [item for _, item in items])


def _root(document: Dataset, template: str) -> Iterator[Problem]:
    yield from _item("root", document)
    for keyword in ("ValueType", "ContinuityOfContent", "ConceptNameCodeSequence", "ContentTemplateSequence"):
        yield from _element(keyword, document, f"root.{keyword}")
    if document.get("ValueType") != "CONTAINER":
        yield "root.ValueType", "not CONTAINER"
    if _concept(document) not in _TITLES[template]:
        yield "root.ConceptNameCodeSequence", "not the title of the template"
    identifiers = [one.get("TemplateIdentifier") for one in document.get("ContentTemplateSequence") or ()]
    if identifiers != [template]:
        yield "root.ContentTemplateSequence", f"not TID {template}"


def _items(parent: Dataset, where: str) -> Iterator[tuple[str, Dataset]]:
    for item in parent.get("ContentSequence") or ():
        place = f"{where}.{_concept(item) or '?'}"
        yield place, item
        yield from _items(item, place)


def _item(where: str, item: Dataset) -> Iterator[Problem]:
    kind = item.get("ValueType")
    if kind not in _VALUES:
        yield f"{where}.ValueType", "missing or unknown"
        return
    for keyword in (_VALUES[kind], "ConceptNameCodeSequence"):
        if not item.get(keyword):
            yield f"{where}.{keyword}", "missing or empty"


def _element(keyword: str, item: Dataset, where: str) -> Iterator[Problem]:
    """What is wrong with one element and what is inside of it."""
    if keyword not in item:
        return
    element = item[keyword]
    problem = "empty" if element.is_empty else value_problem(element)
    if problem is not None:
        yield where, problem
    elif element.VR != "SQ":
        if keyword in _DEFINED and element.value not in _DEFINED[keyword]:
            yield where, "not a defined value"
    else:
        for inner in element.value:
            for wanted in _INSIDE.get(keyword, ()):
                if wanted not in inner:
                    yield f"{where}.{wanted}", "missing"
            if keyword.endswith("CodeSequence"):
                yield from code_problems(inner, where)
            for child in inner:
                yield from _element(child.keyword, inner, f"{where}.{child.keyword}")


def _concept(item: Dataset) -> str:
    codes = item.get("ConceptNameCodeSequence") or ()
    return str(codes[0].get("CodeValue") or "") if codes else ""


def _evidence(document: Dataset, items: list[Dataset]) -> Iterator[Problem]:
    """Every object that the content refers to is in the evidence (PS3.3 C.17.2)."""
    listed = {
        str(reference.get("ReferencedSOPInstanceUID"))
        for study in document.get("CurrentRequestedProcedureEvidenceSequence") or ()
        for series in study.get("ReferencedSeriesSequence") or ()
        for reference in series.get("ReferencedSOPSequence") or ()
    }
    for item in items:
        for reference in item.get("ReferencedSOPSequence") or ():
            if str(reference.get("ReferencedSOPInstanceUID")) not in listed:
                yield "content.ReferencedSOPSequence", "not in the evidence"
