"""Coded concepts and fixed sentences that several result objects share."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pydicom import Dataset

from appliance.dicom.outcome import Code
from appliance.domain.rejection import Rejection

PRIVATE_SCHEME = "99EDGE"
PRIVATE_SCHEME_NAME = "Edge inference appliance derivation codes"
PRIVATE_SCHEME_ORGANIZATION = "Edge inference appliance project"

NOISE_REDUCTION = Code("DN", PRIVATE_SCHEME, "AI noise reduction")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
ACQUISITION_EQUIPMENT = Code("109101", "DCM", "Acquisition Equipment")
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")

OF_INTEREST = Code("113000", "DCM", "Of Interest")
REJECTIONS: Mapping[Rejection, Code] = MappingProxyType(
    {
        Rejection.PATIENT_SAFETY: Code("113037", "DCM", "Rejected for Patient Safety Reasons"),
        Rejection.QUALITY: Code("113001", "DCM", "Rejected for Quality Reasons"),
        Rejection.WORKLIST_ENTRY: Code("113038", "DCM", "Incorrect Modality Worklist Entry"),
    }
)
"""Titles of Key Object Selections (PS3.16 CID 7010) that take other objects back."""

ACTIONABLE_WITHIN_HOURS = frozenset({"RID49480", "RID49481"})
"""RadLex codes of the ACR categories 1 (minutes) and 2 (hours): these results overtake others."""

NOTICE = "AI output, not reviewed by a physician. For prioritisation only. Not for diagnostic use."
NOTICE_SHORT = "AI TRIAGE - NOT FOR DIAGNOSIS"


def code_item(code: Code) -> Dataset:
    """The item of a code sequence (PS3.3 section 8.8)."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme
    item.CodeMeaning = code.meaning
    return item
