"""What the IODs of our results demand of each attribute, as a tree for each SOP class.

The tables are those that highdicom ships (`tools/iod_rules.py` writes `iod_rules.json` from them). They do
not say when a condition holds; where one always holds for what we make, it stands here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Literal

from pydicom.datadict import tag_for_keyword
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    KeyObjectSelectionDocumentStorage,
    SegmentationStorage,
)

Need = Literal["1", "1C", "2", "3"]
"""Present with a value; with a value if present; present; as it likes (PS3.5 section 7.4)."""
_STRICT: Mapping[Need, int] = MappingProxyType({"3": 0, "1C": 1, "2": 2, "1": 3})

_TYPES: tuple[Need, ...] = ("2", "1C", "1")

DOCUMENTS = frozenset({Comprehensive3DSRStorage, ComprehensiveSRStorage, KeyObjectSelectionDocumentStorage})
"""Classes with a content tree and without pixels."""

_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")

_ALWAYS = (
    "InstanceCreatorUID",
    "InstanceCreationDate",
    "InstanceCreationTime",
    "SeriesDescription",
    "SeriesNumber",
    "ContributingEquipmentSequence",
)
"""Type 3, or absent from the tables, but ours has them: the loop guard, hanging and audits rest on them."""
_OF_IMAGES = ("PixelData", "ImageType", "ImageComments", "ContentQualification")
_OF_DOCUMENTS = ("CurrentRequestedProcedureEvidenceSequence", "ContentTemplateSequence")
_OF_CLASS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        SegmentationStorage: (_GROUPS[1], "DimensionIndexSequence"),
        EnhancedCTImageStorage: (_GROUPS[1], "DimensionIndexSequence", "SourceImageEvidenceSequence"),
        EnhancedMRImageStorage: (_GROUPS[1], "DimensionIndexSequence", "SourceImageEvidenceSequence"),
    }
)

PLACE_GROUPS = ("PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence")
"""Functional groups that say where a frame lies; a mask has them if it has a frame of reference."""
_ENHANCED = (*PLACE_GROUPS, "FrameContentSequence", "FrameAnatomySequence", "DerivationImageSequence")
FRAME_GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        EnhancedCTImageStorage: (*_ENHANCED, "CTImageFrameTypeSequence"),
        EnhancedMRImageStorage: (*_ENHANCED, "MRImageFrameTypeSequence"),
        SegmentationStorage: (
            "FrameContentSequence",
            "SegmentIdentificationSequence",
            "DerivationImageSequence",
        ),
    }
)
"""Functional groups that each frame has to have, of its own or shared (PS3.3 A.38.1.4, A.36.2.4, A.51.5)."""


@dataclass(frozen=True)
class Rule:
    """What one attribute has to be, and what the items of a sequence have to have."""

    keyword: str
    need: Need
    children: dict[BaseTag, Rule] = field(default_factory=dict)


@cache
def rules_of(sop_class_uid: str) -> Mapping[BaseTag, Rule] | None:
    """The attributes of a class by tag; None for a class that we never make."""
    table = _table()
    entry = table["classes"].get(sop_class_uid)
    if entry is None:
        return None
    root: dict[BaseTag, Rule] = {}
    for mandatory, modules in ((True, entry["mandatory"]), (False, entry["others"])):
        for module in modules:
            for need in _TYPES:
                for path in table["modules"][module][need]:
                    _add(root, path.split("."), need, mandatory=mandatory)
    always = _OF_DOCUMENTS if sop_class_uid in DOCUMENTS else _OF_IMAGES
    for keyword in (*_ALWAYS, *always, *_OF_CLASS.get(sop_class_uid, ())):
        _add(root, [keyword], "1", mandatory=True)
    return MappingProxyType(root)


def _add(root: dict[BaseTag, Rule], path: list[str], need: Need, *, mandatory: bool) -> None:
    """Put one attribute into the tree; what several modules say of it, the strictest holds."""
    # A group is shared or of each frame, and the attributes of a module that may be absent may be so too.
    optional = (len(path) == 1 and not mandatory) or (len(path) == 2 and path[0] in _GROUPS)
    if optional and need != "1":
        return
    level = root
    for keyword in path[:-1]:
        tag = tag_for_keyword(keyword)
        if tag is None:  # newer than the dictionary: nothing that we make has it
            return
        level = level.setdefault(Tag(tag), Rule(keyword, "3")).children
    tag = tag_for_keyword(path[-1])
    if tag is None:
        return
    new = "1C" if optional else need
    known = level.get(Tag(tag))
    if known is None or _STRICT[new] > _STRICT[known.need]:
        level[Tag(tag)] = Rule(path[-1], new, known.children if known is not None else {})


@cache
def _table() -> dict[str, dict[str, dict[str, list[str]]]]:
    loaded: dict[str, dict[str, dict[str, list[str]]]] = json.loads(
        files("appliance.results").joinpath("iod_rules.json").read_text()
    )
    return loaded
