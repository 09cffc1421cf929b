"""The geometry of a series: is it one stack of parallel slices, in which order, with which gaps?

Pure functions of facts. The rules are those of a volume in the patient coordinate system
(PS3.3 C.7.6.2); instance numbers and slice locations are never used as geometry.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from appliance.dicom.header import Facts

ORIENTATION_TOLERANCE = 1e-4
ORTHONORMAL_TOLERANCE = 1e-3
POSITION_TOLERANCE_MM = 0.01
MISSING_SLICE_GAP = 1.5
"""A gap of more than this many median gaps means that a slice is missing."""
TILT_TOLERANCE_DEGREES = 0.5

_WITHOUT_PLACE = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
        "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, for presentation
        "1.2.840.10008.5.1.4.1.1.6.1",  # Ultrasound
        "1.2.840.10008.5.1.4.1.1.3.1",  # Ultrasound Multi-frame
    }
)
_PLACED_BY_FRAME = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT
        "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR
    }
)

_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))*", re.ASCII)
_LONGEST_UID = 64

_DERIVED_WORDS = frozenset({"DERIVED", "MPR", "MIP", "MINIP", "PROJECTION IMAGE", "SUBTRACTION"})

Vector = tuple[float, ...]


@dataclass(frozen=True)
class Problem:
    """Something about a series that some models cannot accept.

    `reason` is a short stable word for metrics, `detail` a sentence for people.
    """

    reason: str
    detail: str


@dataclass(frozen=True)
class SeriesGeometry:
    """What was measured on a series.

    `order` holds indices into the facts, sorted along the slice normal, ascending; facts without a
    usable position make it empty. `positions_mm` are the distances along the normal in that order.
    `gap_mm` is the median distance of neighbouring slices, 0 for a single slice. `uniform` is True if
    every gap equals it within 1 % or 0.02 mm. `tilt_degrees` is the angle between the slice normal
    and the line through the slices' origins.
    """

    order: tuple[int, ...]
    positions_mm: tuple[float, ...]
    gap_mm: float
    missing_slices: int
    repeated_positions: int
    uniform: bool
    tilt_degrees: float
    problems: tuple[Problem, ...]

    def has(self, *reasons: str) -> bool:
        """Whether any problem has one of these reasons."""
        return any(problem.reason in reasons for problem in self.problems)


def check_series(facts: Sequence[Facts]) -> SeriesGeometry:
    """Measure one series and name its problems.

    Images of projections and of ultrasound have no place in space and need none: their order is that of
    their instance numbers. Objects with functional groups say where their frames lie in these, which the
    facts of the object do not hold: they are measured frame by frame, once they are read.

    Reasons: `invalid_uid`, `localizer`, `derived_input`, `missing_geometry` (a slice lacks size, spacing,
    position or orientation), `mixed_geometry` (more than one frame of reference, size, spacing or
    orientation, or axes that are not orthonormal), `repeated_positions`, `missing_slices`, `gantry_tilt`.
    """
    problems = [*_identifier_problems(facts), *_kind_problems(facts)]
    if facts and all(fact.sop_class_uid in _WITHOUT_PLACE for fact in facts):
        return _without_place(facts, problems)
    if facts and all(fact.sop_class_uid in _PLACED_BY_FRAME and not fact.image_position for fact in facts):
        return _unmeasured(problems)
    lacking = sum(1 for fact in facts if not _has_geometry(fact))
    if lacking or not facts:
        detail = f"{lacking} of {len(facts)} images lack size, pixel spacing, position or orientation"
        return _unmeasured([*problems, Problem("missing_geometry", detail)])
    mixed = _differences(facts)
    if mixed:
        problems.append(Problem("mixed_geometry", f"the images differ in {', '.join(mixed)}"))
    orientation = facts[0].image_orientation or ()
    if not _orthonormal(orientation):
        problems.append(Problem("mixed_geometry", "row and column directions are not orthonormal"))
        return _unmeasured(problems)
    return _measured(facts, _cross(orientation[:3], orientation[3:]), problems)


def _without_place(facts: Sequence[Facts], problems: list[Problem]) -> SeriesGeometry:
    if any(not fact.rows or not fact.columns for fact in facts):
        problems.append(Problem("missing_geometry", "an image does not say how large it is"))
        return _unmeasured(problems)
    if any((fact.rows, fact.columns) != (facts[0].rows, facts[0].columns) for fact in facts):
        problems.append(Problem("mixed_geometry", "the images differ in rows or columns"))
    order = sorted(
        range(len(facts)),
        key=lambda index: (facts[index].instance_number or 0, facts[index].sop_instance_uid),
    )
    return replace(_unmeasured(problems), order=tuple(order))


def _unmeasured(problems: list[Problem]) -> SeriesGeometry:
    return SeriesGeometry((), (), 0.0, 0, 0, False, 0.0, tuple(problems))


def _measured(facts: Sequence[Facts], normal: Vector, problems: list[Problem]) -> SeriesGeometry:
    heights = [_dot(fact.image_position or (), normal) for fact in facts]
    order = sorted(range(len(facts)), key=lambda index: (heights[index], facts[index].sop_instance_uid))
    positions = [heights[index] for index in order]
    gaps = [after - before for before, after in pairwise(positions)]
    steps = [gap for gap in gaps if gap > POSITION_TOLERANCE_MM]
    gap = median(steps) if steps else 0.0
    repeated = len(gaps) - len(steps)
    missing = sum(round(step / gap) - 1 for step in steps if step > MISSING_SLICE_GAP * gap)
    tolerance = max(0.01 * gap, 0.02)
    first, last = facts[order[0]].image_position or (), facts[order[-1]].image_position or ()
    tilt = _tilt_degrees([b - a for a, b in zip(first, last, strict=True)], normal) if steps else 0.0
    if repeated:
        problems.append(Problem("repeated_positions", f"{repeated} images repeat the position of another"))
    if missing:
        problems.append(Problem("missing_slices", f"{missing} slices are missing at a gap of {gap:.3f} mm"))
    if tilt > TILT_TOLERANCE_DEGREES:
        problems.append(Problem("gantry_tilt", f"slices are sheared by {tilt:.2f} degrees"))
    return SeriesGeometry(
        order=tuple(order),
        positions_mm=tuple(positions),
        gap_mm=gap,
        missing_slices=missing,
        repeated_positions=repeated,
        uniform=not repeated and all(abs(step - gap) <= tolerance for step in steps),
        tilt_degrees=tilt,
        problems=tuple(problems),
    )


def _identifier_problems(facts: Sequence[Facts]) -> list[Problem]:
    """Identifiers that a result may not refer to (PS3.5 section 9.1)."""
    wrong = sum(
        1
        for fact in facts
        for uid in (
            fact.sop_class_uid,
            fact.sop_instance_uid,
            fact.study_instance_uid,
            fact.series_instance_uid,
            fact.frame_of_reference_uid or "0",
        )
        if len(uid) > _LONGEST_UID or not _UID.fullmatch(uid)
    )
    return [Problem("invalid_uid", f"{wrong} identifiers are not valid UIDs")] if wrong else []


def _kind_problems(facts: Sequence[Facts]) -> list[Problem]:
    """Localizers and images that some other processing made."""
    problems = []
    orientations = {tuple(round(v, 3) for v in fact.image_orientation or ()) for fact in facts}
    few_crossing = len(facts) <= 3 and len(orientations) > 1 and facts[0].modality == "CT"
    if few_crossing or any("LOCALIZER" in fact.image_type for fact in facts):
        problems.append(Problem("localizer", "the series is a localizer"))
    words = {word for fact in facts for word in fact.image_type} & _DERIVED_WORDS
    if words:
        problems.append(Problem("derived_input", f"the image type holds {', '.join(sorted(words))}"))
    return problems


def _has_geometry(fact: Facts) -> bool:
    return bool(
        fact.rows
        and fact.columns
        and fact.pixel_spacing
        and min(fact.pixel_spacing) > 0
        and fact.image_position
        and fact.image_orientation
    )


def _differences(facts: Sequence[Facts]) -> list[str]:
    """The properties of a stack that are not the same in all images."""
    first = facts[0]
    names = []
    if any(fact.frame_of_reference_uid != first.frame_of_reference_uid for fact in facts):
        names.append("frame of reference")
    if any((fact.rows, fact.columns) != (first.rows, first.columns) for fact in facts):
        names.append("rows or columns")
    if any(not _close(fact.pixel_spacing, first.pixel_spacing, ORIENTATION_TOLERANCE) for fact in facts):
        names.append("pixel spacing")
    if any(
        not _close(fact.image_orientation, first.image_orientation, ORIENTATION_TOLERANCE) for fact in facts
    ):
        names.append("orientation")
    return names


def _close(one: Vector | None, other: Vector | None, tolerance: float) -> bool:
    pairs = zip(one or (), other or (), strict=True)
    return all(abs(a - b) <= tolerance for a, b in pairs)


def _orthonormal(orientation: Vector) -> bool:
    row, column = orientation[:3], orientation[3:]
    return (
        abs(_dot(row, row) - 1) <= 2 * ORTHONORMAL_TOLERANCE
        and abs(_dot(column, column) - 1) <= 2 * ORTHONORMAL_TOLERANCE
        and abs(_dot(row, column)) <= ORTHONORMAL_TOLERANCE
    )


def _tilt_degrees(displacement: Sequence[float], normal: Vector) -> float:
    cosine = abs(_dot(displacement, normal)) / math.hypot(*displacement)
    return math.degrees(math.acos(min(1.0, cosine)))


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _cross(a: Sequence[float], b: Sequence[float]) -> Vector:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
