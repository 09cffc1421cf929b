"""Where an ultrasound image shows tissue (PS3.3 C.8.5.5): the rest is text, scales, traces or flow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import UltrasoundImageStorage, UltrasoundMultiFrameImageStorage

from appliance.dicom.unusable import DAMAGED, Unusable

ULTRASOUND = frozenset({str(UltrasoundImageStorage), str(UltrasoundMultiFrameImageStorage)})

_TISSUE = 1  # Region Data Type (0018,6014)
_PLANE = 1  # Region Spatial Format (0018,6012): 2D
_CENTIMETRES = 3  # Physical Units X/Y Direction (0018,6024)


def tissue(header: Dataset) -> NDArray[np.bool_]:
    """True inside the regions of 2D tissue and outside every other region; shape (rows, columns).

    Raises:
        Unusable: `no_tissue_region`, without which text and scales cannot be told from tissue.
    """
    inside = np.zeros((int(header.Rows), int(header.Columns)), np.bool_)
    others = np.zeros_like(inside)
    try:
        for region in header.get("SequenceOfUltrasoundRegions") or ():
            left, top = int(region.RegionLocationMinX0), int(region.RegionLocationMinY0)
            right, bottom = int(region.RegionLocationMaxX1), int(region.RegionLocationMaxY1)
            marked = inside if _shows_tissue(region) else others
            marked[max(top, 0) : bottom + 1, max(left, 0) : right + 1] = True
    except DAMAGED as error:
        raise Unusable("no_tissue_region", "an ultrasound region does not say where it is") from error
    inside &= ~others
    if not inside.any():
        raise Unusable("no_tissue_region", "the image does not say where it shows tissue")
    return inside


def spacing_mm(header: Dataset) -> tuple[float, float] | None:
    """The distance of rows and of columns in the first region of tissue, if it is in centimetres."""
    for region in header.get("SequenceOfUltrasoundRegions") or ():
        units = (region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection"))
        deltas = (region.get("PhysicalDeltaY"), region.get("PhysicalDeltaX"))
        if _shows_tissue(region) and units == (_CENTIMETRES, _CENTIMETRES) and None not in deltas:
            return 10.0 * abs(float(deltas[0])), 10.0 * abs(float(deltas[1]))
    return None


def _shows_tissue(region: Dataset) -> bool:
    return (region.get("RegionDataType"), region.get("RegionSpatialFormat")) == (_TISSUE, _PLANE)
