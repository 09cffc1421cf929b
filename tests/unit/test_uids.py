"""Derived UIDs are valid, stable, and depend on exactly what they should."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from appliance.dicom.uids import (
    derived_uid,
    image_series_uid,
    image_uid,
    model_device_uid,
    result_series_uid,
    result_uid,
    tracking_uid,
)

_PARTS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\x1f"), max_size=20), min_size=1, max_size=5
)
_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")


@given(_PARTS)
def test_a_derived_uid_is_a_valid_uid(parts: list[str]) -> None:
    uid = derived_uid(*parts)
    assert _UID.fullmatch(uid)
    assert len(uid) <= 44


@given(_PARTS, _PARTS)
def test_a_derived_uid_is_a_function_of_its_parts(one: list[str], other: list[str]) -> None:
    assert (derived_uid(*one) == derived_uid(*other)) == (one == other)


def test_parts_do_not_run_together() -> None:
    assert derived_uid("ab", "c") != derived_uid("a", "bc")


def test_uids_never_change_between_versions() -> None:
    assert derived_uid("img", "1.2.3") == "2.25.37572546193248637908525361566063235133"


def test_an_image_uid_depends_on_source_pixels_and_pipeline() -> None:
    uids = {
        image_uid(*parts) for parts in [("1", "a", "p"), ("2", "a", "p"), ("1", "b", "p"), ("1", "a", "q")]
    }
    assert len(uids) == 4


def test_a_derived_series_depends_on_source_series_and_pipeline() -> None:
    assert image_series_uid("1", "p") == image_series_uid("1", "p")
    assert len({image_series_uid("1", "p"), image_series_uid("2", "p"), image_series_uid("1", "q")}) == 3


def test_a_result_depends_on_kind_images_and_revision_but_not_on_their_order() -> None:
    assert result_uid("sr", "1", ["a", "b"], "p", "1") == result_uid("sr", "1", ["b", "a"], "p", "1")
    variants = [
        result_uid("sr", "1", ["a", "b"], "p", "1"),
        result_uid("sc", "1", ["a", "b"], "p", "1"),
        result_uid("sr", "1", ["a"], "p", "1"),
        result_uid("sr", "1", ["a", "b"], "p", "2"),
        result_uid("sr", "1", ["a", "b"], "q", "1"),
    ]
    assert len(set(variants)) == len(variants)


def test_a_result_series_is_the_same_for_any_images_and_new_for_a_revision() -> None:
    assert result_series_uid("sr", "1", "p", "1") != result_series_uid("sr", "1", "p", "2")
    assert result_series_uid("sr", "1", "p", "1") != result_series_uid("sc", "1", "p", "1")


def test_a_finding_is_tracked_across_revisions_and_a_model_by_its_weights() -> None:
    assert tracking_uid("1", "1386000", "p") != tracking_uid("2", "1386000", "p")
    assert model_device_uid("a") != model_device_uid("b")
