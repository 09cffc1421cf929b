"""What a triage model found in a small synthetic series, as the facts that messages are made of."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

from appliance.dicom.outcome import Code
from appliance.results.notification import Image, Notification, Order, Patient
from tests.result_samples import ACR_1, HAEMORRHAGE, IDENTITY

NOTIFICATION = Notification(
    uid="2.25.77",
    positive=True,
    finding=HAEMORRHAGE,
    urgency=ACR_1,
    score=0.9312,
    threshold=0.62,
    calibrated=False,
    created=datetime(2026, 1, 2, 11, 30, 15, 250000, tzinfo=timezone(timedelta(hours=1))),
    revision=1,
    early=False,
    station=IDENTITY.station,
    model=IDENTITY.model,
    patient=Patient("SYNTHETIC-1", "SITE", "Sample^Synthetic^Middle^Dr^Jr", "19700101", "O"),
    order=Order("ACC1", "PLACER1", "FILLER1", "RP1", Code("CTHEAD", "99SITE", "CT of the head")),
    study_instance_uid="1.2.3",
    series_instance_uid="1.2.3.0",
    modality="CT",
    images=(Image("1.2.840.10008.5.1.4.1.1.2", "1.2.3.0.1"), Image("1.2.840.10008.5.1.4.1.1.2", "1.2.3.0.2")),
    key_image=Image("1.2.840.10008.5.1.4.1.1.2", "1.2.3.0.2"),
    report_series_instance_uid="1.2.3.9",
)
NEGATIVE = replace(NOTIFICATION, positive=False, score=0.052)
