"""How much one peer may send, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one acceptor.

    Only the first two are for a site to choose: the others tell a slow scanner from a hostile peer, and
    no scanner comes near them.
    """

    pdu_bytes: int
    """The longest PDU, as the peer is told (PS3.8 annex D.1)."""
    idle_s: float
    """Between two messages of an association."""
    handshake_s: float = 8.0
    """For the TLS handshake."""
    request_s: float = 30.0
    """From the connection to its A-ASSOCIATE-RQ, and from an A-ABORT to its end (ARTIM, PS3.8 9.1.5)."""
    pdu_s: float = 60.0
    """For one PDU, from its first byte to its last."""
    stall_s: float = 60.0
    """Between two PDUs of one message."""
    message_s: float = 120.0
    """For one message, beside a second for every `SLOWEST_BYTES_PER_S` of it."""
    tick_s: float = 5.0
    """For one read or write: how exactly the other deadlines are kept, and how long a peer may leave its
    responses lying."""


SLOWEST_BYTES_PER_S = 4096.0
