"""What is raised for images that no model can look at."""

from __future__ import annotations

import struct

from pydicom.errors import BytesLengthException, InvalidDicomError

from appliance.domain.errors import GiveUp

# What decoders and the parser raise on damaged data; none of them has a base class of its own.
DAMAGED = (
    ArithmeticError,
    AttributeError,
    BufferError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


class Unusable(GiveUp):
    """A series that no model can look at; `reason` is a short stable word for metrics."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
