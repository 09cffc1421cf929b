"""Slices as pictures for people: in the window of their source, with the directions of the patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.multival import MultiValue

from appliance.dicom.frames import functional_group, scale_of
from appliance.dicom.ultrasound import ULTRASOUND
from appliance.dicom.volume import Volume
from appliance.results.attributes import source_value

BRAIN_CENTER_HU, BRAIN_WIDTH_HU = 40.0, 80.0
_HEAD_WORDS = frozenset({"HEAD", "BRAIN", "SKULL"})
_TISSUE_PERCENTILES = (0.5, 99.5)

# Heat colours, from where they begin to show to full heat: deep red, orange, pale yellow.
_HEAT_STOPS = np.array([0.0, 0.5, 1.0])
_HEAT_COLOURS = np.array([[150, 0, 30], [255, 120, 0], [255, 245, 170]], np.float64)
_HEAT_OPACITY = 0.6
_HEAT_FROM = 0.15

_LETTERS = (("R", "L"), ("A", "P"), ("F", "H"))
"""Directions of the patient along x, y and z: against the axis, along the axis (PS3.3 C.7.6.1.1.1)."""
_OPPOSITE = {one: other for pair in _LETTERS for one, other in (pair, pair[::-1])}


@dataclass(frozen=True)
class Edges:
    """The directions of the patient at the edges of a picture; empty where unknown."""

    left: str = ""
    right: str = ""
    top: str = ""
    bottom: str = ""


def picture(volume: Volume, index: int) -> NDArray[np.uint8]:
    """Slice `index` as RGB, shape (rows, columns, 3): what is bright in the image is bright in it."""
    if volume.colour is not None:
        colour: NDArray[np.uint8] = volume.colour[index]
        return colour
    center, width = window_of(volume, index)
    scaled = np.clip((volume.voxels[index] - (center - width / 2)) / width, 0, 1) * 255
    return np.repeat(np.rint(scaled).astype(np.uint8)[..., None], 3, axis=2)


def window_of(volume: Volume, index: int) -> tuple[float, float]:
    """Centre and width, in the values of the volume: the brain's for CT of a head, else the source's."""
    source, frame = volume.sources[index], volume.frames[index]
    if source_value(source, "Modality") == "CT" and is_head(source):
        return BRAIN_CENTER_HU, BRAIN_WIDTH_HU
    if source.get("SOPClassUID") in ULTRASOUND:
        return 127.5, 255.0
    group = functional_group(source, frame, "FrameVOILUTSequence") or source
    center, width = _number(group, "WindowCenter"), _number(group, "WindowWidth")
    if center is not None and width is not None and width >= 1:
        scale = scale_of(source, frame)
        if scale.mirror is not None:  # the window is told in values that are not turned round
            center = scale.slope * scale.mirror + 2 * scale.intercept - center
        return center, width
    low, high = np.percentile(volume.voxels[index], _TISSUE_PERCENTILES)
    return float(low + high) / 2, max(float(high - low), 1.0)


def is_head(source: Dataset) -> bool:
    """Whether the image is said to show a head."""
    return str(source_value(source, "BodyPartExamined") or "").upper() in _HEAD_WORDS


def _number(group: Dataset, keyword: str) -> float | None:
    value = source_value(group, keyword)
    first = value[0] if isinstance(value, MultiValue) else value
    try:
        return None if first is None else float(first)
    except ValueError:
        return None


def overlay(grey: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """`grey` with heat (0..1) laid over it; where the heat is low, the picture stays as it is."""
    strength = np.clip((heat - _HEAT_FROM) / (1 - _HEAT_FROM), 0, 1)
    colours = np.stack([np.interp(strength, _HEAT_STOPS, channel) for channel in _HEAT_COLOURS.T], axis=-1)
    opacity = (_HEAT_OPACITY * np.sqrt(strength))[..., None]
    return np.rint(grey * (1 - opacity) + colours * opacity).astype(np.uint8)


def edges_of(volume: Volume, index: int) -> Edges:
    """Where the patient's left and right, front and back, head and feet are in a slice."""
    source = volume.sources[index]
    plane = functional_group(source, volume.frames[index], "PlaneOrientationSequence") or source
    cosines = source_value(plane, "ImageOrientationPatient")
    if cosines is not None and len(cosines) == 6:
        right, bottom = _letter(cosines[:3]), _letter(cosines[3:])
    else:
        told = source_value(source, "PatientOrientation")
        words = [str(word).strip().upper() for word in told] if told and not isinstance(told, str) else []
        right, bottom = (word[:1] for word in words) if len(words) == 2 else ("", "")
    return Edges(_OPPOSITE.get(right, ""), right, _OPPOSITE.get(bottom, ""), bottom)


def _letter(cosines: list[float]) -> str:
    values = [float(value) for value in cosines]
    axis = max(range(3), key=lambda number: abs(values[number]))
    return _LETTERS[axis][values[axis] > 0]
