"""Writes `appliance/results/iod_rules.json`: what the IODs of our results demand, as highdicom ships it.

highdicom carries the tables of PS3.3 in a form that takes seconds and hundreds of megabytes to read; the
appliance needs the Type 1 and Type 2 attributes of a few classes. Run it after an update of highdicom.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    KeyObjectSelectionDocumentStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

CLASSES = (
    CTImageStorage,
    EnhancedCTImageStorage,
    MRImageStorage,
    EnhancedMRImageStorage,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    KeyObjectSelectionDocumentStorage,
    SegmentationStorage,
    SecondaryCaptureImageStorage,
)
"""What is ever made, by SOP class."""

TARGET = Path(__file__).resolve().parents[1] / "appliance" / "results" / "iod_rules.json"

_LEFT_OUT = frozenset({"sr-document-content"})
"""The table of content items does not tell value types apart: `results/conformance_content.py` does."""


def rules() -> dict[str, Any]:
    """The modules of each class, and the paths of the attributes of each module by Type."""
    attributes, modules, names = (
        json.loads(files("highdicom").joinpath(f"_standard/{name}.json").read_text())
        for name in ("module_attribute_map", "iod_module_map", "sop_class_iod_map")
    )
    classes: dict[str, dict[str, list[str]]] = {}
    used: set[str] = set()
    for uid in CLASSES:
        of_class = {entry["key"]: entry["usage"] for entry in modules[names[uid]]}
        listed = [key for key in of_class if key not in _LEFT_OUT]
        classes[uid] = {
            "mandatory": [key for key in listed if of_class[key] == "M"],
            "others": [key for key in listed if of_class[key] != "M"],
        }
        used.update(listed)
    return {
        "classes": classes,
        "modules": {key: _paths(attributes[key]) for key in sorted(used)},
    }


def _paths(attributes: list[dict[str, Any]]) -> dict[str, list[str]]:
    return {
        wanted: sorted(
            {
                ".".join((*one["path"], one["keyword"]))
                for one in attributes
                if one["type"] == wanted and (wanted != "1C" or not one["path"])
            }
        )
        for wanted in ("1", "1C", "2")
    }


def text() -> str:
    """The file as it has to be."""
    return json.dumps(rules(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
