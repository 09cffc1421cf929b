"""pynetdicom's upper layer with its two hot places replaced: waiting, and receiving a C-STORE.

The library polls each association a thousand times a second and copies every fragment several times;
here a thread sleeps in poll(2) until there is something, and the data set goes from the socket through one
reused buffer into the spool. Negotiation, state machine and every other service stay the library's: what
is not a C-STORE request is handed on as if it had never been looked at.

The library reads with no deadline and allocates what a PDU header announces; here both are bounded.
These internals were checked against the versions in `CHECKED`.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import pynetdicom
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import A_ASSOCIATE, P_DATA

from appliance.network.limits import Limits
from appliance.network.messages import (
    A_ABORT,
    A_ASSOCIATE_AC,
    A_ASSOCIATE_RJ,
    A_ASSOCIATE_RQ,
    A_RELEASE_RQ,
    P_DATA_TF,
    ProtocolError,
)
from appliance.network.reception import Incoming, Reception, StoreRequest

CHECKED = ("3.0",)
"""Versions of pynetdicom whose internals this module was checked against."""

AWAITING_REQUEST, AWAITING_ANSWER, ESTABLISHED, CLOSING = "Sta2", "Sta5", "Sta6", "Sta13"
_EXPECTED = {
    AWAITING_REQUEST: (A_ASSOCIATE_RQ, A_ABORT),
    AWAITING_ANSWER: (A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ABORT),
    ESTABLISHED: (P_DATA_TF, A_RELEASE_RQ, A_ABORT),
}
"""What a peer may send in a state (PS3.8 table 9-10), where that can be told without the library."""
_HEADER = struct.Struct(">BBI")
_LONGEST_ASSOCIATE = 1024 * 1024
_LONGEST_OTHER = 1024
_LOOK_S = 1.0
_IDLE_S = 30.0
_DISCARDED_BYTES = 64 * 1024
_MOST_WAITING = 16
"""Messages for the library that may wait before no more are read: PS3.7 D.3.3.3 lets a peer send one."""

_log = logging.getLogger(__name__)


def is_checked() -> bool:
    """Whether the installed pynetdicom is one whose internals are known."""
    return pynetdicom.__version__.startswith(tuple(f"{version}." for version in CHECKED))


def bound(connection: socket.socket, tick_s: float) -> None:
    """Let no read or write on the connection sleep for longer than one tick, so that deadlines are seen.

    A plain socket leaves the waiting to the kernel, which costs nothing; TLS has to do its own.
    """
    if isinstance(connection, ssl.SSLSocket):
        connection.settimeout(tick_s)
        return
    seconds, fraction = divmod(tick_s, 1.0)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(
            socket.SOL_SOCKET, option, struct.pack("@ll", int(seconds), int(fraction * 1_000_000))
        )


def _has_arrived(connection: socket.socket) -> bool:
    """Whether more lies in the socket: asked within a message, where poll() would cost more than reading."""
    if isinstance(connection, ssl.SSLSocket):
        return False
    try:
        return len(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)) == 1
    except OSError:
        return False


class UpperLayer(DULServiceProvider):
    """The upper layer of one association."""

    def __init__(
        self,
        association: Association,
        wake_association: Callable[[], None],
        begin: Callable[[StoreRequest, Association], Incoming],
        misbehaved: Callable[[str], None],
        limits: Limits,
    ) -> None:
        super().__init__(association)
        self.daemon = True
        self._wake_association = wake_association
        self._misbehaved = misbehaved
        self._limits = limits
        self.artim_timer.timeout = limits.request_s
        self._idle_timer.timeout = limits.idle_s
        self._reception = Reception(
            lambda: association._accepted_cx,
            lambda request: begin(request, association),
            self._hand_on,
            self._respond,
            limits,
        )
        self.lost: OSError | EOFError | None = None
        """With what reading from the connection failed."""
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._bell_lock = threading.Lock()
        self._polled: socket.socket | None = None
        self._polling = select.poll()
        self._polling.register(self._bell, select.POLLIN)
        self._bell_is_open = True
        self._buffer = bytearray()

    def send_pdu(self, primitive: Any) -> None:
        """Queue a primitive for the peer, and wake the thread that sends it."""
        super().send_pdu(primitive)
        self._wake()

    def kill_dul(self) -> None:
        """End the thread."""
        super().kill_dul()
        self._wake()

    def stop_dul(self) -> bool:
        """End the thread if the connection is closed; whether it was."""
        if self.state_machine.current_state == "Sta1":
            self._kill_thread = True
            self._wake()
        return super().stop_dul()

    def _wake(self) -> None:
        with self._bell_lock:
            if self._bell_is_open:
                os.eventfd_write(self._bell, 1)

    def run_reactor(self) -> None:
        """The thread: one event after the other, asleep in between."""
        self._idle_timer.start()
        self.assoc._dul_ready.set()
        try:
            while not self._kill_thread:
                self._step()
        except Exception as error:  # noqa: BLE001 - as the library does: any fault ends the association
            _log.exception("association_failed", extra={"error": type(error).__name__})
            self._hang_up()
        finally:
            self._reception.abandon()
            self._buffer = bytearray()
            if self.socket is not None:
                self.socket.close()
            # The association's thread waits here for an A-ASSOCIATE-RQ, and without end.
            nothing: Any = None
            self.to_user_queue.put(nothing)
            self._wake_association()
            with self._bell_lock:
                self._bell_is_open = False
                os.close(self._bell)

    def _step(self) -> None:
        # What comes next is judged by the state that the last event leads to, so one at a time.
        if self.event_queue.empty():
            if self.artim_timer.expired:
                if self.state_machine.current_state == AWAITING_REQUEST:
                    self._misbehaved("silent")
                self.event_queue.put("Evt18")
            elif not self._process_recv_primitive():
                self._receive()
        if not self.event_queue.empty():
            self.state_machine.do_action(self.event_queue.get_nowait())
            self._wake_association()

    def _receive(self) -> None:
        """Read one PDU if there is one; wait for it if there is nothing else to do."""
        connection = self.socket.socket if self.socket is not None else None
        if connection is None or self.assoc.dimse.msg_queue.qsize() >= _MOST_WAITING:
            self._poll(None, _LOOK_S)
            return
        closing = self.state_machine.current_state == CLOSING
        if self._poll(connection, 0.0 if closing else self._patience_s()):
            self._idle_timer.restart()
            if closing:
                self._discard(connection)
            else:
                self._read_pdu(connection)
                while self._reception.is_busy and self.event_queue.empty() and _has_arrived(connection):
                    self._read_pdu(connection)
        elif closing and self.socket is not None:
            self.socket.close()
        else:
            self._guarded(self._reception.check_pace)

    def _patience_s(self) -> float:
        """How long nothing needs to be looked at: timers run unless the association is idle."""
        idle = self.state_machine.current_state == ESTABLISHED and not self._reception.is_busy
        return _IDLE_S if idle else _LOOK_S

    def _poll(self, connection: socket.socket | None, seconds: float) -> bool:
        """Wait for the peer or the bell; whether the peer has sent something, or has gone."""
        if isinstance(connection, ssl.SSLSocket) and connection.pending():
            return True
        if connection is not self._polled:
            self._polled, self._polling = connection, select.poll()
            self._polling.register(self._bell, select.POLLIN)
            if connection is not None:
                self._polling.register(connection, select.POLLIN)
        try:
            ready = [descriptor for descriptor, _ in self._polling.poll(seconds * 1000.0)]
        except OSError:
            return True
        if self._bell in ready:
            os.eventfd_read(self._bell)
            return len(ready) > 1
        return bool(ready)

    def _discard(self, connection: socket.socket) -> None:
        """Let go what comes after the end of an association, until the peer closes or ARTIM runs out."""
        try:
            if connection.recv(_DISCARDED_BYTES):
                return
        except (BlockingIOError, TimeoutError):
            return
        except OSError:
            pass
        self.event_queue.put("Evt17")

    def _read_pdu(self, connection: socket.socket) -> None:
        """Read one PDU within its bounds and act on it, or tell the state machine why not."""
        deadline = time.monotonic() + self._limits.pdu_s
        try:
            header = self._read(connection, memoryview(bytearray(_HEADER.size)), deadline)
            kind, _, length = _HEADER.unpack(header)
            if not A_ASSOCIATE_RQ <= kind <= A_ABORT:
                raise ProtocolError("pdu_type", f"there is no PDU of type {kind}")
            if length > self._longest(kind):
                raise ProtocolError("pdu_length", f"a PDU of type {kind} announces {length} bytes")
            if kind not in _EXPECTED.get(self.state_machine.current_state, (kind,)):
                raise ProtocolError("pdu_order", f"a PDU of type {kind} has no place here")
            if kind == P_DATA_TF and self.state_machine.current_state == ESTABLISHED:
                # Only now: a connection that sends no data costs no memory.
                self._buffer = self._buffer or bytearray(self._limits.pdu_bytes)
                self._reception.take(self._read(connection, memoryview(self._buffer)[:length], deadline))
                self._reception.check_pace()
            else:
                body = self._read(connection, memoryview(bytearray(length)), deadline)
                self._decode(bytearray(header) + body)
        except ProtocolError as error:
            self._blame(error)
        except (OSError, EOFError) as error:
            self.lost = error
            self.event_queue.put("Evt17")

    def _decode(self, pdu: bytearray) -> None:
        """Any other PDU is the library's."""
        try:
            decoded, event = self._decode_pdu(pdu)
            # As the state machine will, which cannot say whose fault it was.
            primitive = decoded.to_primitive()
        except Exception as error:
            raise ProtocolError("pdu_content", "a PDU cannot be decoded") from error
        if isinstance(primitive, A_ASSOCIATE) and any(
            context.abstract_syntax is None for context in primitive.presentation_context_definition_list
        ):
            raise ProtocolError("pdu_content", "a presentation context names no abstract syntax")
        self._recv_pdu.put(decoded)
        self.event_queue.put(event)

    def _longest(self, kind: int) -> int:
        if kind == P_DATA_TF:
            return self._limits.pdu_bytes
        return _LONGEST_ASSOCIATE if kind in (A_ASSOCIATE_RQ, A_ASSOCIATE_AC) else _LONGEST_OTHER

    def _read(self, connection: socket.socket, view: memoryview, deadline: float) -> memoryview:
        """Fill `view` from the connection before the deadline.

        Raises:
            ProtocolError: the peer is too slow.
            EOFError, OSError: the connection is gone.
        """
        position = 0
        while position < len(view):
            try:
                count = connection.recv_into(view[position:])
            except (BlockingIOError, TimeoutError):
                count = -1
            if count == 0:
                raise EOFError
            position += max(count, 0)
            if position < len(view) and time.monotonic() > deadline:
                raise ProtocolError("slow", "a PDU takes too long")
        return view

    def _guarded(self, check: Callable[[], None]) -> None:
        try:
            check()
        except ProtocolError as error:
            self._blame(error)

    def _blame(self, error: ProtocolError) -> None:
        """Count what the peer did, and abort (PS3.8 9.2: an invalid PDU is Evt19)."""
        self._misbehaved(error.word)
        _log.warning("peer_misbehaves", extra={"what": error.word, "detail": str(error)})
        self.event_queue.put("Evt19")

    def _hand_on(self, context_id: int, control: int, data: bytes) -> None:
        """Give a fragment to the library, as if it had read it itself (its action DT-2)."""
        primitive = P_DATA()
        # The library wants a list here, whatever its annotation says.
        value: Any = [context_id, bytes([control]) + data]
        primitive.presentation_data_value_list = [value]
        try:
            self.assoc.dimse.receive_primitive(primitive)
        except Exception as error:
            raise ProtocolError("command_set", "the library cannot make a message of it") from error
        self._wake_association()

    def _respond(self, pdu: bytes) -> None:
        """Send a whole PDU. This thread is the only one that writes to the connection.

        Raises:
            EOFError, OSError: the connection is gone, or the peer does not read what it is sent.
        """
        if self.socket is None or self.socket.socket is None:
            raise EOFError
        try:
            self.socket.socket.sendall(pdu)
        except (BlockingIOError, TimeoutError):
            self._misbehaved("unread")
            raise

    def _send(self, pdu: Any) -> None:
        """Send a PDU of the library's."""
        try:
            self._respond(pdu.encode())
        except (OSError, EOFError):
            self.event_queue.put("Evt17")

    def _hang_up(self) -> None:
        """End an association whose state is unknown."""
        self.assoc.is_aborted = True
        self.assoc.is_established = False
        self.assoc._kill = True
        self._kill_thread = True
