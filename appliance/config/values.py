"""Kinds of value that a setting may have, each with the sentence that a wrong one gets."""

from __future__ import annotations

import hashlib
import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema

EVERY_ADDRESS = frozenset({"0.0.0.0", "::"})
TLS_PORT = 2762  # PS3.15 section B.1: the registered port of DICOM over TLS
DEFAULT_QUIET_S = {"default": 10.0, "MR": 30.0, "US": 60.0}


def _port(value: object) -> object:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise ValueError(f"{value!r} is not a valid port")
    return value


def _ae_title(value: object) -> object:
    # PS3.5 section 6.2, VR AE: at most 16 printable ASCII characters without backslash; spaces at the
    # ends carry no meaning and a title of spaces only is not one.
    if not isinstance(value, str) or not re.fullmatch(r"(?! *$)[ -\[\]-~]{1,16}", value):
        raise ValueError(
            f"{value!r} is not a valid AE title (1 to 16 printable ASCII characters, no backslash)"
        )
    return value.strip(" ")


def _host(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_.:%-]+", value):
        raise ValueError(f"{value!r} is not a valid host name or address")
    return value


def _url(value: object) -> object:
    if not (isinstance(value, str) and value.isascii() and _is_web_address(value)):
        raise ValueError(f"{value!r} is not a valid address, such as https://ris.example/findings")
    return value


def _is_web_address(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.username is None
            and parts.port != 0
            and not re.search(r"[\s#]", value)
        )
    except ValueError:  # a port that is no number
        return False


def _network(value: object) -> IPv4Network | IPv6Network:
    try:
        return ip_network(str(value))
    except ValueError as error:
        raise ValueError(f"{value!r} is not a valid network in CIDR form, such as 10.1.0.0/16") from error


def _time_zone(value: object) -> object:
    try:
        if value != "":
            ZoneInfo(str(value))
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{value!r} is not a valid time zone, such as Europe/Berlin") from error
    return value


def _path(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str | Path) or str(value) == "":
        raise ValueError(f"{value!r} is not a valid path")
    folder = info.context["folder"] if info.context else Path.cwd()
    return (folder / Path(value).expanduser()).resolve()


def _readable_file(value: object, info: ValidationInfo) -> Path:
    path = _path(value, info)
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise ValueError(f"{value} cannot be read: {error.strerror}") from error


def _quiet(value: object) -> object:
    return {**DEFAULT_QUIET_S, **value} if isinstance(value, dict) else value


def stable_serial() -> str:
    """A serial number that stays the same on this machine and does not reveal the machine's own id."""
    try:
        identity = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except OSError:
        identity = Path("/proc/sys/kernel/hostname").read_text(encoding="utf-8").strip()
    # machine-id(5): never show the id itself, only a keyed hash of it.
    return hashlib.sha256(f"edge-inference-appliance:{identity}".encode()).hexdigest()[:12].upper()


Port = Annotated[int, Field(ge=1, le=65535), BeforeValidator(_port)]
AETitle = Annotated[str, Field(min_length=1, max_length=16), BeforeValidator(_ae_title)]
Host = Annotated[str, Field(min_length=1), BeforeValidator(_host)]
Url = Annotated[str, BeforeValidator(_url)]
TimeZone = Annotated[str, BeforeValidator(_time_zone)]
Network = Annotated[
    IPv4Network | IPv6Network,
    BeforeValidator(_network),
    WithJsonSchema({"type": "string", "description": "a network in CIDR form"}),
]
PathSetting = Annotated[Path, BeforeValidator(_path)]
ReadableFile = Annotated[Path, BeforeValidator(_readable_file)]
Seconds = Annotated[float, Field(ge=0.0, le=86400.0)]
QuietSeconds = Annotated[dict[str, Annotated[float, Field(ge=0.5, le=3600.0)]], BeforeValidator(_quiet)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]
