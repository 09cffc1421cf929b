"""A finding as a JSON document, for systems that are told over HTTP."""

from __future__ import annotations

import json
from typing import Any

from appliance.dicom.codes import NOTICE
from appliance.dicom.outcome import Code
from appliance.results.notification import Notification

FORMAT = "edge-inference-appliance/finding/1"
"""Raised whenever a receiver would have to read the document in another way."""


def finding_document(told: Notification, message_uid: str, *, identifiers: bool) -> bytes:
    """The document, in UTF-8. Only with `identifiers` does it say who the patient is."""
    report = told.uid if told.report_series_instance_uid else None
    document: dict[str, Any] = {
        "format": FORMAT,
        "id": message_uid,
        "created": told.created.isoformat(timespec="milliseconds"),
        "outcome": told.verdict,
        "finding": _code(told.finding),
        "category": _code(told.urgency) if told.positive else None,
        "act_within": told.acts_within,
        "score": round(told.score, 4),
        "threshold": round(told.threshold, 4),
        "score_is_probability": told.calibrated,
        "preliminary": True,
        "notice": NOTICE,
        "study": {
            "study_instance_uid": told.study_instance_uid,
            "accession_number": told.order.accession_number,
        },
        "series": {
            "series_instance_uid": told.series_instance_uid,
            "modality": told.modality,
            "images": len(told.images),
            "revision": told.revision,
            "early": told.early,
            "key_sop_instance_uid": told.key_image.sop_instance_uid,
        },
        "report_sop_instance_uid": report,
        "model": {
            "id": told.model.id,
            "version": told.model.version,
            "title": told.model.title,
            "sha256": told.model.sha256,
        },
        "station": {"ae_title": told.station.ae_title, "device_uid": told.station.device_uid},
    }
    if identifiers:
        patient = told.patient
        document["patient"] = {
            "id": patient.id,
            "issuer": patient.issuer,
            "name": patient.name,
            "birth_date": patient.birth_date,
            "sex": patient.sex,
        }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _code(code: Code) -> dict[str, str]:
    return {"value": code.value, "scheme": code.scheme, "meaning": code.meaning}
