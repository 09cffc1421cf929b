"""A DICOM storage SCP: the PACS."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from appliance.config.schema import Config
from appliance.destinations.base import Parcel
from appliance.domain.errors import TryAgain
from appliance.domain.types import Postponed, SendResult
from appliance.network.requestor import MAXIMUM_CONTEXTS, StoreAssociation, echo, peer_of


class DicomStore:
    """Sends by C-STORE, one association for a batch."""

    def __init__(self, config: Config, name: str) -> None:
        self._peer = peer_of(config, name)

    def send(self, parcels: Sequence[Parcel], settle: Callable[[Parcel, SendResult], bool]) -> None:
        """See `Destination.send`. The files go out as they lie, in the syntax that they were stored in."""
        for batch in _batches(parcels):
            contexts = {_context(parcel) for parcel in batch}
            with StoreAssociation(self._peer, contexts) as association:
                for parcel in batch:
                    result = association.send(
                        parcel.file,
                        *_context(parcel),
                        urgent=parcel.delivery.urgent,
                    )
                    if not settle(parcel, result):
                        return
                    if isinstance(result, Postponed) and not association.is_open:
                        raise TryAgain(f"{self._peer.ae_title} ended the association")

    def probe(self) -> None:
        """See `Destination.probe`: C-ECHO (PS3.4 A.4)."""
        echo(self._peer)

    def rest(self) -> None:
        """See `Destination.rest`: nothing is kept open."""


def _context(parcel: Parcel) -> tuple[str, str]:
    return parcel.delivery.sop_class_uid, parcel.delivery.transfer_syntax_uid


def _batches(parcels: Sequence[Parcel]) -> list[list[Parcel]]:
    """The parcels in order, cut where one association would need more contexts than it can have."""
    batches: list[list[Parcel]] = [[]]
    contexts: set[tuple[str, str]] = set()
    for parcel in parcels:
        if len(contexts | {_context(parcel)}) > MAXIMUM_CONTEXTS:
            batches.append([])
            contexts = set()
        contexts.add(_context(parcel))
        batches[-1].append(parcel)
    return batches
