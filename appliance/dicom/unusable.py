"""What is raised for images that no model can look at."""

from __future__ import annotations

import struct

from pydicom.errors import BytesLengthException, InvalidDicomError

from appliance.domain.errors import GiveUp

# None of these has a base class of its own.
UNREADABLE = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
)
"""What pydicom raises while it turns the bytes of one odd element into a value."""
DAMAGED = (*UNREADABLE, BufferError, EOFError, InvalidDicomError, RuntimeError, struct.error)
"""What decoders and the parser raise on damaged data."""


class Unusable(GiveUp):
    """A series that no model can look at; `reason` is a short stable word for metrics."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
