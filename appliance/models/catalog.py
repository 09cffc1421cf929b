"""Which series a model takes: its contract held against what is known of the series."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from appliance.config.schema import Match
from appliance.dicom.geometry import Problem, SeriesGeometry
from appliance.dicom.header import Facts
from appliance.models.manifest import Contract


def refusal(
    contract: Contract, narrowing: Match, facts: Sequence[Facts], geometry: SeriesGeometry
) -> Problem | None:
    """Why the model does not take the series, or None if it does. The first reason that holds.

    `facts` are those of all images of the series, `geometry` is what `check_series` measured on them.
    """
    return next(
        (
            problem
            for check in _CHECKS
            if (problem := check(contract, narrowing, facts, geometry)) is not None
        ),
        None,
    )


_Check = Callable[[Contract, Match, Sequence[Facts], SeriesGeometry], Problem | None]


def _narrowed(
    _contract: Contract, narrowing: Match, facts: Sequence[Facts], _geometry: SeriesGeometry
) -> Problem | None:
    chosen = (
        ("modality", narrowing.modality, {fact.modality for fact in facts}),
        ("body part", narrowing.body_part, {fact.body_part for fact in facts}),
        ("station name", narrowing.station_name, {fact.station_name for fact in facts}),
    )
    for name, wanted, present in chosen:
        if wanted and not present <= set(wanted):
            return Problem("not_selected", f"the pipeline is narrowed to another {name}")
    return None


def _kind(
    contract: Contract, _narrowing: Match, facts: Sequence[Facts], geometry: SeriesGeometry
) -> Problem | None:
    if not {fact.modality for fact in facts} <= set(contract.modality):
        return Problem("modality", f"the model takes {_words(contract.modality)}")
    if not {fact.sop_class_uid for fact in facts} <= set(contract.sop_classes):
        return Problem("sop_class", "the model does not take this SOP class")
    for problem in geometry.problems:
        if problem.reason == "localizer":
            return problem
    forbidden = {word for fact in facts for word in fact.image_type} & set(contract.image_type_forbidden)
    if forbidden:
        return Problem("image_type", f"the model does not take images of the type {_words(forbidden)}")
    if any(fact.presentation_intent == "FOR PROCESSING" for fact in facts):
        return Problem("presentation_intent", "the images are for processing, not for presentation")
    if contract.body_parts and not {fact.body_part for fact in facts} <= set(contract.body_parts):
        return Problem(
            "body_part", f"the model takes {_words(part or '(absent)' for part in contract.body_parts)}"
        )
    return None


def _shape(
    contract: Contract, _narrowing: Match, facts: Sequence[Facts], geometry: SeriesGeometry
) -> Problem | None:
    for problem in geometry.problems:
        if problem.reason in ("missing_geometry", "mixed_geometry", "repeated_positions"):
            return problem
    first = facts[0]
    spacing = first.pixel_spacing or ()
    measured: list[tuple[str, float, tuple[float, float]]] = [
        ("slices", sum(fact.number_of_frames for fact in facts), contract.slices),
        ("rows", first.rows or 0, contract.rows),
        ("columns", first.columns or 0, contract.columns),
        *(("pixel_spacing", value, contract.pixel_spacing_mm) for value in spacing),
    ]
    if geometry.gap_mm:
        measured.append(("slice_spacing", geometry.gap_mm, contract.slice_spacing_mm))
    for name, value, (low, high) in measured:
        if not low <= value <= high:
            return Problem(name, f"{name.replace('_', ' ')}: {value:g} is outside {low:g} to {high:g}")
    return None


def _stack(
    contract: Contract, _narrowing: Match, _facts: Sequence[Facts], geometry: SeriesGeometry
) -> Problem | None:
    return stack_refusal(contract, geometry) if geometry.positions_mm else None


def stack_refusal(contract: Contract, geometry: SeriesGeometry) -> Problem | None:
    """Why the model does not take a stack of slices of this geometry, or None if it does."""
    if geometry.tilt_degrees > contract.gantry_tilt_degrees:
        return Problem("gantry_tilt", f"slices are sheared by {geometry.tilt_degrees:.2f} degrees")
    if contract.uniform_slices and geometry.missing_slices:
        return Problem("missing_slices", f"{geometry.missing_slices} slices are missing")
    if contract.uniform_slices and not geometry.uniform:
        return Problem("uneven_slices", "the slices are not evenly spaced")
    return None


_CHECKS: tuple[_Check, ...] = (_narrowed, _kind, _shape, _stack)


def _words(values: Iterable[str]) -> str:
    return ", ".join(sorted(values))
