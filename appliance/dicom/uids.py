"""Unique identifiers as functions of the input, so that doing the same work twice names it the same."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID, uuid5

NAMESPACE = UUID("5f0c9a35-6c1b-5a6e-9f5e-6d1f9d3d7b42")
"""The name space of every derived UID. Changing it forks every series that was ever derived."""

ATTRIBUTE_POLICY = "3"
"""Raised whenever the writers fill other attributes, so that no UID ever names two contents."""

_SEPARATOR = "\x1f"


def derived_uid(*parts: str) -> str:
    """A UID that depends on all parts and on their order (PS3.5 B.2: UUID as a decimal number)."""
    return f"2.25.{uuid5(NAMESPACE, _SEPARATOR.join(parts)).int}"


def image_uid(source_sop_instance_uid: str, pixel_sha256: str, pipeline_digest: str) -> str:
    """The SOP Instance UID of the image derived from one source image."""
    return derived_uid("img", source_sop_instance_uid, pixel_sha256, pipeline_digest, ATTRIBUTE_POLICY)


def image_series_uid(source_series_uid: str, pipeline_digest: str) -> str:
    """The series of all images derived from one source series: late slices join it."""
    return derived_uid("series", "img", source_series_uid, pipeline_digest, ATTRIBUTE_POLICY)


def result_series_uid(purpose: str, source_series_uid: str, pipeline_digest: str, edition: str) -> str:
    """The series of a result about a whole series: a new edition makes a new one."""
    return derived_uid("series", purpose, source_series_uid, pipeline_digest, ATTRIBUTE_POLICY, edition)


def result_uid(
    purpose: str,
    source_series_uid: str,
    pixel_sha256: Iterable[str],
    pipeline_digest: str,
    edition: str,
) -> str:
    """The SOP Instance UID of a result about a whole series, whatever the order of its images."""
    return derived_uid(
        purpose, source_series_uid, *sorted(pixel_sha256), pipeline_digest, ATTRIBUTE_POLICY, edition
    )


def tracking_uid(source_series_uid: str, finding: str, pipeline_digest: str) -> str:
    """The Tracking Unique Identifier (112040, DCM) of a finding: the same in every revision."""
    return derived_uid("tracking", source_series_uid, finding, pipeline_digest)


def retraction_uid(uid: str) -> str:
    """The name of what takes back the object, series or message of that name."""
    return derived_uid("retraction", uid)


def rejection_uid(purpose: str, title: str, uids: Iterable[str]) -> str:
    """The name of a note, or of its series, that takes back the objects of these names; `title` is a code."""
    return derived_uid("rejection", purpose, title, *sorted(uids))


def model_device_uid(model_sha256: str) -> str:
    """The Device UID of a model: it changes whenever the weights change."""
    return derived_uid("device", model_sha256)


def station_device_uid(serial: str) -> str:
    """The Device UID of this appliance, and the Instance Creator UID of everything it makes."""
    return derived_uid("station", serial)
