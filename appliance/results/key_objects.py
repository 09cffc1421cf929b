"""The key image of a positive finding as a Key Object Selection, which most viewers show as a star."""

from __future__ import annotations

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from pydicom import Dataset
from pydicom.sr.codedict import codes

from appliance.dicom.codes import NOTICE, NOTICE_SHORT
from appliance.dicom.outcome import Findings, Identity
from appliance.dicom.uids import result_series_uid, result_uid
from appliance.dicom.volume import Volume
from appliance.results.attributes import (
    copy_patient_and_study,
    put,
    put_origin,
    quiet,
    reference_to,
    revised_number,
    revised_text,
    text,
)
from appliance.results.content import evidence, observer

SERIES_NUMBER = 9105


def key_object_selection(outcome: Findings, volume: Volume, identity: Identity) -> Dataset:
    """The selection (TID 2010), titled (113000, DCM, "Of Interest")."""
    source = volume.sources[outcome.key_slice]
    series = str(source.SeriesInstanceUID)
    digest, edition = identity.pipeline_digest, identity.edition
    key = evidence([source])
    with quiet():
        put(key[0], "Rows", source.Rows)
        put(key[0], "Columns", source.Columns)
        content = KeyObjectSelection(
            document_title=codes.DCM.OfInterest,
            referenced_objects=key,
            observer_device_context=observer(identity.station),
            description=text(f"Suspected: {outcome.finding.meaning}. {NOTICE}", 1024),
        )
        content[0].ContentSequence[-1].ReferencedSOPSequence = [reference_to(volume, outcome.key_slice)]
        selection = KeyObjectSelectionDocument(
            evidence=key,
            content=content,
            series_instance_uid=result_series_uid("ko", series, digest, edition),
            series_number=revised_number(SERIES_NUMBER, identity.revision),
            sop_instance_uid=result_uid("ko", series, volume.pixel_sha256, digest, edition),
            instance_number=1,
            manufacturer=text(identity.station.manufacturer, 64),
            series_description=revised_text(NOTICE_SHORT, identity),
        )
        copy_patient_and_study(source, selection)
        put_origin(selection, source, identity)
    return selection
