"""A series is measured by where its slices lie, whatever their order and numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.dicom.geometry import check_series
from appliance.dicom.header import Facts, read_facts
from tests.dicom_samples import CtSeries, ct_image, part10
from tests.support.examples import examples

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def facts_of(series: CtSeries, indices: list[int] | None = None) -> list[Facts]:
    chosen = range(series.slices) if indices is None else indices
    return [read_facts(part10(ct_image(series, index))) for index in chosen]


SAMPLE = facts_of(CtSeries(slices=7, rows=8, columns=8))


def test_a_clean_series_has_no_problem() -> None:
    geometry = check_series(SAMPLE)
    assert geometry.problems == ()
    assert (geometry.gap_mm, geometry.uniform, geometry.missing_slices) == (5.0, True, 0)
    assert geometry.tilt_degrees == pytest.approx(0)


@given(st.permutations(range(7)))
def test_slices_are_sorted_by_position(order: list[int]) -> None:
    facts = [replace(SAMPLE[index], instance_number=99 - index) for index in order]
    geometry = check_series(facts)
    assert [order[index] for index in geometry.order] == list(range(7))
    assert list(geometry.positions_mm) == sorted(geometry.positions_mm)


@settings(max_examples=examples(20), deadline=None)
@given(
    st.sampled_from([(1.0, 0.0, 0.0, 0.0, 1.0, 0.0), CORONAL, (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)]),
    st.floats(0.3, 20),
)
def test_the_gap_is_measured_along_the_normal_of_any_orientation(
    orientation: tuple[float, ...], gap: float
) -> None:
    series = CtSeries(slices=4, rows=2, columns=2, orientation=orientation, gap=gap)
    geometry = check_series(facts_of(series))
    assert geometry.gap_mm == pytest.approx(gap, abs=1e-5)
    assert geometry.order == (0, 1, 2, 3)
    assert geometry.problems == ()


def test_missing_slices_are_counted() -> None:
    geometry = check_series([SAMPLE[index] for index in (0, 1, 2, 5, 6)])
    assert geometry.missing_slices == 2
    assert not geometry.uniform
    assert geometry.has("missing_slices")


def test_repeated_positions_are_counted() -> None:
    geometry = check_series([*SAMPLE, replace(SAMPLE[3], sop_instance_uid="1.2.3")])
    assert geometry.repeated_positions == 1
    assert geometry.has("repeated_positions")
    assert not geometry.has("missing_slices")


def test_a_tilted_gantry_is_measured() -> None:
    # 5 mm along the normal and 5 mm sideways: 45 degrees.
    geometry = check_series(facts_of(CtSeries(rows=2, columns=2, shear=(0.0, 5.0))))
    assert geometry.tilt_degrees == pytest.approx(45)
    assert geometry.has("gantry_tilt")


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 9},
        {"pixel_spacing": (0.5, 0.51)},
        {"image_orientation": CORONAL},
        {"frame_of_reference_uid": "1.2.3"},
    ],
)
def test_one_deviating_image_makes_a_mixed_series(change: dict[str, object]) -> None:
    facts = [*SAMPLE[:3], replace(SAMPLE[3], **change), *SAMPLE[4:]]  # type: ignore[arg-type]
    assert check_series(facts).has("mixed_geometry")


def test_directions_that_are_not_orthonormal_are_refused() -> None:
    skewed = [replace(fact, image_orientation=(1.0, 0.0, 0.0, 0.5, 1.0, 0.0)) for fact in SAMPLE]
    assert check_series(skewed).has("mixed_geometry")


@pytest.mark.parametrize("name", ["image_position", "image_orientation", "pixel_spacing", "rows"])
def test_an_image_without_geometry_is_named(name: str) -> None:
    facts = [*SAMPLE[:3], replace(SAMPLE[3], **{name: None})]  # type: ignore[arg-type]
    geometry = check_series(facts)
    assert geometry.has("missing_geometry")
    assert geometry.order == ()


def test_no_images_have_no_geometry() -> None:
    assert check_series([]).has("missing_geometry")


def test_localizers_are_recognised() -> None:
    scout = [replace(SAMPLE[0], image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))]
    assert check_series(scout).has("localizer")
    crossing = [SAMPLE[0], replace(SAMPLE[1], image_orientation=CORONAL)]
    assert check_series(crossing).has("localizer")


@pytest.mark.parametrize("words", [("DERIVED", "SECONDARY", "MPR"), ("ORIGINAL", "PRIMARY", "MIP")])
def test_derived_images_are_recognised(words: tuple[str, ...]) -> None:
    assert check_series([replace(SAMPLE[0], image_type=words)]).has("derived_input")


@pytest.mark.parametrize("uid", ["1.2.03", "1..2", "1.2.x", "1." + "2" * 64])
def test_identifiers_that_no_result_may_refer_to_are_found(uid: str) -> None:
    assert check_series([replace(SAMPLE[0], study_instance_uid=uid)]).has("invalid_uid")


def test_a_single_slice_has_no_gap() -> None:
    geometry = check_series(SAMPLE[:1])
    assert (geometry.gap_mm, geometry.uniform, geometry.problems) == (0.0, True, ())
