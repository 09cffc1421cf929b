"""Peers made of pynetdicom, for what DCMTK's programs cannot do.

A scanner that sends the bytes of files verbatim, with answers and refusals to look at, and a PACS that
takes every syntax.
"""

from __future__ import annotations

import hashlib
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID
from pynetdicom import AE, build_context
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import split_dataset
from pynetdicom.events import EVT_C_STORE, EVT_CONN_OPEN, EVT_REQUESTED, Event
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import Verification, register_uid, uid_to_service_class  # type: ignore[attr-defined]

from tests.support.processes import free_port
from tools.demonstrate.scanner import keep_responses


def data_set(path: Path) -> bytes:
    """The encoded data set of a Part-10 file, without file meta information."""
    _, offset = split_dataset(path)
    return path.read_bytes()[offset:]


def data_set_sha256(path: Path) -> str:
    """SHA-256 of `data_set(path)`."""
    return hashlib.sha256(data_set(path)).hexdigest()


@dataclass(frozen=True)
class Answer:
    """A C-STORE response, or status None where there was none."""

    status: int | None
    comment: str
    offending_element: int | None


class Scanner:
    """One open association; its contexts fit the `files` that it was opened for."""

    def __init__(self, association: Association) -> None:
        self.association = association
        self._messages = 0

    def store(self, path: Path) -> Answer:
        """Send one file as it lies; the UIDs of the request are those of its file meta information."""
        self._messages += 1
        response = self.association.send_c_store(path, msg_id=self._messages)
        return Answer(
            response.get("Status"), response.get("ErrorComment", ""), response.get("OffendingElement")
        )


def associate(
    port: int, files: Iterable[Path] = (), *, called: str = "EDGE", calling: str = "SCANNER"
) -> Association:
    """Ask for an association with one context for each SOP class and syntax; it may be refused."""
    contexts = {("1.2.840.10008.1.1", "1.2.840.10008.1.2")}
    for path in files:
        meta = read_file_meta_info(path)
        contexts.add((meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID))
    entity = AE(ae_title=calling)
    entity.dimse_timeout = entity.acse_timeout = 30
    entity.maximum_pdu_size = 131072
    association = entity.associate(
        "127.0.0.1",
        port,
        contexts=[build_context(*context) for context in sorted(contexts)],
        ae_title=called,
        evt_handlers=[(EVT_CONN_OPEN, _send_at_once)],
    )
    keep_responses(association)
    return association


@contextmanager
def scanner(port: int, files: Iterable[Path]) -> Iterator[Scanner]:
    """An association for `files`, released at the end; it must be accepted."""
    association = associate(port, files)
    assert association.is_established
    try:
        yield Scanner(association)
    finally:
        association.release()


def send_verbatim(files: Iterable[Path], port: int) -> None:
    """Send every file byte for byte; each must be stored."""
    paths = list(files)
    with scanner(port, paths) as sender:
        refused = {path.name: answer for path in paths if (answer := sender.store(path)).status != 0}
    assert not refused


def refusal(association: Association) -> tuple[int, int, int] | None:
    """Result, source and reason with which an association was rejected (PS3.8 table 9-21)."""
    if not association.is_rejected:
        return None
    answer = association.acceptor.primitive
    assert answer is not None
    return answer.result or 0, answer.result_source or 0, answer.diagnostic or 0


class AnySyntaxPacs:
    """A storage SCP that accepts whatever is proposed, and counts by SHA-256 what arrives.

    `answer(uid)` is the status for an object; one that is neither success nor warning does not count.
    """

    def __init__(self, answer: Callable[[str], int] = lambda _: 0x0000) -> None:
        self.port = free_port()
        self.arrived: Counter[str] = Counter()
        self._answer = answer
        entity = AE(ae_title="PACS")
        entity.add_supported_context(Verification)
        self._server = entity.start_server(
            ("127.0.0.1", self.port),
            block=False,
            evt_handlers=[
                (EVT_CONN_OPEN, _send_at_once),
                (EVT_REQUESTED, self._accept),
                (EVT_C_STORE, self._store),
            ],
        )

    def _accept(self, event: Event) -> None:
        proposed: dict[UID, list[str]] = {}
        request = event.assoc.requestor.primitive
        assert request is not None
        for context in request.presentation_context_definition_list:
            assert context.abstract_syntax is not None
            proposed.setdefault(context.abstract_syntax, []).extend(context.transfer_syntax)
        for abstract in proposed:
            if uid_to_service_class(abstract) is ServiceClass:
                register_uid(abstract, f"Test_{abstract.replace('.', '_')}", StorageServiceClass)
        event.assoc.acceptor.supported_contexts = [build_context(*entry) for entry in proposed.items()]

    def _store(self, event: Event) -> int:
        request = event.request
        assert isinstance(request, C_STORE)
        status = self._answer(str(request.AffectedSOPInstanceUID))
        if status == 0x0000 or 0xB000 <= status <= 0xBFFF:
            self.arrived[hashlib.sha256(event.encoded_dataset(include_meta=False)).hexdigest()] += 1
        return status

    def stop(self) -> None:
        """Stop listening."""
        assert self._server is not None
        self._server.shutdown()


def same_elements(one: Dataset, other: Dataset) -> list[str]:
    """Tags in which two data sets differ; group lengths and trailing padding do not count."""
    differing = []
    for tag in sorted({*one.keys(), *other.keys()}):
        if tag.element == 0 or tag == 0xFFFCFFFC:
            continue
        if tag not in one or tag not in other or one[tag] != other[tag]:
            differing.append(str(tag))
    return differing


def _send_at_once(event: Event) -> None:
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
