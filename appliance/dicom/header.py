"""The header contract: what the appliance knows of an image without looking at its pixels."""

from __future__ import annotations

import json
import math
import mmap
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from appliance.dicom.elements import Buffer, Elements, read_elements, split_file
from appliance.domain.errors import GiveUp

CANNOT_UNDERSTAND = 0xC000
"""DIMSE status of a data set without identifiers (PS3.4 Table B.2-1)."""

_TAGS = {
    "image_type": 0x00080008,
    "instance_creator_uid": 0x00080014,
    "sop_class_uid": 0x00080016,
    "sop_instance_uid": 0x00080018,
    "modality": 0x00080060,
    "presentation_intent": 0x00080068,
    "station_name": 0x00081010,
    "body_part": 0x00180015,
    "slice_thickness": 0x00180050,
    "echo_time": 0x00180081,
    "study_instance_uid": 0x0020000D,
    "series_instance_uid": 0x0020000E,
    "series_number": 0x00200011,
    "acquisition_number": 0x00200012,
    "instance_number": 0x00200013,
    "image_position": 0x00200032,
    "image_orientation": 0x00200037,
    "frame_of_reference_uid": 0x00200052,
    "temporal_position": 0x00200100,
    "images_in_acquisition": 0x00201002,
    "number_of_frames": 0x00280008,
    "rows": 0x00280010,
    "columns": 0x00280011,
    "pixel_spacing": 0x00280030,
}
_WANTED = frozenset(_TAGS.values())
_LAST = max(_WANTED)
# Holds the header of nearly every image; reading it costs a tenth of mapping the file.
HEAD_BYTES = 64 * 1024
_JSON = json.JSONEncoder(separators=(",", ":"))
_IDENTIFIERS = ("sop_class_uid", "sop_instance_uid", "study_instance_uid", "series_instance_uid")


@dataclass(frozen=True)
class Facts:
    """What decides where an image belongs and who may look at it. Holds no patient attribute.

    Lengths are in mm, `echo_time` in ms. `pixel_spacing` is (between rows, between columns);
    `image_position` and `image_orientation` are in the patient coordinate system (PS3.3 C.7.6.2).
    A value that is absent or cannot be read is None, or empty if it is text.
    """

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    modality: str = ""
    image_type: tuple[str, ...] = ()
    body_part: str = ""
    presentation_intent: str = ""
    station_name: str = ""
    instance_creator_uid: str = ""
    frame_of_reference_uid: str = ""
    rows: int | None = None
    columns: int | None = None
    number_of_frames: int = 1
    pixel_spacing: tuple[float, ...] | None = None
    image_position: tuple[float, ...] | None = None
    image_orientation: tuple[float, ...] | None = None
    slice_thickness: float | None = None
    echo_time: float | None = None
    temporal_position: int | None = None
    series_number: int | None = None
    acquisition_number: int | None = None
    images_in_acquisition: int | None = None
    instance_number: int | None = None

    def to_json(self) -> str:
        """One line of JSON, from which `from_json` makes an equal object."""
        # Called for every image: dataclasses.asdict() would copy each value.
        return _JSON.encode(vars(self))

    @classmethod
    def from_json(cls, text: str) -> Facts:
        """The facts that `to_json` wrote. Names that this version does not know are left out.

        Raises:
            ValueError: the text is not JSON.
        """
        known = {field.name for field in fields(cls)}
        stored: dict[str, Any] = json.loads(text)
        values: dict[str, Any] = {name: stored[name] for name in stored if name in known}
        values.update({name: tuple(v) for name, v in values.items() if isinstance(v, list)})
        return cls(**values)


def facts_of_head(head: bytes, transfer_syntax_uid: str) -> Facts | None:
    """The facts of the data set that begins with `head`, or None if they may lie further on.

    Raises:
        GiveUp: as `read_facts`.
    """
    elements = _elements(head, transfer_syntax_uid)
    return _facts(elements) if elements.complete else None


def read_facts(source: bytes | Path, transfer_syntax_uid: str | None = None) -> Facts:
    """Read the facts of one image.

    `source` is a Part-10 file, by path or content, or, with its `transfer_syntax_uid`, a data set
    without group 2 as it came over the network. The rest of the data set may be cut off or odd.

    Raises:
        GiveUp: no SOP class, SOP instance, study or series UID can be read (status 0xC000).
        OSError: the file cannot be opened.
    """
    if isinstance(source, bytes):
        return _facts(_elements(source, transfer_syntax_uid))
    with source.open("rb", buffering=0) as file:
        head = file.read(HEAD_BYTES)
        elements = _elements(head, transfer_syntax_uid)
        if not elements.complete and len(head) == HEAD_BYTES:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                elements = _elements(data, transfer_syntax_uid)
    return _facts(elements)


def _elements(data: Buffer, transfer_syntax_uid: str | None) -> Elements:
    start = 0
    if transfer_syntax_uid is None:
        start, transfer_syntax_uid = split_file(data)
    return read_elements(data, transfer_syntax_uid, _WANTED, _LAST, start=start)


def _facts(elements: Elements) -> Facts:
    identifiers = {name: elements.text(_TAGS[name]) for name in _IDENTIFIERS}
    missing = [name for name, value in identifiers.items() if not value]
    if missing:
        raise GiveUp(f"the data set has no readable {', '.join(missing)}", status=CANNOT_UNDERSTAND)
    frames = _whole(elements, "number_of_frames")
    return Facts(
        **identifiers,
        modality=elements.text(_TAGS["modality"]),
        image_type=elements.texts(_TAGS["image_type"]),
        body_part=elements.text(_TAGS["body_part"]),
        presentation_intent=elements.text(_TAGS["presentation_intent"]),
        station_name=elements.text(_TAGS["station_name"]),
        instance_creator_uid=elements.text(_TAGS["instance_creator_uid"]),
        frame_of_reference_uid=elements.text(_TAGS["frame_of_reference_uid"]),
        rows=elements.unsigned_short(_TAGS["rows"]),
        columns=elements.unsigned_short(_TAGS["columns"]),
        number_of_frames=1 if frames is None else frames,
        pixel_spacing=_numbers(elements, "pixel_spacing", 2),
        image_position=_numbers(elements, "image_position", 3),
        image_orientation=_numbers(elements, "image_orientation", 6),
        slice_thickness=_number(elements, "slice_thickness"),
        echo_time=_number(elements, "echo_time"),
        temporal_position=_whole(elements, "temporal_position"),
        series_number=_whole(elements, "series_number"),
        acquisition_number=_whole(elements, "acquisition_number"),
        images_in_acquisition=_whole(elements, "images_in_acquisition"),
        instance_number=_whole(elements, "instance_number"),
    )


def _numbers(elements: Elements, name: str, count: int) -> tuple[float, ...] | None:
    """Exactly `count` finite decimal strings, or None."""
    try:
        values = tuple(float(text) for text in elements.texts(_TAGS[name]))
    except ValueError:
        return None
    return values if len(values) == count and all(map(math.isfinite, values)) else None


def _number(elements: Elements, name: str) -> float | None:
    try:
        value = float(elements.text(_TAGS[name]))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _whole(elements: Elements, name: str) -> int | None:
    value = _number(elements, name)
    return None if value is None else int(value)
