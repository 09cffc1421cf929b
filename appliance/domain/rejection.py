"""Why an archive is to set result objects aside (IHE RAD, Imaging Object Change Management)."""

from __future__ import annotations

from enum import Enum


class Rejection(Enum):
    """What a rejection note gives as its title (PS3.16 CID 7010)."""

    PATIENT_SAFETY = "patient-safety"
    QUALITY = "quality"
    WORKLIST_ENTRY = "worklist-entry"
