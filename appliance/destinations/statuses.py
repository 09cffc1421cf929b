"""What the status of a C-STORE response means for a delivery (PS3.4 table B.2-1, PS3.7 annex C)."""

from __future__ import annotations

from appliance.domain.types import Postponed, Refused, SendResult, Stored

_WARNINGS = frozenset({0x0001, 0x0107, 0x0116})
_DUPLICATE = 0x0111
_TRANSIENT = {
    0x0110: "the destination failed to process the object",
    0x0124: "the destination does not authorise us",
    0x0210: "the destination takes the message for one that it has had",
    0x0213: "the destination is out of resources",
}
_PERMANENT = {
    0x0117: "the destination takes the SOP instance UID for invalid",
    0x0122: "the destination does not support the SOP class",
    0x0212: "the destination takes an argument for mistyped",
}


def judge(status: int, attempts: int) -> SendResult:
    """What became of an object that the destination answered with `status` at its `attempts`-th attempt.

    An object that an earlier attempt may have brought there is stored if the destination says that it has
    one under this UID; at the first attempt, that is another object.
    """
    if status == 0x0000 or 0xB000 <= status <= 0xBFFF or status in _WARNINGS:
        return Stored(status)
    if status == _DUPLICATE:
        if attempts > 1:
            return Stored(status)
        return Refused("the destination has another object under this SOP instance UID", status)
    if 0xA700 <= status <= 0xA7FF:
        return Postponed("the destination is out of resources", status)
    if status in _TRANSIENT:
        return Postponed(_TRANSIENT[status], status)
    if 0xFE00 <= status <= 0xFFFF:
        return Postponed("the destination answers with a status that a C-STORE cannot have", status)
    if 0xA900 <= status <= 0xA9FF:
        return Refused("the destination says that the object does not match its SOP class", status)
    if 0xC000 <= status <= 0xCFFF:
        return Refused("the destination cannot understand the object", status)
    return Refused(_PERMANENT.get(status, "the destination refuses the object"), status)
