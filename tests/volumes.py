"""Volumes for tests of model tasks: voxels on a plain grid, without files behind them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from appliance.dicom.geometry import SeriesGeometry
from appliance.dicom.volume import Volume


def volume_of(voxels: NDArray[np.float32], padding: NDArray[np.bool_] | None = None) -> Volume:
    """An axial series with slices of 1 mm on a grid of 1 mm, without headers."""
    count = len(voxels)
    geometry = SeriesGeometry(
        order=tuple(range(count)),
        positions_mm=tuple(float(index) for index in range(count)),
        gap_mm=1.0 if count > 1 else 0.0,
        missing_slices=0,
        repeated_positions=0,
        uniform=True,
        tilt_degrees=0.0,
        problems=(),
    )
    return Volume(voxels, padding, (), (), (1.0, 1.0, 1.0), geometry)
