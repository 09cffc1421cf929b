"""Which series a model takes, and the word for each reason why it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from appliance.config.schema import Match
from appliance.dicom.geometry import check_series
from appliance.dicom.header import Facts
from appliance.models.catalog import refusal, stack_refusal
from appliance.models.manifest import Contract

CT = "1.2.840.10008.5.1.4.1.1.2"
CONTRACT = Contract(
    modality=["CT"],
    sop_classes=[CT],
    body_parts=["HEAD", "BRAIN", ""],
    slices=(5, 100),
    rows=(64, 512),
    columns=(64, 512),
    pixel_spacing_mm=(0.3, 1.0),
    slice_spacing_mm=(1.0, 8.0),
    uniform_slices=True,
    gantry_tilt_degrees=10.0,
)
ANY = Match()


def slice_at(index: int) -> Facts:
    return Facts(
        sop_instance_uid=f"1.2.{index + 1}",
        sop_class_uid=CT,
        study_instance_uid="1",
        series_instance_uid="2",
        modality="CT",
        image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
        body_part="HEAD",
        station_name="CT1",
        frame_of_reference_uid="3",
        rows=256,
        columns=256,
        pixel_spacing=(0.5, 0.5),
        image_position=(0.0, 0.0, 5.0 * index),
        image_orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        slice_thickness=5.0,
        instance_number=index + 1,
    )


HEAD = [slice_at(index) for index in range(10)]


def every(**changes: object) -> list[Facts]:
    return [replace(fact, **changes) for fact in HEAD]  # type: ignore[arg-type]


def one(**changes: object) -> list[Facts]:
    return [replace(HEAD[0], **changes), *HEAD[1:]]  # type: ignore[arg-type]


def placed(position: Callable[[int], tuple[float, float, float]]) -> list[Facts]:
    return [replace(fact, image_position=position(index)) for index, fact in enumerate(HEAD)]


def reason(facts: list[Facts], narrowing: Match = ANY, contract: Contract = CONTRACT) -> str | None:
    problem = refusal(contract, narrowing, facts, check_series(facts))
    if problem is None:
        return None
    assert problem.detail
    return problem.reason


REFUSED = {
    "another modality": (every(modality="MR"), "modality"),
    "one image of another modality": (one(modality="MR"), "modality"),
    "another class": (every(sop_class_uid="1.2.840.10008.5.1.4.1.1.7"), "sop_class"),
    "a localizer by its image type": (every(image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")), "localizer"),
    "derived images": (every(image_type=("DERIVED", "PRIMARY", "MPR")), "image_type"),
    "secondary images": (one(image_type=("ORIGINAL", "SECONDARY")), "image_type"),
    "images for processing": (every(presentation_intent="FOR PROCESSING"), "presentation_intent"),
    "another body part": (every(body_part="CHEST"), "body_part"),
    "no position": (one(image_position=None), "missing_geometry"),
    "no spacing": (one(pixel_spacing=None), "missing_geometry"),
    "two sizes": (one(rows=128), "mixed_geometry"),
    "two frames of reference": (one(frame_of_reference_uid="4"), "mixed_geometry"),
    "two images at one place": (one(image_position=(0.0, 0.0, 5.0)), "repeated_positions"),
    "too few slices": (HEAD[:4], "slices"),
    "too many slices": ([slice_at(index) for index in range(101)], "slices"),
    "too few rows": (every(rows=32), "rows"),
    "too many columns": (every(columns=1024), "columns"),
    "too fine a spacing": (every(pixel_spacing=(0.2, 0.2)), "pixel_spacing"),
    "too coarse a spacing in one direction": (every(pixel_spacing=(0.5, 1.5)), "pixel_spacing"),
    "too wide gaps": (placed(lambda index: (0.0, 0.0, 9.0 * index)), "slice_spacing"),
    "too much tilt": (placed(lambda index: (0.0, 2.0 * index, 5.0 * index)), "gantry_tilt"),
    "a missing slice": ([*HEAD[:5], *HEAD[6:]], "missing_slices"),
    "uneven slices": (placed(lambda index: (0.0, 0.0, 5.0 * index + 0.5 * (index % 2))), "uneven_slices"),
}


@pytest.mark.parametrize(("facts", "expected"), REFUSED.values(), ids=list(REFUSED))
def test_why_a_model_does_not_take_a_series(facts: list[Facts], expected: str) -> None:
    assert reason(facts) == expected


def test_a_fitting_series_is_taken() -> None:
    assert reason(HEAD) is None
    assert reason(list(reversed(HEAD))) is None
    assert reason(placed(lambda index: (0.0, 0.5 * index, 5.0 * index))) is None


def test_an_absent_body_part_is_taken_only_where_the_contract_says_so() -> None:
    assert reason(every(body_part="")) is None
    assert (
        reason(every(body_part=""), contract=CONTRACT.model_copy(update={"body_parts": ["HEAD"]}))
        == "body_part"
    )
    assert reason(every(body_part="CHEST"), contract=CONTRACT.model_copy(update={"body_parts": []})) is None


def test_a_model_that_works_slice_by_slice_takes_gaps() -> None:
    patient = CONTRACT.model_copy(update={"uniform_slices": False})
    assert reason([*HEAD[:5], *HEAD[6:]], contract=patient) is None


def test_a_single_slice_has_no_slice_spacing() -> None:
    patient = CONTRACT.model_copy(update={"slices": (1, 100)})
    assert reason(HEAD[:1], contract=patient) is None


def test_a_range_includes_both_ends() -> None:
    assert reason(every(rows=64, columns=512)) is None
    assert reason(HEAD[:5]) is None


@pytest.mark.parametrize(
    ("narrowing", "expected"),
    [
        (Match(modality=["CT"], body_part=["HEAD"], station_name=["CT1", "CT2"]), None),
        (Match(modality=["MR"]), "not_selected"),
        (Match(body_part=["CHEST"]), "not_selected"),
        (Match(station_name=["CT9"]), "not_selected"),
    ],
)
def test_a_pipeline_may_be_narrowed(narrowing: Match, expected: str | None) -> None:
    assert reason(HEAD, narrowing) == expected


def test_the_narrowing_is_the_first_reason() -> None:
    assert reason(every(modality="MR"), Match(station_name=["CT9"])) == "not_selected"


def test_objects_with_frames_are_measured_once_they_are_read() -> None:
    multi_frame = "1.2.840.10008.5.1.4.1.1.2.1"
    contract = CONTRACT.model_copy(update={"sop_classes": [CT, multi_frame]})
    whole = replace(
        HEAD[0],
        sop_class_uid=multi_frame,
        number_of_frames=10,
        image_position=None,
        image_orientation=None,
        pixel_spacing=None,
    )
    assert reason([whole], contract=contract) is None
    assert reason([replace(whole, number_of_frames=4)], contract=contract) == "slices"
    assert reason([whole]) == "sop_class"
    frames = [replace(fact, sop_class_uid=multi_frame) for fact in HEAD]
    assert stack_refusal(contract, check_series(frames)) is None
    problem = stack_refusal(contract, check_series([*frames[:5], *frames[6:]]))
    assert problem is not None
    assert problem.reason == "missing_slices"


def test_projections_need_no_place_in_space() -> None:
    detector = "1.2.840.10008.5.1.4.1.1.1.1"
    contract = CONTRACT.model_copy(
        update={"modality": ["DX"], "sop_classes": [detector], "body_parts": [], "slices": (1, 2)}
    )
    image = replace(
        HEAD[0],
        modality="DX",
        sop_class_uid=detector,
        image_position=None,
        image_orientation=None,
        pixel_spacing=None,
    )
    assert reason([image], contract=contract) is None
    assert reason([image, replace(image, rows=128)], contract=contract) == "mixed_geometry"
    assert reason([replace(image, rows=None)], contract=contract) == "missing_geometry"
