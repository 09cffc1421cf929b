"""What a finer or coarser grid changes: the edges of the image stay where they are in the patient."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from pydicom import Dataset
from pydicom.valuerep import DSfloat

from appliance.dicom.frames import functional_group
from appliance.domain.errors import GiveUp
from appliance.results.attributes import put

# Positions in pixels of edges, centres and corners, and lengths (PS3.3 C.7.6.11, C.8.7.3): Integer Strings.
_SHUTTERS = (
    "ShutterLeftVerticalEdge",
    "ShutterRightVerticalEdge",
    "ShutterUpperHorizontalEdge",
    "ShutterLowerHorizontalEdge",
    "CenterOfCircularShutter",
    "RadiusOfCircularShutter",
    "VerticesOfThePolygonalShutter",
    "CollimatorLeftVerticalEdge",
    "CollimatorRightVerticalEdge",
    "CollimatorUpperHorizontalEdge",
    "CollimatorLowerHorizontalEdge",
    "CenterOfCircularCollimator",
    "RadiusOfCircularCollimator",
    "VerticesOfThePolygonalCollimator",
)
_REGION_STARTS = ("RegionLocationMinX0", "RegionLocationMinY0")
_REGION_ENDS = ("RegionLocationMaxX1", "RegionLocationMaxY1")
_REGION_POINTS = (
    "ReferencePixelX0",
    "ReferencePixelY0",
    "DopplerSampleVolumeXPosition",
    "DopplerSampleVolumeYPosition",
    "TMLinePositionX0",
    "TMLinePositionY0",
    "TMLinePositionX1",
    "TMLinePositionY1",
)
_REGION_DELTAS = ("PhysicalDeltaX", "PhysicalDeltaY")


def change_grid(image: Dataset, rows: int, columns: int) -> None:
    """Say that `image`, a copy of its source's attributes, has `rows` and `columns` within the same edges.

    Raises:
        GiveUp: the new pixels have other proportions than those of the source.
    """
    factor = Fraction(rows, int(image.Rows))
    if factor == 1 and columns == image.Columns:
        return
    if factor != Fraction(columns, int(image.Columns)):
        raise GiveUp("the model returned a grid of other proportions")
    if "PerFrameFunctionalGroupsSequence" in image:
        _move_frames(image, factor)
    elif "PixelSpacing" in image and "ImagePositionPatient" in image and "ImageOrientationPatient" in image:
        position = _first_pixel(
            image.ImagePositionPatient, image.ImageOrientationPatient, image.PixelSpacing, factor
        )
        put(image, "ImagePositionPatient", position)
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        if keyword in image:
            put(image, keyword, _scaled_spacing(image[keyword].value, factor))
    for keyword in _SHUTTERS:
        if keyword in image:
            _scale_pixels(image, keyword, factor)
    for region in image.get("SequenceOfUltrasoundRegions") or ():
        _scale_region(region, factor)
    put(image, "Rows", rows)
    put(image, "Columns", columns)


def _move_frames(image: Dataset, factor: Fraction) -> None:
    """The place of each frame first: it depends on the pixel spacing, which may be shared."""
    frames = range(1, len(image.PerFrameFunctionalGroupsSequence) + 1)
    moved: list[tuple[Dataset, list[DSfloat]]] = []
    measured: dict[int, Dataset] = {}
    for frame in frames:
        position = functional_group(image, frame, "PlanePositionSequence")
        orientation = functional_group(image, frame, "PlaneOrientationSequence")
        measures = functional_group(image, frame, "PixelMeasuresSequence")
        if position is None or orientation is None or measures is None:
            raise GiveUp("a frame does not say where it lies")
        place = _first_pixel(
            position.ImagePositionPatient, orientation.ImageOrientationPatient, measures.PixelSpacing, factor
        )
        moved.append((position, place))
        measured[id(measures)] = measures
    for position, place in moved:
        put(position, "ImagePositionPatient", place)
    for measures in measured.values():
        put(measures, "PixelSpacing", _scaled_spacing(measures.PixelSpacing, factor))


def _first_pixel(
    position: Iterable[float], orientation: Iterable[float], spacing: Iterable[float], factor: Fraction
) -> list[DSfloat]:
    """Where the centre of the first pixel of the new grid lies (PS3.3 C.7.6.2.1.1)."""
    along_row, along_column = list(orientation)[:3], list(orientation)[3:]
    row_mm, column_mm = (float(value) for value in spacing)
    shift = 0.5 * (float(1 / factor) - 1.0)
    return [
        _decimal(float(p) + shift * (column_mm * float(r) + row_mm * float(c)))
        for p, r, c in zip(position, along_row, along_column, strict=True)
    ]


def _scaled_spacing(spacing: Iterable[float], factor: Fraction) -> list[DSfloat]:
    return [_decimal(float(value) / float(factor)) for value in spacing]


def _decimal(value: float) -> DSfloat:
    return DSfloat(value, auto_format=True)


def _scale_pixels(image: Dataset, keyword: str, factor: Fraction) -> None:
    value = image[keyword].value
    if isinstance(value, int):
        put(image, keyword, round(int(value) * factor))
    elif value is not None:
        put(image, keyword, [round(int(number) * factor) for number in value])


def _scale_region(region: Dataset, factor: Fraction) -> None:
    """Pixel coordinates start with 0 and lie in the middle of pixels (PS3.3 C.8.5.5.1.3)."""
    for keyword in _REGION_STARTS:
        put(region, keyword, round(int(region[keyword].value) * factor))
    for keyword in _REGION_ENDS:
        put(region, keyword, round((int(region[keyword].value) + 1) * factor) - 1)
    for keyword in _REGION_POINTS:
        if keyword in region:
            put(
                region,
                keyword,
                round((int(region[keyword].value) + Fraction(1, 2)) * factor - Fraction(1, 2)),
            )
    for keyword in _REGION_DELTAS:
        if keyword in region:
            put(region, keyword, float(region[keyword].value) / float(factor))
