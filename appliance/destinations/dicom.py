"""A DICOM storage SCP: the PACS."""

from __future__ import annotations

import logging
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from io import FileIO
from typing import IO

from appliance.config.schema import Config
from appliance.destinations.base import Parcel
from appliance.destinations.statuses import judge
from appliance.dicom.part10 import data_set_start
from appliance.dicom.transcode import targets
from appliance.dicom.transcoder import Transcoder
from appliance.domain.errors import GiveUp, TryAgain
from appliance.domain.types import Delivery, Postponed, Refused, SendResult
from appliance.network.reception import StoreRequest
from appliance.network.requestor import MAXIMUM_CONTEXTS, NothingAccepted, echo, peer_of
from appliance.network.sending import Context, OutcomeUnknown, StoreAssociation
from appliance.observe import metrics
from appliance.observe.log import hashed

_log = logging.getLogger(__name__)


def _send(
    association: StoreAssociation, file: IO[bytes] | FileIO, start: int, delivery: Delivery, syntax: str
) -> int:
    request = StoreRequest(delivery.sop_class_uid, delivery.sop_instance_uid, syntax)
    return association.store(file.fileno(), start, request, urgent=delivery.urgent)


class DicomStore:
    """Sends by C-STORE, on one association that is kept open for the next batch."""

    def __init__(self, config: Config, name: str) -> None:
        self._name = name
        self._peer = peer_of(config, name)
        self._transcoder = Transcoder()
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
        self._transcoder.close()
        self._release()

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
        if association.has_ended and not reused:
            raise TryAgain(f"{self._peer} ends the association as soon as it is open")
        while waiting and not association.has_ended:
            try:
                result = self._store(association, waiting[0])
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

    def _store(self, association: StoreAssociation, parcel: Parcel) -> SendResult:
        """Send one object as it lies, or else transcoded.

        Raises:
            OutcomeUnknown: nobody can say what became of it.
        """
        delivery = parcel.delivery
        sop_class, stored = delivery.sop_class_uid, delivery.transfer_syntax_uid
        try:
            if (sop_class, stored) in association.accepted:
                with parcel.file.open("rb", buffering=0) as file:
                    status = _send(association, file, data_set_start(file.fileno()), delivery, stored)
            else:
                syntax = next((to for to in targets(stored) if (sop_class, to) in association.accepted), None)
                if syntax is None:
                    return _unacceptable(parcel)
                # In the folder of the original, but nameless: it is gone with the process at the latest.
                with tempfile.TemporaryFile(dir=parcel.file.parent) as target:
                    self._transcode(parcel, target, syntax)
                    status = _send(association, target, 0, delivery, syntax)
        except (OSError, EOFError) as error:
            _log.error("spooled_file_unreadable", extra={"error": type(error).__name__})
            return Postponed(f"the spooled file cannot be read: {type(error).__name__}")
        except GiveUp as error:
            return Refused(f"the destination accepts it transcoded only: {error}")
        return judge(status, delivery.attempts)

    def _transcode(self, parcel: Parcel, target: IO[bytes], syntax: str) -> None:
        labels, result = {"destination": self._name}, "failed"
        try:
            self._transcoder.transcode(parcel.file, target, syntax)
            result = "done"
        finally:
            metrics.TRANSCODINGS.labels(**labels, result=result).inc()
        stored, instance = parcel.delivery.transfer_syntax_uid, hashed(parcel.delivery.sop_instance_uid)
        _log.info("transcoded", extra={**labels, "instance": instance, "from": stored, "to": syntax})

    def _is_usable_for(self, batch: Iterable[Parcel]) -> bool:
        association = self._association
        return (
            association is not None and not association.has_ended and _contexts(batch) <= association.proposed
        )

    def _release(self) -> None:
        if self._association is not None:
            self._association.close()
            self._association = None

    def _open(self, batch: Iterable[Parcel]) -> StoreAssociation:
        self._release()
        self._association = StoreAssociation(self._peer, _contexts(batch))
        return self._association


def _unacceptable(parcel: Parcel) -> Refused:
    delivery = parcel.delivery
    return Refused(
        f"the destination does not accept SOP class {delivery.sop_class_uid}"
        f" in transfer syntax {delivery.transfer_syntax_uid}"
        + ("" if targets(delivery.transfer_syntax_uid) else ", which cannot be converted without a loss")
    )


def _contexts(parcels: Iterable[Parcel]) -> frozenset[Context]:
    """Presentation contexts for each SOP class and stored syntax.

    One for exactly the stored syntax: else the peer may choose one that the file does not have. Another one
    for what it could be transcoded to.
    """
    contexts: set[Context] = set()
    for delivery in (parcel.delivery for parcel in parcels):
        contexts.add((delivery.sop_class_uid, (delivery.transfer_syntax_uid,)))
        if possible := targets(delivery.transfer_syntax_uid):
            contexts.add((delivery.sop_class_uid, possible))
    return frozenset(contexts)


def _batches(parcels: Sequence[Parcel]) -> list[list[Parcel]]:
    """The parcels in order, cut where one association would need more contexts than it can have."""
    batches: list[list[Parcel]] = [[]]
    contexts: frozenset[Context] = frozenset()
    for parcel in parcels:
        contexts |= _contexts([parcel])
        if len(contexts) > MAXIMUM_CONTEXTS:
            batches.append([])
            contexts = _contexts([parcel])
        batches[-1].append(parcel)
    return batches
