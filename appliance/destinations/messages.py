"""What destinations that are told of findings have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from appliance.destinations.base import Parcel
from appliance.domain.errors import ApplianceError, TryAgain
from appliance.domain.types import Postponed, SendResult
from appliance.network.sending import OutcomeUnknown
from appliance.spool.store import PREAMBLE_BYTES


class Unreadable(ApplianceError):
    """A spooled message cannot be read."""


def tell(
    parcels: Sequence[Parcel],
    settle: Callable[[Parcel, SendResult], bool],
    send: Callable[[Parcel], SendResult],
) -> None:
    """Send the parcels one by one, as `Destination.send` has it.

    Raises:
        TryAgain: as `Destination.send`.
    """
    for parcel in parcels:
        try:
            result = send(parcel)
        except OutcomeUnknown as error:
            if settle(parcel, Postponed(str(error))):
                raise TryAgain(f"{parcel.delivery.destination}: {error}") from error
            return
        if not settle(parcel, result):
            return


def content_of(parcel: Parcel) -> bytes:
    """The message in a spooled file.

    Raises:
        Unreadable: it is not there.
    """
    try:
        return parcel.file.read_bytes()[PREAMBLE_BYTES:]
    except OSError as error:
        raise Unreadable(f"the spooled file cannot be read: {type(error).__name__}") from error
