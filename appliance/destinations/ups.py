"""A worklist manager: an SCP of UPS Push."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydicom.errors import InvalidDicomError

from appliance.config.destinations import UpsDestination
from appliance.config.schema import Config
from appliance.destinations.base import Parcel
from appliance.destinations.messages import tell
from appliance.domain.types import Postponed, Refused, SendResult, Stored
from appliance.network.requestor import peer_of
from appliance.network.ups import ask_for_workitems, create_workitem

_DUPLICATE = 0x0111
# PS3.7 annex C and PS3.4 table CC.2.5-2: what is wrong with the workitem, and will be next time.
_PERMANENT = {
    0x0105: "the destination does not know an attribute",
    0x0106: "the destination takes an attribute value for invalid",
    0x0117: "the destination takes the workitem's UID for invalid",
    0x0118: "the destination does not know UPS Push",
    0x0120: "the destination misses an attribute",
    0x0121: "the destination misses an attribute value",
    0x0122: "the destination does not support UPS Push",
    0x0212: "the destination takes an argument for mistyped",
    0xC309: "the destination takes the workitem for one that is not scheduled",
}


class WorklistManager:
    """Creates a workitem for each finding, each on an association of its own."""

    def __init__(self, config: Config, name: str) -> None:
        settings = config.destinations[name]
        assert isinstance(settings, UpsDestination)
        self._attempts = settings.attempts
        self._peer = peer_of(config, name)

    def send(self, parcels: Sequence[Parcel], settle: Callable[[Parcel, SendResult], bool]) -> None:
        """See `Destination.send`."""
        tell(parcels, settle, self._send_one)

    def probe(self) -> None:
        """See `Destination.probe`: an association for workitems, since few of these know C-ECHO."""
        ask_for_workitems(self._peer)

    def rest(self) -> None:
        """See `Destination.rest`: nothing is kept open."""

    def _send_one(self, parcel: Parcel) -> SendResult:
        try:
            status = create_workitem(self._peer, parcel.file)
        except (OSError, InvalidDicomError) as error:
            return Postponed(f"the spooled file cannot be read: {type(error).__name__}")
        return judge_creation(status, parcel.delivery.attempts, self._attempts)


def judge_creation(status: int, attempts: int, maximum_attempts: int) -> SendResult:
    """What became of a workitem that the destination answered with `status` at its `attempts`-th attempt."""
    # The UID says what the workitem is about, so what has it is this one.
    if status == 0x0000 or status == _DUPLICATE or status == 0x0001 or 0xB000 <= status <= 0xBFFF:
        return Stored(status)
    if status in (0x0107, 0x0116):  # warnings about attributes (PS3.7 annex C.4)
        return Stored(status)
    if status in _PERMANENT:
        return Refused(_PERMANENT[status], status)
    reason = f"the destination answers with the status 0x{status:04X}"
    if attempts >= maximum_attempts:
        return Refused(f"{reason}, {attempts} times", status)
    return Postponed(reason, status)
