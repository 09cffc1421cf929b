"""Puts the fragments of one association together: data sets go to a sink, everything else is handed on.

No sockets and no threads: bytes come in, calls go out, so that it can be fed with anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pynetdicom.presentation import PresentationContext

from appliance.network.limits import SLOWEST_BYTES_PER_S, Limits
from appliance.network.messages import (
    C_STORE_RQ,
    Command,
    Fragment,
    ProtocolError,
    c_store_response,
    fragments,
    read_command,
)
from appliance.network.negotiation import is_storage

_LONGEST_COMMAND = 64 * 1024
_LONGEST_OTHER_DATA_SET = 16 * 1024 * 1024
_ERROR_COMMENT_CHARACTERS = 64
_LAST, _COMMAND_LAST = 0x02, 0x03  # message control headers (PS3.8 E.2)


@dataclass(frozen=True)
class StoreRequest:
    """What is known of an object before its data set arrives."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True)
class Reply:
    """The C-STORE response: status, ErrorComment (0000,0902), OffendingElement (0000,0901)."""

    status: int
    comment: str = ""
    offending_element: int | None = None


class Incoming(Protocol):
    """Takes one data set. None of its methods raises: what goes wrong is in the reply."""

    def write(self, data: memoryview) -> None:
        """Take the next bytes."""
        ...

    def finish(self) -> Reply:
        """The data set is whole; the object is durable if the reply says so."""
        ...

    def abandon(self) -> None:
        """The data set will never be whole."""
        ...


@dataclass
class _Message:
    """Where the peer stands in its present DIMSE message."""

    context_id: int
    started_s: float
    command_set: bytearray = field(default_factory=bytearray)
    command: Command | None = None
    incoming: Incoming | None = None
    received: int = 0


class Reception:
    """The incoming messages of one association.

    `contexts` are the accepted ones by id; `begin` opens a sink for an object; `hand_on` takes
    (context id, control header, data) of what is no C-STORE request; `respond` sends a whole PDU.
    """

    def __init__(
        self,
        contexts: Callable[[], Mapping[int, PresentationContext]],
        begin: Callable[[StoreRequest], Incoming],
        hand_on: Callable[[int, int, bytes], None],
        respond: Callable[[bytes], None],
        limits: Limits,
    ) -> None:
        self._contexts = contexts
        self._begin = begin
        self._hand_on = hand_on
        self._respond = respond
        self._limits = limits
        self._message: _Message | None = None
        self._progress_s = time.monotonic()

    @property
    def is_busy(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._message is not None

    def take(self, pdu: memoryview) -> None:
        """Take the body of one P-DATA-TF.

        Raises:
            ProtocolError: the peer breaks the protocol; what it had begun can only be abandoned.
        """
        self._progress_s = time.monotonic()
        for fragment in fragments(pdu):
            if fragment.is_command:
                self._take_command(fragment)
            else:
                self._take_data(fragment)

    def check_pace(self) -> None:
        """A message that has begun must go on, and not by a byte at a time.

        Raises:
            ProtocolError: it does not.
        """
        if self._message is None:
            return
        now = time.monotonic()
        allowed_s = self._limits.message_s + self._message.received / SLOWEST_BYTES_PER_S
        stalled = now - self._progress_s > self._limits.stall_s
        if stalled or now - self._message.started_s > allowed_s:
            raise ProtocolError("slow", "a message takes too long")

    def abandon(self) -> None:
        """The association has ended: what was not whole never will be."""
        if self._message is not None and self._message.incoming is not None:
            self._message.incoming.abandon()
        self._message = None

    def _take_command(self, fragment: Fragment) -> None:
        message = self._message
        if message is None:
            message = self._message = _Message(fragment.context_id, self._progress_s)
        if message.command is not None or message.context_id != fragment.context_id:
            raise ProtocolError("message_order", "a command set begins inside another message")
        message.command_set += fragment.data
        if len(message.command_set) > _LONGEST_COMMAND:
            raise ProtocolError("command_set", "a command set is too long")
        if fragment.is_last:
            self._begin_message(message, bytes(message.command_set))

    def _begin_message(self, message: _Message, command_set: bytes) -> None:
        command = message.command = read_command(command_set)
        context = self._contexts().get(message.context_id)
        if context is None or context.abstract_syntax is None:
            raise ProtocolError("context_id", "a message names a context that was not accepted")
        if command.field == C_STORE_RQ and is_storage(context.abstract_syntax):
            if not command.has_data_set:
                raise ProtocolError("command_set", "a C-STORE request announces no data set")
            syntax = str(context.transfer_syntax[0])
            message.incoming = self._begin(
                StoreRequest(command.sop_class_uid, command.sop_instance_uid, syntax)
            )
            return
        self._hand_on(message.context_id, _COMMAND_LAST, command_set)
        if not command.has_data_set:
            self._message = None

    def _take_data(self, fragment: Fragment) -> None:
        message = self._message
        if message is None or message.command is None or message.context_id != fragment.context_id:
            raise ProtocolError("message_order", "a data set begins without its command set")
        message.received += len(fragment.data)
        if message.incoming is not None:
            message.incoming.write(fragment.data)
        elif message.received <= _LONGEST_OTHER_DATA_SET:
            control = _LAST if fragment.is_last else 0
            self._hand_on(fragment.context_id, control, bytes(fragment.data))
        else:
            raise ProtocolError("data_set_length", "a data set that is not stored is too long")
        if fragment.is_last:
            self._message = None
            if message.incoming is not None:
                self._answer(message.context_id, message.command, message.incoming.finish())

    def _answer(self, context_id: int, command: Command, reply: Reply) -> None:
        comment = reply.comment[:_ERROR_COMMENT_CHARACTERS]
        self._respond(c_store_response(context_id, command, reply.status, comment, reply.offending_element))
