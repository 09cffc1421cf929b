"""Where commitment comes in: who is let in, and what odd messages lead to."""

from __future__ import annotations

import socket
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom.dsutils import encode
from pynetdicom.events import Event

from appliance.config.load import load
from appliance.config.schema import Config
from appliance.domain.commitment import CommitmentReport, CommitmentRequest
from appliance.domain.errors import Misconfigured, TryAgain
from appliance.domain.types import Origin
from appliance.network.acceptor import TEMPORARY_CONGESTION
from appliance.network.commitment import answer_report, answer_request, report_commitment
from appliance.network.requestor import Peer
from appliance.services.receiving.indexing import Indexer
from appliance.services.receiving.receive import Receiver
from appliance.services.storage import Storage

CT = "1.2.840.10008.5.1.4.1.1.2"


def site(folder: Path, *, accept: str = "*", free_mb: int = 0) -> Config:
    """An appliance whose PACS is to commit."""
    address = {"host": "127.0.0.1", "port": 4242}
    path = folder / "site.yaml"
    settings = {
        "station": {"ae_title": "EDGE"},
        "listener": {"accept": [{"ae_title": accept, "networks": ["127.0.0.0/8"]}]},
        "storage": {"path": "./var", "durability": "os", "minimum_free_mb": free_mb},
        "destinations": {"pacs": {"ae_title": "PACS", **address, "commitment": True}},
    }
    path.write_text(yaml.safe_dump(settings))
    return load(path)


def test_a_destination_that_is_to_commit_has_to_be_let_in(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"destinations\.pacs\.commitment.*lets PACS report"):
        site(tmp_path, accept="SCANNER")
    assert site(tmp_path, accept="PACS").duties["pacs"].commits


def test_a_full_disk_keeps_scanners_out_but_not_the_reports_that_make_room(tmp_path: Path) -> None:
    config = site(tmp_path, free_mb=2**40)
    storage = Storage(config)
    indexer = Indexer(config, storage.journal, storage.originals)
    receiver = Receiver(config, storage, indexer, "receive")
    assert receiver.admit(Origin("SCANNER", "EDGE", "127.0.0.1"), []) is TEMPORARY_CONGESTION
    assert receiver.admit(Origin("PACS", "EDGE", "127.0.0.1"), []) is None
    storage.journal.close()


class Message:
    """What the library hands on of an N-ACTION or N-EVENT-REPORT."""

    def __init__(self, data: Dataset, kind: int = 1) -> None:
        self.action_information = self.event_information = data
        self.action_type = self.event_type = kind
        self.request = self
        self.RequestedSOPInstanceUID = UID("1.2.840.10008.1.20.1.1")


def item(uid: str, reason: int | None = None) -> Dataset:
    one = Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID = CT, uid
    if reason is not None:
        one.FailureReason = reason
    return one


def information(**sequences: list[Dataset]) -> Dataset:
    data = Dataset()
    data.TransactionUID = "1.2.3"
    for keyword, items in sequences.items():
        setattr(data, keyword, items)
    return data


def event(data: Dataset, kind: int = 1) -> Event:
    message: Any = Message(data, kind)
    return message  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_uids_that_break_the_rules_can_be_asked_for() -> None:
    taken: list[CommitmentRequest] = []
    data = information(ReferencedSOPSequence=[item("1.2.03"), item("9" * 70)])
    assert encode(data, is_implicit_vr=False, is_little_endian=True) is not None
    reply, _ = answer_request(event(data), taken.append)
    assert reply.Status == 0x0000
    assert [one.sop_instance_uid for one in taken[0].references] == ["1.2.03", "9" * 70]


def test_a_failure_without_a_reason_is_a_failure() -> None:
    taken: list[CommitmentReport] = []
    data = information(ReferencedSOPSequence=[item("1.1")], FailedSOPSequence=[item("1.2")])
    reply, _ = answer_report(event(data, 2), taken.append)
    assert reply.Status == 0x0000
    assert taken == [CommitmentReport("1.2.3", frozenset({"1.1"}), {"1.2": 0x0110})]


def test_an_unknown_event_is_told_so() -> None:
    reply, _ = answer_report(event(information(), 3), lambda _report: None)
    assert reply.Status == 0x0113


def test_a_journal_that_cannot_be_written_is_no_success() -> None:
    def fail(_request: CommitmentRequest) -> None:
        raise TryAgain("the journal is locked")

    reply, _ = answer_request(event(information(ReferencedSOPSequence=[item("1.1")])), fail)
    assert (reply.Status, reply.ErrorComment) == (0x0110, "the journal is locked")


@pytest.mark.parametrize("title", ["BAD\\TITLE", "LINE\nBREAK", "\u00dcBER", "", "SEVENTEEN LETTERS"])
def test_a_scanner_whose_title_cannot_be_called_is_tried_like_one_that_is_away(title: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = Peer(title, "127.0.0.1", server.getsockname()[1], "EDGE", 1.0)
        with pytest.raises(TryAgain):
            report_commitment(peer, CommitmentReport("1.2.3", frozenset(), {}), [])


def test_a_data_set_that_cannot_be_read_is_no_success() -> None:
    class Broken(Message):
        @property
        def action_information(self) -> Dataset:
            raise ValueError("odd bytes")

        @action_information.setter
        def action_information(self, value: Dataset) -> None:
            pass

    broken: Any = Broken(Dataset())
    reply, _ = answer_request(broken, lambda _request: None)
    assert reply.Status == 0x0110
