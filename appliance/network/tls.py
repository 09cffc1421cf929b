"""TLS as PS3.15 B.12 and BCP 195 want it: version 1.2 or newer, in either role."""

from __future__ import annotations

import ssl
from pathlib import Path

from appliance.config.tls import DestinationTLS
from appliance.domain.errors import Misconfigured


def server_context(certificate: Path, key: Path, ca: Path | None) -> ssl.SSLContext:
    """For a port; with `ca`, peers must show a certificate that it signed.

    Raises:
        Misconfigured: a file does not fit the others.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _configure(context, "listener.tls", certificate, key, ca)
    if ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(setting: str, files: DestinationTLS | None) -> ssl.SSLContext | None:
    """For connections to a destination, whose certificate must be for the name that is called.

    `setting` is where the files are named, for the message. None if no TLS is wanted.

    Raises:
        Misconfigured: a file does not fit the others.
    """
    if files is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _configure(context, setting, files.certificate, files.key, files.ca)
    return context


def public_context() -> ssl.SSLContext:
    """For connections to a server that an authority of this machine vouches for."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _configure(
    context: ssl.SSLContext, setting: str, certificate: Path | None, key: Path | None, ca: Path | None
) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if certificate is not None:
            context.load_cert_chain(certificate, key)
        if ca is not None:
            context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured([f"{setting}: the certificate, key or ca cannot be used: {error}"]) from error
