"""Settings of DICOM over TLS (PS3.15 Annex B), in either direction."""

from __future__ import annotations

from pydantic import Field, model_validator

from appliance.config.section import Section
from appliance.config.values import TLS_PORT, Host, Port, ReadableFile


class ListenerTLS(Section):
    """A second port that speaks DICOM over TLS (PS3.15 Annex B)."""

    port: Port = Field(default=TLS_PORT, description="TCP port for DICOM over TLS.")
    certificate: ReadableFile = Field(description="PEM file with the appliance's certificate chain.")
    key: ReadableFile = Field(description="PEM file with the certificate's private key.")
    ca: ReadableFile | None = Field(
        default=None,
        description="PEM file with the authorities that may sign a peer's certificate; "
        "given, every peer must show one. Left out: peers are not asked for a certificate.",
    )


class DestinationTLS(Section):
    """DICOM over TLS to a destination (PS3.15 Annex B), which has to prove who it is."""

    ca: ReadableFile = Field(
        description="PEM file with the authorities that may sign the destination's certificate."
    )
    certificate: ReadableFile | None = Field(
        default=None,
        description="PEM file with the certificate chain that the appliance shows. Left out: none is shown.",
    )
    key: ReadableFile | None = Field(
        default=None, description="PEM file with the certificate's private key; goes with `certificate`."
    )
    name: Host | None = Field(
        default=None,
        description="Host name or address in the destination's certificate, where it is not `host`.",
    )

    @model_validator(mode="after")
    def _certificate_with_key(self) -> DestinationTLS:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        return self
