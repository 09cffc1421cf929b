"""Settings of storage commitment, asked of destinations and promised to scanners."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from appliance.config.section import Section
from appliance.config.values import AETitle, Host, Port, Seconds


class ReportTo(Section):
    """Where one scanner listens for the reports of storage commitment."""

    host: Host = Field(description="Host name or address of the scanner.")
    port: Port = Field(description="TCP port of the scanner.")
    ae_title: AETitle | None = Field(
        default=None, description="AE title to call. Left out: the one that the scanner calls with."
    )


class Commitment(Section):
    """Storage commitment, asked of destinations and promised to scanners."""

    gather_s: Seconds = Field(
        default=5.0, description="Seconds for which stored objects are gathered into one request."
    )
    report_timeout_h: Annotated[float, Field(gt=0.0, le=720.0)] = Field(
        default=24.0, description="Hours without a report after which a destination is asked again."
    )
    attempts: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=20,
        description="Times that a destination may say no about an object before it is left to a person. "
        "A restart asks again.",
    )
    report_to: dict[AETitle, ReportTo] = Field(
        default={},
        description="Where scanners listen for reports, by the AE title that they call with. "
        "One that is not listed is told at the address that its request came from.",
    )
    report_port: Port = Field(
        default=104, description="Port of scanners that `report_to` does not list (104 is that of DICOM)."
    )
    unknown_s: Seconds = Field(
        default=60.0,
        description="Seconds after a scanner's request in which images of it may still turn up; then they "
        "are reported as unknown.",
    )
    give_up_h: Annotated[float, Field(gt=0.0, le=720.0)] = Field(
        default=24.0,
        description="Hours after which images that the required destinations do not have are reported as "
        "failed, and again those in which a scanner that cannot be told is tried.",
    )
