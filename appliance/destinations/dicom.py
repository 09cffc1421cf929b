"""A DICOM storage SCP: the PACS."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from appliance.config.schema import Config
from appliance.destinations.base import Parcel
from appliance.destinations.statuses import judge
from appliance.dicom.elements import split_file
from appliance.domain.errors import TryAgain
from appliance.domain.types import Postponed, Refused, SendResult
from appliance.network.reception import StoreRequest
from appliance.network.requestor import MAXIMUM_CONTEXTS, NothingAccepted, echo, peer_of
from appliance.network.sending import Context, OutcomeUnknown, StoreAssociation

_HEADER_BYTES = 16 * 1024

_log = logging.getLogger(__name__)


class DicomStore:
    """Sends by C-STORE, on one association that is kept open for the next batch."""

    def __init__(self, config: Config, name: str) -> None:
        self._peer = peer_of(config, name)
        self._association: StoreAssociation | None = None

    def send(self, parcels: Sequence[Parcel], settle: Callable[[Parcel, SendResult], bool]) -> None:
        """See `Destination.send`. The files go out as they lie, in the syntax that they were stored in."""
        for batch in _batches(parcels):
            if not self._send_batch(batch, settle):
                return

    def probe(self) -> None:
        """See `Destination.probe`: C-ECHO (PS3.4 A.4)."""
        echo(self._peer)

    def rest(self) -> None:
        """See `Destination.rest`: releases the association."""
        if self._association is not None:
            self._association.close()
            self._association = None

    def _send_batch(self, batch: Sequence[Parcel], settle: Callable[[Parcel, SendResult], bool]) -> bool:
        """Whether the caller wants more to be sent."""
        waiting = deque(batch)
        reused = self._is_usable_for(batch)
        while waiting:
            try:
                association = self._association if reused else None
                association = association or self._open(batch)
            except NothingAccepted:
                return all(settle(parcel, _unacceptable(parcel)) for parcel in waiting)
            with association:
                if not self._send_on(association, waiting, settle, reused=reused):
                    return False
            reused = False
        return True

    def _send_on(
        self,
        association: StoreAssociation,
        waiting: deque[Parcel],
        settle: Callable[[Parcel, SendResult], bool],
        *,
        reused: bool,
    ) -> bool:
        """Send what waits while the association lasts; whether the caller wants more to be sent."""
        while waiting and not association.has_ended:
            try:
                result = _store(association, waiting[0])
            except OutcomeUnknown as error:
                if reused and error.gone:
                    # It had ended while there was nothing to send: no failure of this object.
                    return True
                if settle(waiting[0], Postponed(str(error))):
                    raise TryAgain(f"{self._peer}: {error}") from error
                return False
            reused = False
            if not settle(waiting.popleft(), result):
                return False
        return True

    def _is_usable_for(self, batch: Iterable[Parcel]) -> bool:
        association = self._association
        return (
            association is not None and not association.has_ended and _contexts(batch) <= association.proposed
        )

    def _open(self, batch: Iterable[Parcel]) -> StoreAssociation:
        self.rest()
        self._association = StoreAssociation(self._peer, _contexts(batch))
        return self._association


def _store(association: StoreAssociation, parcel: Parcel) -> SendResult:
    """Send one object.

    Raises:
        OutcomeUnknown: nobody can say what became of it.
    """
    delivery = parcel.delivery
    key = delivery.sop_class_uid, delivery.transfer_syntax_uid
    if key not in association.accepted:
        return _unacceptable(parcel)
    request = StoreRequest(delivery.sop_class_uid, delivery.sop_instance_uid, delivery.transfer_syntax_uid)
    try:
        with parcel.file.open("rb", buffering=0) as file:
            start, _ = split_file(os.pread(file.fileno(), _HEADER_BYTES, 0))
            status = association.store(file.fileno(), start, request, urgent=delivery.urgent)
    except (OSError, EOFError) as error:
        _log.error("spooled_file_unreadable", extra={"error": type(error).__name__})
        return Postponed(f"the spooled file cannot be read: {type(error).__name__}")
    return judge(status, delivery.attempts)


def _unacceptable(parcel: Parcel) -> Refused:
    delivery = parcel.delivery
    return Refused(
        f"the destination does not accept SOP class {delivery.sop_class_uid}"
        f" in transfer syntax {delivery.transfer_syntax_uid}"
    )


def _contexts(parcels: Iterable[Parcel]) -> frozenset[Context]:
    """One presentation context for each SOP class and stored syntax.

    With one syntax each: else the peer may choose one that the file does not have.
    """
    return frozenset(
        (parcel.delivery.sop_class_uid, (parcel.delivery.transfer_syntax_uid,)) for parcel in parcels
    )


def _batches(parcels: Sequence[Parcel]) -> list[list[Parcel]]:
    """The parcels in order, cut where one association would need more contexts than it can have."""
    batches: list[list[Parcel]] = [[]]
    for parcel in parcels:
        if len(_contexts([*batches[-1], parcel])) > MAXIMUM_CONTEXTS:
            batches.append([])
        batches[-1].append(parcel)
    return batches
