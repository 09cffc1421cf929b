"""The upper layer of an association that this side opened: the connection can be had for a while.

Its thread reads what the peer sends, so that an idle association notices when it ends. A thread that wants
to send a lot borrows the connection meanwhile, writes to it and reads the responses by itself: no message
then wakes another thread.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time

from pynetdicom.association import Association

from appliance.network.association import QuietAssociation
from appliance.network.limits import Limits
from appliance.network.messages import Command, ProtocolError, read_command
from appliance.network.reception import Incoming, StoreRequest
from appliance.network.upper_layer import CLOSING, ESTABLISHED, UpperLayer
from appliance.observe import metrics

_NOTHING_SENT = ("Sta1", "Sta4")
"""States (PS3.8 9.2.1) in which a peer that closes at once must not be noticed yet."""
_PARKED_S = 30.0


class ConnectionEnded(Exception):
    """The peer closed, aborted or released, or broke the protocol."""


class NoAnswer(Exception):
    """The peer is there, but takes or answers nothing in time."""


class RequestorLayer(UpperLayer):
    """The upper layer of one requested association."""

    def __init__(self, association: QuietAssociation, limits: Limits) -> None:
        super().__init__(association, association.wake, _refuse, _misbehaved, limits)
        self._lending = threading.Condition()
        self._wanted = False
        self._lent = False
        self._over = False
        self._borrowed: socket.socket | None = None
        self._responses: list[tuple[int, Command]] = []
        self._readable = select.poll()
        self._stall_s = self._finish_s = 0.0

    def borrow(self, seconds: float) -> bool:
        """Have the connection for the calling thread alone until `give_back`; False if it has ended."""
        with self._lending:
            self._wanted = not self._over
            self._wake()
            self._lending.wait_for(lambda: self._lent or not self._wanted, seconds)
            connection = self.socket.socket if self.socket is not None else None
            if not self._lent or connection is None:
                self._wanted = self._lent = False
                return False
        self._borrowed, self._readable = connection, select.poll()
        self._readable.register(connection, select.POLLIN)
        self._responses.clear()
        return True

    def give_back(self) -> None:
        """End what `borrow` began."""
        with self._lending:
            self._wanted = self._lent = False
            self._borrowed = None
        self._wake()

    def begin(self, stall_s: float, seconds: float) -> None:
        """What is written from here on may take `seconds` in all, and `stall_s` without any progress."""
        self._stall_s, self._finish_s = stall_s, time.monotonic() + seconds

    def write(self, data: memoryview | bytes) -> None:
        """Send on the borrowed connection.

        Raises:
            ConnectionEnded: the connection is gone.
            NoAnswer: the peer is too slow, in the middle of a PDU: that ends the connection.
        """
        connection = self._connection()
        position, progress = 0, time.monotonic()
        while position < len(data):
            try:
                position += connection.send(data[position:] if position else data)
            except (BlockingIOError, TimeoutError):
                stalled = time.monotonic() - progress > self._stall_s
            except OSError as error:
                self.hang_up()
                raise ConnectionEnded from error
            else:
                progress, stalled = time.monotonic(), False
            if position < len(data) and (stalled or time.monotonic() > self._finish_s):
                self.hang_up()
                raise NoAnswer

    def response(self, seconds: float) -> tuple[int, Command]:
        """The next command set on the borrowed connection, and the presentation context that it came in.

        Raises:
            ConnectionEnded: the association ends instead.
            NoAnswer: there is none in time.
        """
        connection = self._connection()
        deadline = time.monotonic() + seconds
        while not self._responses:
            pending = isinstance(connection, ssl.SSLSocket) and connection.pending()
            if not pending and not self._readable.poll(max(deadline - time.monotonic(), 0.0) * 1000.0):
                raise NoAnswer
            self._read_pdu(connection)
            if not self.event_queue.empty():
                raise ConnectionEnded
        return self._responses.pop(0)

    def hang_up(self) -> None:
        """End the borrowed connection, because the peer is in the middle of something."""
        self.event_queue.put("Evt17")

    def run_reactor(self) -> None:
        """See `UpperLayer`."""
        try:
            super().run_reactor()
        finally:
            if self.socket is not None:
                # Whoever asked for the association waits for this, and without end.
                self.socket._ready.set()
            with self._lending:
                self._over, self._wanted, self._lent = True, False, False
                self._lending.notify()

    def _connection(self) -> socket.socket:
        if self._borrowed is None or not self.event_queue.empty():
            raise ConnectionEnded
        return self._borrowed

    def _process_recv_primitive(self) -> bool:
        if self.state_machine.current_state == CLOSING:
            # The association was aborted at the same time from both ends: there is nobody left to tell.
            self.to_provider_queue.queue.clear()
        return super()._process_recv_primitive()

    def _receive(self) -> None:
        if self.state_machine.current_state in _NOTHING_SENT or self._is_lent():
            self._poll(None, _PARKED_S)
        else:
            super()._receive()

    def _is_lent(self) -> bool:
        with self._lending:
            if self._wanted and not self._lent and not self._has_something():
                self._lent = self.state_machine.current_state == ESTABLISHED
                self._wanted = self._lent
                self._lending.notify()
            return self._lent

    def _has_something(self) -> bool:
        connection = self.socket.socket if self.socket is not None else None
        return connection is not None and self._poll(connection, 0.0)

    def _hand_on(self, context_id: int, control: int, data: bytes) -> None:
        if self._borrowed is None:
            super()._hand_on(context_id, control, data)
            return
        command = read_command(data)
        if command.has_data_set:
            raise ProtocolError("command_set", "a response to a C-STORE announces a data set")
        self._responses.append((context_id, command))


def _misbehaved(what: str) -> None:
    metrics.MISBEHAVIOUR.labels(what=what).inc()


def _refuse(request: StoreRequest, association: Association) -> Incoming:
    raise ProtocolError("command_set", "the peer of a requested association sends a C-STORE request")
