"""The C-STORE SCU: streams data sets as they lie in their files, byte for byte."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from types import TracebackType

from appliance.domain.errors import ApplianceError, TryAgain
from appliance.network.limits import SLOWEST_BYTES_PER_S
from appliance.network.messages import C_STORE_RSP, HIGH, MEDIUM, Command, c_store_request
from appliance.network.reception import StoreRequest
from appliance.network.requestor import Peer, RequestedAssociation, open_association
from appliance.network.requestor_layer import ConnectionEnded, NoAnswer
from appliance.network.streaming import Pdus

Context = tuple[str, tuple[str, ...]]
"""An abstract syntax, and the transfer syntaxes of which the peer may choose one."""

_DEFAULT_LONGEST_PDU = 16384
_SHORTEST_PDU = 16
_BORROW_S = 20.0


class OutcomeUnknown(ApplianceError):
    """Nobody can say whether the peer has the object; the association has ended.

    `gone`: the peer ended it, and did not merely stay silent.
    """

    def __init__(self, message: str, *, gone: bool) -> None:
        super().__init__(message)
        self.gone = gone


class StoreAssociation:
    """An association to a storage SCP that stays open until `close`; at most `MAXIMUM_CONTEXTS` contexts.

    Objects are stored inside a `with` statement, which holds the connection for the present thread; in
    between, the association looks after itself.

    Raises:
        TryAgain: the peer cannot be reached, or it rejects or aborts the association.
        NothingAccepted: no context can be used.
    """

    def __init__(self, peer: Peer, proposed: Collection[Context]) -> None:
        self.proposed = frozenset(proposed)
        self._patience_s = peer.response_timeout_s
        contexts = sorted(self.proposed)
        self._association = open_association(peer, contexts)
        self._accepted = _usable(self._association, contexts)
        longest = self._association.acceptor.maximum_length
        if longest and longest < _SHORTEST_PDU:
            self._association.abort()
            raise TryAgain(f"{peer} takes PDUs of {longest} bytes only")
        self._pdus = Pdus(_DEFAULT_LONGEST_PDU if longest is None else longest)
        self._layer = self._association.upper_layer
        self._message_id = 0
        self._ended = False

    @property
    def accepted(self) -> Mapping[tuple[str, str], int]:
        """The presentation contexts by SOP class and transfer syntax."""
        return self._accepted

    @property
    def has_ended(self) -> bool:
        """Whether another association is needed, as far as that is known."""
        return self._ended or not self._association.is_established

    def __enter__(self) -> StoreAssociation:
        if self.has_ended or not self._layer.borrow(_BORROW_S):
            self._ended = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._layer.give_back()

    def close(self) -> None:
        """Release the association, or abort what is left of it."""
        if self._association.is_established:
            if self._ended:
                self._association.abort()
            else:
                self._association.release()
        self._ended = True

    def store(self, file: int, start: int, request: StoreRequest, *, urgent: bool) -> int:
        """Send what lies in the open `file` from `start` on, in an accepted context; the peer's status.

        Raises:
            OutcomeUnknown: there is none.
            OSError, EOFError: the file cannot be read to its end; the association may have ended.
        """
        context_id = self._accepted[request.sop_class_uid, request.transfer_syntax_uid]
        size = os.fstat(file).st_size - start
        if size < 0:
            raise EOFError
        try:
            self._send(file, start, size, context_id, request, HIGH if urgent else MEDIUM)
            answer_context_id, answer = self._layer.response(self._patience_s)
        except ConnectionEnded as error:
            self._ended = True
            raise OutcomeUnknown("the association ended before the response", gone=True) from error
        except NoAnswer as error:
            self._abort()
            raise OutcomeUnknown(f"no response within {self._patience_s:g} s", gone=False) from error
        if answer_context_id != context_id or not self._fits(answer) or answer.status is None:
            self._abort()
            raise OutcomeUnknown("the response is not one to this request", gone=False)
        return answer.status

    def _send(
        self, file: int, start: int, size: int, context_id: int, request: StoreRequest, priority: int
    ) -> None:
        self._message_id = self._message_id % 0xFFFF + 1
        self._layer.begin(self._patience_s, self._patience_s + size / SLOWEST_BYTES_PER_S)
        self._layer.write(
            c_store_request(
                context_id,
                self._message_id,
                request.sop_class_uid,
                request.sop_instance_uid,
                priority,
                self._pdus.longest,
            )
        )
        try:
            for piece in self._pdus.pieces(file, start, start + size, context_id):
                self._layer.write(piece)
        except (OSError, EOFError):
            # The peer waits for the rest of a data set that will not come.
            self._layer.hang_up()
            self._ended = True
            raise

    def _fits(self, answer: Command) -> bool:
        return answer.field == C_STORE_RSP and answer.responds_to == self._message_id

    def _abort(self) -> None:
        self._ended = True
        self._layer.give_back()
        self._association.abort()


def _usable(association: RequestedAssociation, contexts: list[Context]) -> dict[tuple[str, str], int]:
    """The accepted contexts. The peer may choose only what was proposed to it (PS3.8 9.3.3.2)."""
    usable: dict[tuple[str, str], int] = {}
    for context in association.accepted_contexts:
        assert context.context_id is not None
        abstract, syntaxes = contexts[context.context_id // 2]
        chosen = str(context.transfer_syntax[0]) if context.transfer_syntax else ""
        if chosen in syntaxes and context.as_scu:
            usable.setdefault((abstract, chosen), context.context_id)
    return usable
