"""What the forwarder needs of a destination of any kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from appliance.domain.types import Delivery, SendResult


@dataclass(frozen=True)
class Parcel:
    """A claimed delivery and the file to send."""

    delivery: Delivery
    file: Path


class Destination(Protocol):
    """Takes parcels to one place. Belongs to one thread, and may keep a connection open between two calls."""

    def send(self, parcels: Sequence[Parcel], settle: Callable[[Parcel, SendResult], bool]) -> None:
        """Send the parcels in order and tell `settle` at once what became of each.

        `settle` returns False when the caller wants no more to be sent; parcels that it has not been
        told about were not tried.

        Raises:
            TryAgain: the destination as a whole cannot be reached; parcels not settled were not tried.
        """
        ...

    def probe(self) -> None:
        """Ask whether the destination is there, without sending anything.

        Raises:
            TryAgain: it does not answer.
        """
        ...

    def rest(self) -> None:
        """There is nothing to send for now: let go of what is kept open."""
        ...
