"""What derived multi-frame CT and MR say in their functional groups (PS3.3 C.7.6.16)."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import Dataset

from appliance.results.attributes import put, readable_element

_PARTS = (
    "ConcatenationUID",
    "InConcatenationNumber",
    "InConcatenationTotalNumber",
    "ConcatenationFrameOffsetNumber",
)
_FRAME_TYPES = ("CTImageFrameTypeSequence", "MRImageFrameTypeSequence")


def describe_frames(image: Dataset, derivations: Sequence[Dataset]) -> None:
    """Say of each frame that it is derived, and by which item of Derivation Image Sequence.

    Groups stay where the source has them, shared or per frame; only the derivation becomes per frame.
    """
    shared = (
        image.SharedFunctionalGroupsSequence[0] if image.get("SharedFunctionalGroupsSequence") else Dataset()
    )
    frames = image.PerFrameFunctionalGroupsSequence
    for group in (shared, *frames):
        for keyword in _FRAME_TYPES:
            for item in group.get(keyword) or ():
                item.FrameType = derived_type(item.get("FrameType"))
    earlier = list(shared.get("DerivationImageSequence") or ())
    if earlier:
        del shared.DerivationImageSequence
    for group, derivation in zip(frames, derivations, strict=True):
        own = list(group.get("DerivationImageSequence") or ())
        put(group, "DerivationImageSequence", [*earlier, *own, derivation])


def derived_type(values: object) -> list[str]:
    """Image Type or Frame Type of a derived object: PRIMARY is the only word for value 2 (C.8.16.1.2)."""
    words = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else []
    return ["DERIVED", "PRIMARY", *(str(word) for word in words[2:])]


def join_parts(image: Dataset, parts: Sequence[Dataset]) -> None:
    """Make `image`, a copy of the first part of a concatenation, the whole: what we make is one object."""
    for part in parts[1:]:
        element = readable_element(part, 0x52009230)
        image.PerFrameFunctionalGroupsSequence.extend([] if element is None else element.value)
    put(image, "NumberOfFrames", len(image.PerFrameFunctionalGroupsSequence))
    for keyword in _PARTS:
        if keyword in image:
            delattr(image, keyword)


def put_evidence(image: Dataset, source: Dataset, references: Sequence[Dataset]) -> None:
    """List the objects of the source's series that the frames refer to (PS3.3 C.8.13.1, C.8.15.2)."""
    objects: dict[str, Dataset] = {}
    for reference in references:
        item = objects.setdefault(str(reference.ReferencedSOPInstanceUID), Dataset())
        put(item, "ReferencedSOPClassUID", str(reference.ReferencedSOPClassUID))
        put(item, "ReferencedSOPInstanceUID", str(reference.ReferencedSOPInstanceUID))
    series = Dataset()
    put(series, "SeriesInstanceUID", str(source.SeriesInstanceUID))
    put(series, "ReferencedSOPSequence", list(objects.values()))
    study = Dataset()
    put(study, "StudyInstanceUID", str(source.StudyInstanceUID))
    put(study, "ReferencedSeriesSequence", [series])
    put(image, "SourceImageEvidenceSequence", [*(image.get("SourceImageEvidenceSequence") or ()), study])
