"""Both ends of storage commitment made of pynetdicom: a scanner that asks, and a PACS that a test directs."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydicom import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, build_context, build_role
from pynetdicom.association import Association
from pynetdicom.events import EVT_C_STORE, EVT_N_ACTION, EVT_N_EVENT_REPORT, Event
from pynetdicom.transport import ThreadedAssociationServer

from tests.support.processes import free_port

PUSH_MODEL, INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"


@dataclass(frozen=True)
class Told:
    """An N-EVENT-REPORT: event type, who is committed, and the reasons of the others by UID."""

    transaction_uid: str
    event_type: int
    committed: frozenset[str]
    failures: dict[str, int] = field(hash=False)


def information(transaction_uid: str, uids: Iterable[str], *, sop_class: str = CT) -> Dataset:
    """The data set of a request for these instances."""
    data = Dataset()
    data.TransactionUID = transaction_uid
    data.ReferencedSOPSequence = [_item(uid, sop_class) for uid in uids]
    return data


def _item(uid: str, sop_class: str = CT) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
    return item


class CommitmentScanner:
    """Asks for commitment, and listens for the reports once `listen` was called."""

    def __init__(self, ae_title: str = "SCANNER") -> None:
        self.ae_title = ae_title
        self.port = free_port()
        self.told: queue.Queue[Told] = queue.Queue()
        self.status = 0x0000
        self._server: ThreadedAssociationServer | None = None

    def ask(self, port: int, data: Dataset, *, action_type: int = 1, instance: str = INSTANCE) -> int | None:
        """Send an N-ACTION; its status, or None without an answer."""
        entity = AE(ae_title=self.ae_title)
        entity.add_requested_context(PUSH_MODEL, ImplicitVRLittleEndian)
        association = entity.associate("127.0.0.1", port, ae_title="EDGE")
        assert association.is_established
        response, _ = association.send_n_action(data, action_type, PUSH_MODEL, instance)
        association.release()
        status: int | None = response.get("Status")
        return status

    def listen(self) -> None:
        """Accept reports from here on."""
        entity = AE(ae_title=self.ae_title)
        entity.add_supported_context(PUSH_MODEL, scu_role=True, scp_role=True)
        server = entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(EVT_N_EVENT_REPORT, self._take)]
        )
        assert server is not None
        self._server = server

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _take(self, event: Event) -> tuple[int, None]:
        data = event.event_information
        failed = data.get("FailedSOPSequence", [])
        self.told.put(
            Told(
                str(data.TransactionUID),
                event.event_type or 0,
                frozenset(str(one.ReferencedSOPInstanceUID) for one in data.get("ReferencedSOPSequence", [])),
                {str(one.ReferencedSOPInstanceUID): int(one.FailureReason) for one in failed},
            )
        )
        return self.status, None


class CommittingPacs:
    """Stores everything, and takes requests for commitment; what it reports is up to the test.

    `asked` holds the requests: transaction UID and SOP instance UIDs. With `reports_at_once` it reports
    all committed over the association that it was asked over.
    """

    def __init__(self, ae_title: str = "PACS") -> None:
        self.ae_title = ae_title
        self.port = free_port()
        self.stored: list[str] = []
        self.asked: queue.Queue[tuple[str, list[str]]] = queue.Queue()
        self.status = 0x0000
        self.reports_at_once = False
        self._server: ThreadedAssociationServer | None = None

    def start(self, *, commits: bool = True) -> CommittingPacs:
        """Listen, and offer storage commitment, or not."""
        entity = AE(ae_title=self.ae_title)
        entity.supported_contexts = [build_context(CT)]
        if commits:
            entity.add_supported_context(PUSH_MODEL)
        server = entity.start_server(
            ("127.0.0.1", self.port),
            block=False,
            evt_handlers=[(EVT_C_STORE, self._store), (EVT_N_ACTION, self._act)],
        )
        assert server is not None
        self._server = server
        return self

    def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def report(
        self,
        port: int,
        transaction_uid: str,
        committed: Iterable[str],
        failures: dict[str, int] | None = None,
        *,
        ae_title: str | None = None,
    ) -> int | None:
        """Report over an association of its own; returns the status of the answer."""
        entity = AE(ae_title=ae_title or self.ae_title)
        entity.add_requested_context(PUSH_MODEL)
        association = entity.associate(
            "127.0.0.1", port, ae_title="EDGE", ext_neg=[build_role(PUSH_MODEL, scp_role=True)]
        )
        assert association.is_established
        data = information(transaction_uid, committed)
        if failures:
            data.FailedSOPSequence = [_item(uid) for uid in failures]
            for item, reason in zip(data.FailedSOPSequence, failures.values(), strict=True):
                item.FailureReason = reason
        response, _ = association.send_n_event_report(data, 2 if failures else 1, PUSH_MODEL, INSTANCE)
        association.release()
        status: int | None = response.get("Status")
        return status

    def _store(self, event: Event) -> int:
        self.stored.append(str(event.request.AffectedSOPInstanceUID))  # type: ignore[union-attr]
        return 0x0000

    def _act(self, event: Event) -> tuple[int, None]:
        data = event.action_information
        uids = [str(item.ReferencedSOPInstanceUID) for item in data.ReferencedSOPSequence]
        self.asked.put((str(data.TransactionUID), uids))
        if self.reports_at_once:
            threading.Thread(target=self._report_at_once, args=(event.assoc, data)).start()
        return self.status, None

    @staticmethod
    def _report_at_once(association: Association, data: Dataset) -> None:
        time.sleep(0.3)  # the answer to the request goes first
        association.send_n_event_report(data, 1, PUSH_MODEL, INSTANCE)
