"""A data set in another transfer syntax, with the same content: for peers that do not take the stored one.

Nothing is lost, so that the object keeps its UID (PS3.3 C.12.1). Values are moved as bytes: text is never
decoded, numbers are never computed with. Only compressed pixel data are decoded, and only lossless ones.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
from pydicom import DataElement, Dataset, config, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.encaps import generate_frames
from pydicom.filebase import DicomIO
from pydicom.filewriter import correct_ambiguous_vr_element, write_dataset
from pydicom.hooks import raw_element_vr
from pydicom.pixels.decoders.base import get_decoder
from pydicom.sequence import Sequence
from pydicom.uid import UID

from appliance.dicom.elements import EXPLICIT_BIG_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from appliance.domain.errors import GiveUp

EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
TARGETS = (EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN)
"""The syntaxes that can be written, the better one first."""

_NATIVE = frozenset(
    {*TARGETS, EXPLICIT_BIG_ENDIAN, "1.2.840.10008.1.2.1.99"}  # the last is deflated
)
_RLE = "1.2.840.10008.1.2.5"
_LOSSLESS = frozenset(
    {
        _RLE,
        "1.2.840.10008.1.2.4.57",  # JPEG lossless
        "1.2.840.10008.1.2.4.70",  # JPEG lossless, first-order prediction
        "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
        "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
        "1.2.840.10008.1.2.4.201",  # HTJ2K lossless
        "1.2.840.10008.1.2.4.202",  # HTJ2K lossless, RPCL
    }
)
_DECODERS = ("pylibjpeg", "pyjpegls", "gdcm")
"""The last one for what nothing else decodes: on some damaged images, it ends its process."""
_UNDEFINED = 0xFFFFFFFF
_PIXEL_DATA, _OFFSETS = 0x7FE00010, (0x7FE00001, 0x7FE00002)
_END_OF_IMAGE = b"\xff\xd9"  # ends a stream of every JPEG family
_WIDTHS = {
    **dict.fromkeys(("AT", "OW", "SS", "US"), 2),
    **dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}
"""Bytes of one number, by value representation; all others are the same in both byte orders."""
_LONGEST_VALUE = 0xFFFFFFFE


def targets(transfer_syntax_uid: str) -> tuple[str, ...]:
    """The syntaxes that a data set in this one can be written in without a loss."""
    return TARGETS if transfer_syntax_uid in _NATIVE | _LOSSLESS else ()


def transcode(source: BinaryIO, target: BinaryIO, transfer_syntax_uid: str) -> None:
    """Write the data set of the Part-10 file `source` in one of `targets` to `target`, and nothing else.

    Decoders may crash on damaged images, and a data set is in memory twice: see `dicom.transcoder`.

    Raises:
        GiveUp: it cannot be done without a loss.
        OSError: a file cannot be read or written.
    """
    modes = config.settings.reading_validation_mode, config.settings.writing_validation_mode
    # Else the parser leaves out what is cut off. No other value than a sequence is looked into.
    config.settings.reading_validation_mode = config.RAISE
    config.settings.writing_validation_mode = config.IGNORE
    try:
        data_set = dcmread(source)
        stored = UID(data_set.file_meta.TransferSyntaxUID)
        if not targets(stored):
            raise GiveUp(f"{stored.name} cannot be converted without a loss")
        implicit = transfer_syntax_uid == IMPLICIT_LITTLE_ENDIAN
        converted = _convert(data_set, [], stored, implicit)
        output = DicomIO(target)
        output.is_implicit_VR, output.is_little_endian = implicit, True
        write_dataset(output, converted)
    except (GiveUp, OSError):
        raise
    except Exception as error:
        # Parser and decoders raise anything on damaged data.
        raise GiveUp(f"the object cannot be decoded: {type(error).__name__}") from error
    finally:
        config.settings.reading_validation_mode, config.settings.writing_validation_mode = modes


def _convert(data_set: Dataset, ancestors: list[Dataset], stored: UID, implicit: bool) -> Dataset:
    """The same elements, as they are to be written in the other encoding."""
    converted = Dataset()
    for tag in sorted(data_set.keys()):
        if tag in _OFFSETS:
            continue
        element = data_set.get_item(tag)
        if tag == _PIXEL_DATA and _is_encapsulated(element):
            converted.update(_decode(data_set, stored))
            continue
        if isinstance(element, RawDataElement):
            vr = element.VR or _representation(element, data_set, ancestors)
            if vr != "SQ":
                value = _little_endian(vr, element, data_set)
                converted[tag] = RawDataElement(tag, vr, len(value), value, 0, implicit, True)
                continue
            element = data_set[tag]
        if element.VR == "SQ":
            items = [_convert(item, [data_set, *ancestors], stored, implicit) for item in element.value]
            element = DataElement(tag, "SQ", Sequence(items))
        converted[tag] = element
    converted.set_original_encoding(implicit, True, converted._character_set)
    return converted


def _is_encapsulated(element: DataElement | RawDataElement) -> bool:
    if isinstance(element, RawDataElement):
        return element.length == _UNDEFINED
    return element.is_undefined_length


def _representation(element: RawDataElement, data_set: Dataset, ancestors: list[Dataset]) -> str:
    """The value representation of an element whose encoding does not tell it."""
    found: dict[str, Any] = {}
    try:
        raw_element_vr(element, found, ds=data_set)
    except KeyError:
        return "UN"
    vr = str(found["VR"])
    if len(vr) > 2:
        ambiguous = DataElement(element.tag, vr, element.value, already_converted=True)
        vr = str(correct_ambiguous_vr_element(ambiguous, data_set, True, [data_set, *ancestors]).VR)
    return vr if len(vr) == 2 else "UN"


def _little_endian(vr: str, element: RawDataElement, data_set: Dataset) -> bytes:
    value = element.value or b""
    if len(value) != element.length:
        raise GiveUp("the object is cut off")
    if element.is_little_endian or not value:
        return value
    if vr == "UN":
        raise GiveUp("the byte order of an element of unknown representation cannot be changed")
    if element.tag == _PIXEL_DATA and data_set.BitsAllocated > 16:
        # Some swap the words of such a pixel as well (PS3.5 7.3 speaks of words only).
        raise GiveUp("the byte order of pixels with more than 16 bits is ambiguous")
    width = _WIDTHS.get(vr, 1)
    if len(value) % width:
        raise GiveUp("the length of an element does not fit its value representation")
    return np.frombuffer(value, f"u{width}").byteswap().tobytes()


def _decode(data_set: Dataset, stored: UID) -> Dataset:
    """Pixel Data without compression, and what describes them differently then."""
    decoder = get_decoder(stored)
    plugin = next((name for name in _DECODERS if name in decoder.available_plugins), None)
    if plugin is None:
        raise GiveUp(f"no decoder for {stored.name} is installed")
    frames = int(data_set.get("NumberOfFrames") or 1)
    if stored != _RLE:
        _check_ends(data_set.PixelData, frames)
    cells = []
    for frame, properties in decoder.iter_array(
        data_set, raw=True, decoding_plugin=plugin, correct_unused_bits=False
    ):
        cells.append(frame.tobytes())
        changes = properties
    samples, bits = int(data_set.SamplesPerPixel), int(data_set.BitsAllocated)
    expected = int(data_set.Rows) * int(data_set.Columns) * samples * frames * (bits // 8)
    if bits % 8 or sum(map(len, cells)) != expected:
        raise GiveUp("the decoded pixels have another size than announced")
    if expected > _LONGEST_VALUE:
        raise GiveUp("the decoded pixels are too long for one element")
    decoded = Dataset()
    value = b"".join([*cells, bytes(expected % 2)])
    decoded[_PIXEL_DATA] = DataElement(_PIXEL_DATA, "OB" if bits == 8 else "OW", value)
    if changes["photometric_interpretation"] != data_set.PhotometricInterpretation:
        decoded.PhotometricInterpretation = changes["photometric_interpretation"]
    if samples > 1:
        decoded.PlanarConfiguration = changes["planar_configuration"]
    return decoded


def _check_ends(encapsulated: bytes, frames: int) -> None:
    """Some decoders make an image of whatever there is of a stream that was cut off."""
    for frame in generate_frames(encapsulated, number_of_frames=frames):
        if not frame.rstrip(b"\0\xff").endswith(_END_OF_IMAGE):
            raise GiveUp("the compressed pixel data are cut off")
