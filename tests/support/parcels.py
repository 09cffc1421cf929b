"""Spooled files and a destination for them, without journal and services."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from appliance.config.load import load
from appliance.destinations.base import Parcel
from appliance.destinations.dicom import DicomStore
from appliance.dicom.part10 import file_header
from appliance.domain.types import Delivery, Priority, SendResult
from tests.dicom_samples import sample_uid

CT, EXPLICIT, IMPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
_numbers = count(1)


def noise(size: int, seed: int = 0) -> bytes:
    """That many bytes, the same for the same seed."""
    return random.Random(seed).randbytes(size)


def spooled(
    folder: Path,
    data_set: bytes | Path,
    *,
    syntax: str = EXPLICIT,
    sop_class: str = CT,
    uid: str | None = None,
    attempts: int = 1,
    urgent: bool = False,
) -> Parcel:
    """A claimed delivery of a file with this data set (or of this Part-10 file, as it lies)."""
    number = next(_numbers)
    uid = uid or sample_uid("parcel", number)
    if isinstance(data_set, Path):
        file, size = data_set, data_set.stat().st_size
    else:
        header = file_header(
            sop_class_uid=sop_class,
            sop_instance_uid=uid,
            transfer_syntax_uid=syntax,
            source_ae_title="SCANNER",
            receiving_ae_title="EDGE",
            implementation_class_uid="2.25.1",
            implementation_version_name="TEST",
        )
        file, size = folder / f"{number}.dcm", len(data_set)
        file.write_bytes(bytes(128) + header + data_set)
    return Parcel(
        Delivery(
            id=number,
            destination="pacs",
            spool="originals",
            spool_key=file.stem,
            sop_instance_uid=uid,
            sop_class_uid=sop_class,
            transfer_syntax_uid=syntax,
            size=size,
            priority=Priority.URGENT_RESULT if urgent else Priority.ORIGINAL,
            attempts=attempts,
            urgent=urgent,
        ),
        file,
    )


@contextmanager
def destination(
    folder: Path, port: int, *, timeout_s: float = 30.0, host: str = "127.0.0.1", **settings: Any
) -> Iterator[DicomStore]:
    """The destination PACS at `port`; `settings` are more of its section."""
    pacs = {"ae_title": "PACS", "host": host, "port": port, **settings}
    (folder / "site.yaml").write_text(
        yaml.safe_dump(
            {
                "station": {"ae_title": "EDGE"},
                "storage": {"path": "./var"},
                "destinations": {"pacs": pacs},
                "delivery": {"dimse_timeout_s": timeout_s},
            }
        )
    )
    store = DicomStore(load(folder / "site.yaml"), "pacs")
    try:
        yield store
    finally:
        store.rest()


def send(store: DicomStore, parcels: Sequence[Parcel]) -> list[SendResult]:
    """What became of each parcel, in the order in which that became known."""
    results: list[SendResult] = []

    def settle(_parcel: Parcel, result: SendResult) -> bool:
        results.append(result)
        return True

    store.send(parcels, settle)
    return results


def digests(data_sets: Iterable[bytes]) -> list[str]:
    """Their SHA-256."""
    return [hashlib.sha256(data_set).hexdigest() for data_set in data_sets]
