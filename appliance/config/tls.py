"""Settings of TLS, in either direction; for DICOM, that of PS3.15 Annex B."""

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
    """TLS to a system that the appliance calls, which has to prove who it is (for DICOM, PS3.15 Annex B)."""

    ca: ReadableFile = Field(
        description="PEM file with the authorities that may sign the certificate of the other side."
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
        description="Host name or address in the certificate of the other side, where it is not `host`.",
    )

    @model_validator(mode="after")
    def _certificate_with_key(self) -> DestinationTLS:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        return self
