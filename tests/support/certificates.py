"""Certificates for tests of TLS, made with OpenSSL."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.processes import program


def certificates(folder: Path, *names: str, alternative: str = "IP:127.0.0.1") -> None:
    """An authority `ca.pem` and, signed by it, `NAME.pem` with `NAME.key` for each name.

    `alternative` is what the certificates are valid for beside their names (RFC 5280 4.2.1.6).
    """
    extensions = folder / "extensions"
    extensions.write_text(f"subjectAltName = {alternative}\n")
    openssl = program("/usr/bin/openssl", "openssl")

    def run(*arguments: str | Path) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=Test CA")
    for name in names:
        run("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
        run("x509", "-req", "-in", f"{name}.csr", *signing, "-out", f"{name}.pem", "-extfile", extensions)
