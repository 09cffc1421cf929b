"""Derived images: one for every source object, of its class, in its units, with its bit depth.

A changed pixel needs a new SOP Instance UID (PS3.3 C.7.6.1.1.2); everything that describes patient, study,
acquisition and geometry is kept, and what would be stale, private or about the scanner alone is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from pydicom import Dataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)

from appliance.dicom.codes import NOTICE, SOURCE_IMAGE, code_item
from appliance.dicom.frames import has_frames, part_of, whole_of
from appliance.dicom.outcome import Enhanced, Identity
from appliance.dicom.uids import image_series_uid, image_uid
from appliance.dicom.volume import Volume
from appliance.domain.errors import GiveUp
from appliance.results.attributes import (
    acquisition_equipment,
    declare_private_scheme,
    local_time,
    processing_equipment,
    put,
    put_equipment,
    put_moment,
    quiet,
    reference_to,
    source_value,
    text,
)
from appliance.results.grid import change_grid
from appliance.results.kept import kept
from appliance.results.multiframe import derived_type, describe_frames, join_parts, put_evidence
from appliance.results.pixel_data import pixel_cells, put_pixels

_LOSSY = {
    str(JPEGBaseline8Bit): "ISO_10918_1",
    str(JPEGExtended12Bit): "ISO_10918_1",
    str(JPEGLSNearLossless): "ISO_14495_1",
}
"""Transfer syntaxes that always lose something, and Lossy Image Compression Method (0028,2114) for each."""


def derive_images(outcome: Enhanced, volume: Volume, identity: Identity) -> Iterator[Dataset]:
    """One derived image per source object, in the order of the volume.

    Raises:
        GiveUp: the model's voxels do not fit the volume or are not finite.
    """
    same_grid = outcome.voxels.shape == volume.voxels.shape
    if outcome.voxels.ndim != 3 or len(outcome.voxels) != len(volume.voxels):
        raise GiveUp(f"the model returned {outcome.voxels.shape} voxels for {volume.voxels.shape}")
    for indices in _by_object(volume):
        source = volume.sources[indices[0]]
        with quiet():
            image = kept(source, outcome.private, same_grid=same_grid)
            if "ConcatenationUID" in source:
                join_parts(image, list({id(s): s for s in map(volume.sources.__getitem__, indices)}.values()))
            change_grid(image, *outcome.voxels.shape[1:])
            cells = [pixel_cells(outcome.voxels[index], volume, index) for index in indices]
            put_pixels(image, cells[0] if len(cells) == 1 else np.stack(cells))
            if volume.colour is not None:
                put(image, "SamplesPerPixel", 3)
                put(image, "PhotometricInterpretation", "RGB")
                put(image, "PlanarConfiguration", 0)
            _describe(image, source, _sha256(volume, indices), identity, outcome)
            references = [reference_to(volume, index) for index in indices]
            _put_derivation(image, source, outcome, references, same_grid=same_grid, primary=identity.primary)
        yield image


def _by_object(volume: Volume) -> list[list[int]]:
    """The slices of each object, in the order of its frames; the parts of a concatenation are one object."""
    objects: dict[str, list[int]] = {}
    for index, source in enumerate(volume.sources):
        objects.setdefault(whole_of(source), []).append(index)

    def place(index: int) -> tuple[int, int]:
        return part_of(volume.sources[index]), volume.frames[index]

    return [sorted(indices, key=place) for indices in objects.values()]


def _sha256(volume: Volume, indices: list[int]) -> str:
    hashes = [volume.pixel_sha256[index] for index in indices]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _describe(
    image: Dataset, source: Dataset, pixel_sha256: str, identity: Identity, outcome: Enhanced
) -> None:
    moment = local_time(source, identity.created)
    digest = identity.pipeline_digest
    put(image, "SOPInstanceUID", image_uid(str(source.SOPInstanceUID), pixel_sha256, digest))
    put(image, "SeriesInstanceUID", image_series_uid(str(source.SeriesInstanceUID), digest))
    put(image, "SeriesNumber", 9000 + _series_number(source) % 1000)
    _put_series_description(image, source, outcome.prefix)
    put_moment(image, "Series", local_time(source, identity.series_begun or identity.created))
    for name in ("Content", "InstanceCreation"):
        put_moment(image, name, moment)
    contributors = list(source_value(source, "ContributingEquipmentSequence") or ())
    put(
        image,
        "ContributingEquipmentSequence",
        [*contributors, acquisition_equipment(source), processing_equipment(identity, moment)],
    )
    if identity.names_scanner:
        put(image, "InstanceCreatorUID", identity.station.device_uid)
    else:
        put_equipment(image, identity)
    declare_private_scheme(image, outcome.codes)
    put(image, "ContentQualification", "RESEARCH")
    put(image, "ImageComments", NOTICE)
    _remember_loss(image, source)


def _put_derivation(
    image: Dataset,
    source: Dataset,
    outcome: Enhanced,
    references: list[Dataset],
    *,
    same_grid: bool,
    primary: bool,
) -> None:
    description = text(outcome.description, 1024)
    values = source_value(source, "ImageType") or []
    values = [values] if isinstance(values, str) else list(values)
    if "PerFrameFunctionalGroupsSequence" in image:
        image.ImageType = derived_type(values)
        describe_frames(
            image,
            [_derivation(reference, outcome, description, same_grid=same_grid) for reference in references],
        )
        put_evidence(image, source, references)
        return
    if image.SOPClassUID == DigitalXRayImageStorageForPresentation and len(values) < 3:
        values = ["", "", ""]  # value 3 has to be there, if only empty (PS3.3 C.8.11.3.1.1)
    # The source's further values are kept as they are, valid or not.
    image.ImageType = ["DERIVED", "PRIMARY" if primary else "SECONDARY", *values[2:]]
    earlier = str(source_value(source, "DerivationDescription") or "").strip()
    if has_frames(source):  # all of them: the object is named as a whole
        del references[0].ReferencedFrameNumber
    item = _derivation(references[0], outcome, description, same_grid=same_grid)
    for element in item:
        image.add(element)
    if earlier:
        # The source's text keeps its own character set, so it is copied rather than checked.
        image.DerivationDescription = f"{earlier}; {description}"[:1024]


def _derivation(reference: Dataset, outcome: Enhanced, description: str, *, same_grid: bool) -> Dataset:
    """What was done, and to which image: the same attributes in an image and in a functional group."""
    put(reference, "SpatialLocationsPreserved", "YES" if same_grid else "NO")
    put(reference, "PurposeOfReferenceCodeSequence", [code_item(SOURCE_IMAGE)])
    item = Dataset()
    put(item, "DerivationDescription", description)
    put(item, "DerivationCodeSequence", [code_item(code) for code in outcome.codes])
    put(item, "SourceImageSequence", [reference])
    return item


def _remember_loss(image: Dataset, source: Dataset) -> None:
    """An image that once lost something never counts as lossless again (PS3.3 C.7.6.1.1.5)."""
    method = _LOSSY.get(str(source.file_meta.get("TransferSyntaxUID")))
    if method is not None and source_value(source, "LossyImageCompression") != "01":
        put(image, "LossyImageCompression", "01")
        put(image, "LossyImageCompressionMethod", method)


def _put_series_description(image: Dataset, source: Dataset, prefix: str) -> None:
    """A prefix, so that hanging rules that test how a description starts never swap the original."""
    described = str(source_value(source, "SeriesDescription") or "")
    image.SeriesDescription = f"{text(prefix, 16)} {described}"[:64].strip()


def _series_number(source: Dataset) -> int:
    number = source_value(source, "SeriesNumber")
    return int(number) if isinstance(number, int) else 0
