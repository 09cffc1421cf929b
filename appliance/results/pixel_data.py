"""Real-world values back into the pixels of an image, in the format of its source."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from appliance.dicom.frames import scale_of
from appliance.dicom.pixels import padding_range, sample_limits
from appliance.dicom.volume import Volume
from appliance.domain.errors import GiveUp

_Value = TypeVar("_Value", bound=np.generic)


def pixel_cells(voxels: NDArray[np.float32], volume: Volume, index: int) -> NDArray[np.integer[Any]]:
    """The pixel cells of slice `index` with `voxels`, on its grid or on one of other fineness.

    What the volume calls padding comes back exactly. Shape (rows, columns), or (rows, columns, 3) in colour.

    Raises:
        GiveUp: a voxel is not finite.
    """
    if not np.isfinite(voxels).all():
        raise GiveUp("the model returned values that are not finite")
    source, grid = volume.sources[index], _Nearest(volume.voxels.shape[1:], voxels.shape)
    untouched = None if volume.padding is None else grid.of(volume.padding[index])
    if volume.colour is not None:
        return _in_colour(voxels, grid.of(volume.voxels[index]), grid.of(volume.colour[index]), untouched)
    signed = bool(source.PixelRepresentation)
    scale = scale_of(source, volume.frames[index])
    stored = np.clip(scale.stored(voxels), *sample_limits(source))
    low, high = padding_range(source) or (1, 0)
    stored = _outside(stored, low, high, sample_limits(source)[1])
    if untouched is not None:
        stored[untouched] = scale.stored(grid.of(volume.voxels[index])[untouched])
    return stored.astype(np.dtype(f"<{'i' if signed else 'u'}{int(source.BitsAllocated) // 8}"))


def put_pixels(image: Dataset, cells: NDArray[np.integer[Any]]) -> None:
    """Set Pixel Data of an image to uncompressed `cells`: one image or frames, grey or in colour."""
    data = cells.tobytes()
    image.add_new("PixelData", "OB" if cells.itemsize == 1 else "OW", data + b"\0" * (len(data) % 2))


class _Nearest:
    """Brings a picture of one size to another: each new pixel is the old one that it lies in."""

    def __init__(self, old: tuple[int, ...], new: tuple[int, ...]) -> None:
        self._same = old == new
        rows, columns = (
            (np.arange(many) * 2 + 1) * few // (2 * many) for few, many in zip(old, new, strict=True)
        )
        self._index = np.ix_(rows, columns)

    def of(self, picture: NDArray[_Value]) -> NDArray[_Value]:
        return picture if self._same else picture[self._index]


def _in_colour(
    voxels: NDArray[np.float32],
    brightness: NDArray[np.float32],
    colour: NDArray[np.uint8],
    untouched: NDArray[np.bool_] | None,
) -> NDArray[np.uint8]:
    """The colours of the source, grey tissue as much brighter or darker as the model made it."""
    change = np.rint(voxels - brightness).astype(np.int32)
    if untouched is not None:
        change[untouched] = 0
    changed: NDArray[np.int32] = np.clip(colour.astype(np.int32) + change[..., None], 0, 255)
    return changed.astype(np.uint8)


def _outside(stored: NDArray[np.int64], low: int, high: int, highest: int) -> NDArray[np.int64]:
    """Move values that would read as padding to the next value that does not."""
    above = high + 1 if high + 1 <= highest else low - 1
    return np.where((stored >= low) & (stored <= high), above, stored)
