"""A worklist manager: an SCP of UPS Push."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pydicom.errors import InvalidDicomError

from appliance.config.destinations import UpsDestination
from appliance.config.schema import Config
from appliance.destinations.base import Parcel
from appliance.destinations.messages import tell
from appliance.domain.types import Postponed, Refused, SendResult, Stored
from appliance.network.requestor import peer_of
from appliance.network.ups import (
    ask_for_workitems,
    create_workitem,
    is_new_workitem,
    read_message,
    request_cancel,
)

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


# PS3.4 table CC.2.2-2, PS3.7 section 10.1.4.1.10: there is nothing, or nothing any more, to be worked on.
_NO_SUCH_WORKITEM = frozenset({0x0112, 0xC307})
# A person has to talk to whoever works, or has worked, on the step.
_NOT_CANCELLED = {
    0x0117: "the destination takes the workitem's UID for invalid",
    0x0118: "the destination does not know UPS Push",
    0x0122: "the destination does not support UPS Push",
    0x0123: "the destination takes no requests to cancel",
    0x0211: "the destination takes no requests to cancel",
    0xC311: "the workitem was completed before: whoever did it has to be told",
    0xC313: "whoever works on the workitem does not want to cancel it",
}


class WorklistManager:
    """Creates a workitem for each finding, or asks to cancel it, each on an association of its own."""

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
            message = read_message(parcel.file)
        except (OSError, InvalidDicomError) as error:
            return Postponed(f"the spooled file cannot be read: {type(error).__name__}")
        attempts = parcel.delivery.attempts
        if is_new_workitem(message):
            return judge_creation(create_workitem(self._peer, message), attempts, self._attempts)
        return judge_cancellation(request_cancel(self._peer, message), attempts, self._attempts)


def judge_creation(status: int, attempts: int, maximum_attempts: int) -> SendResult:
    """What became of a workitem that the destination answered with `status` at its `attempts`-th attempt."""
    # The UID says what the workitem is about, so what has it is this one.
    if _is_done(status) or status == _DUPLICATE:
        return Stored(status)
    return _refused_or_later(status, _PERMANENT, attempts, maximum_attempts)


def judge_cancellation(status: int, attempts: int, maximum_attempts: int) -> SendResult:
    """The same of a request to cancel a workitem (PS3.4 table CC.2.2-2).

    0xB304 (it was cancelled before) is a warning like others. A performer that cannot be contacted (0xC312)
    may be so later.
    """
    if _is_done(status) or status in _NO_SUCH_WORKITEM:
        return Stored(status)
    return _refused_or_later(status, _NOT_CANCELLED, attempts, maximum_attempts)


def _is_done(status: int) -> bool:
    """Success, or a warning: of the service, or about attributes (PS3.7 annex C.4)."""
    return status in (0x0000, 0x0001, 0x0107, 0x0116) or 0xB000 <= status <= 0xBFFF


def _refused_or_later(
    status: int, permanent: Mapping[int, str], attempts: int, maximum_attempts: int
) -> SendResult:
    if status in permanent:
        return Refused(permanent[status], status)
    reason = f"the destination answers with the status 0x{status:04X}"
    if attempts >= maximum_attempts:
        return Refused(f"{reason}, {attempts} times", status)
    return Postponed(reason, status)
