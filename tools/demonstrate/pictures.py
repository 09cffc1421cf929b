"""Pictures for the report, made from the files that the PACS received."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread

from tools.demonstrate.evidence import Arrived, Derived

BRAIN_WINDOW = (40.0, 80.0)
DIFFERENCE_HU = 10.0
"""The difference that is drawn in full colour."""
SIDE = 400

_LESS, _NONE, _MORE = (64, 132, 255), (18, 20, 24), (255, 122, 60)


@dataclass(frozen=True)
class Comparison:
    """One image before and after enhancement, as data URIs, with what can be said about it in numbers.

    `noise_hu` is the standard deviation of the pixel differences between neighbouring columns, divided
    by the square root of two, inside the head: an estimate of noise that edges hardly touch.
    """

    caption: str
    before: str
    after: str
    difference: str
    mean_change_hu: float
    largest_change_hu: float
    noise_before_hu: float
    noise_after_hu: float


def comparison(arrived: Arrived) -> Comparison | None:
    """The key image of a positive series, else the middle one; None if nothing was enhanced."""
    pairs = sorted(arrived.derived, key=lambda derived: _position(arrived.originals[derived.source_uid]))
    if not pairs:
        return None
    key = arrived.cards[0].source_uid if arrived.cards else pairs[len(pairs) // 2].source_uid
    index = next((index for index, pair in enumerate(pairs) if pair.source_uid == key), 0)
    pair = pairs[index]
    original = dcmread(arrived.originals[pair.source_uid])
    before, after = hounsfield(original), hounsfield(dcmread(pair.path))
    change, shown = after - before, _body(before)
    window = _window(original, arrived)
    tissue = (before > -20) & (before < 100)
    return Comparison(
        caption=f"image {index + 1} of {len(pairs)}",
        before=data_uri(_grey(before[shown], window)),
        after=data_uri(_grey(after[shown], window)),
        difference=data_uri(_signed(change[shown])),
        mean_change_hu=float(np.abs(change).mean()),
        largest_change_hu=float(np.abs(change).max()),
        noise_before_hu=_noise(before, tissue),
        noise_after_hu=_noise(after, tissue),
    )


def card(found: Derived) -> str:
    """A secondary capture card, pixel for pixel, as a data URI."""
    return data_uri(Image.fromarray(dcmread(found.path).pixel_array))


def hounsfield(image: Dataset) -> NDArray[np.float32]:
    """The pixels in HU, shape (rows, columns)."""
    slope, intercept = float(image.get("RescaleSlope", 1)), float(image.get("RescaleIntercept", 0))
    return np.asarray(image.pixel_array, np.float32) * np.float32(slope) + np.float32(intercept)


def data_uri(picture: Image.Image) -> str:
    """The picture as a PNG inside a URI, so that the report is one file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _position(path: Path) -> float:
    header = dcmread(path, stop_before_pixels=True, specific_tags=["ImagePositionPatient", "InstanceNumber"])
    position = header.get("ImagePositionPatient")
    return float(position[2]) if position else float(header.get("InstanceNumber") or 0)


def _window(image: Dataset, arrived: Arrived) -> tuple[float, float]:
    """Centre and width in HU: the brain window for heads, the scanner's own or a wide one for others."""
    if arrived.series.bleed is not None:
        return BRAIN_WINDOW
    centre, width = image.get("WindowCenter"), image.get("WindowWidth")
    if centre is None or width is None:
        return 40.0, 400.0
    first = [value[0] if hasattr(value, "__getitem__") else value for value in (centre, width)]
    return float(first[0]), max(1.0, float(first[1]))


def _body(values: NDArray[np.float32]) -> tuple[slice, slice]:
    """The square around what is not air, so that little of the picture is black.

    Rows and columns with only a few such pixels, as the head holder's, do not count.
    """
    inside = values > -300
    ranges = []
    for axis in (1, 0):
        lines = np.flatnonzero(inside.mean(axis=axis) > 0.05)
        ranges.append((int(lines[0]), int(lines[-1])) if lines.size else (0, values.shape[1 - axis] - 1))
    half = max(high - low for low, high in ranges) // 2 + 8
    centres = [(low + high) // 2 for low, high in ranges]
    rows, columns = (slice(max(0, centre - half), centre + half) for centre in centres)
    return rows, columns


def _grey(values: NDArray[np.float32], window: tuple[float, float]) -> Image.Image:
    centre, width = window
    scaled = np.clip((values - (centre - width / 2)) / width, 0, 1) * 255
    return _sized(Image.fromarray(np.rint(scaled).astype(np.uint8)))


def _signed(change: NDArray[np.float32]) -> Image.Image:
    """Blue where the value went down, orange where it went up, dark where it stayed."""
    strength = np.clip(change / DIFFERENCE_HU, -1, 1)[..., None]
    none, less, more = (np.array(colour, np.float32) for colour in (_NONE, _LESS, _MORE))
    mixed = none + np.where(strength < 0, -strength * (less - none), strength * (more - none))
    return _sized(Image.fromarray(np.rint(mixed).astype(np.uint8)))


def _sized(picture: Image.Image) -> Image.Image:
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)


def _noise(values: NDArray[np.float32], tissue: NDArray[np.bool_]) -> float:
    steps = np.diff(values, axis=1)[tissue[:, 1:] & tissue[:, :-1]]
    if steps.size == 0:
        return 0.0
    # The median is not moved by the few steps that cross an edge.
    return float(np.median(np.abs(steps - np.median(steps))) * 1.4826 / np.sqrt(2))
