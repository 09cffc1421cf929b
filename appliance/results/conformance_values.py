"""Whether an element holds what its value representation and multiplicity allow (PS3.5 section 6, PS3.6)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from pydicom import DataElement, Dataset
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VM, dictionary_VR
from pydicom.multival import MultiValue
from pydicom.valuerep import validate_value

Problem = tuple[str, str]
"""Where, by keywords, and what is wrong there; never a value."""

_AS_TEXT = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"})
_TYPES: dict[str, type | tuple[type, ...]] = {"AT": int, "UT": str, "UC": str}
"""What pydicom itself does not check."""


@lru_cache(maxsize=4096)
def _expected(tag: int) -> tuple[frozenset[str], int, int | None, int]:
    """Value representations of an attribute, the least and most number of values, and their step.

    One that depends on others ("US or SS") is settled when the object is written.
    """
    representations = frozenset({dictionary_VR(tag), *dictionary_VR(tag).split(" or ")})
    low, _, high = dictionary_VM(tag).partition("-")
    least = int(low)
    if not high:
        most, step = least, 1
    elif high.endswith("n"):
        return representations, least, None, int(high[:-1] or 1)
    else:
        most, step = int(high), 1
    return representations, least, most, step


def value_problem(element: DataElement) -> str | None:
    """What is wrong with the value of a public element that is not empty; None if nothing is."""
    representations, least, most, step = _expected(int(element.tag))
    if element.VR not in representations:
        return "wrong value representation"
    if element.VR == "SQ":
        return None
    values = element.value if isinstance(element.value, MultiValue | list) else (element.value,)
    count = len(values)
    if count < least or (most is not None and count > most) or count % step:
        return "wrong number of values"
    kind = _TYPES.get(element.VR)
    try:
        for value in values:
            if kind is not None and not isinstance(value, kind):
                return "invalid value"
            validate_value(element.VR, str(value) if element.VR in _AS_TEXT else value, RAISE)
    except (TypeError, ValueError):
        return "invalid value"
    return None


def code_problems(item: Dataset, where: str) -> Iterator[Problem]:
    """What a code sequence item lacks (PS3.3 section 8.8)."""
    if not any(item.get(keyword) for keyword in ("CodeValue", "LongCodeValue", "URNCodeValue")):
        yield f"{where}.CodeValue", "missing"
    if not item.get("CodingSchemeDesignator") and not item.get("URNCodeValue"):
        yield f"{where}.CodingSchemeDesignator", "missing"
    if not item.get("CodeMeaning"):
        yield f"{where}.CodeMeaning", "missing"
