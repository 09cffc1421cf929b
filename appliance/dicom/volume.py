"""A series as a block of voxels with its geometry, and the way from files to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset


@dataclass(frozen=True)
class Volume:
    """One series of single-frame images on one grid.

    `voxels` has shape (slices, rows, columns) and is in real-world units (HU for CT), sorted along
    the slice normal (dot of ImagePositionPatient and normal, ascending). `padding` is True where the
    source pixel is padding (PixelPaddingValue/RangeLimit) and is not to be analysed or changed.
    `sources` are the headers (data sets without pixel data) in the same order; `pixel_sha256`, also in
    that order, are hashes of each image's stored pixels and geometry.
    `spacing` is (between slices, between rows, between columns) in mm; the first is the distance of
    slice centres, or SliceThickness for a single slice.
    """

    voxels: NDArray[np.float32]
    padding: NDArray[np.bool_] | None
    sources: tuple[Dataset, ...]
    pixel_sha256: tuple[str, ...]
    spacing: tuple[float, float, float]
