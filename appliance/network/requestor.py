"""The C-STORE SCU: sends spooled files as they lie, each data set byte for byte."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association

from appliance.domain.errors import TryAgain
from appliance.domain.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from appliance.domain.types import Postponed, Refused, SendResult, Stored
from appliance.network.library import keep_responses, tune_socket

MAXIMUM_CONTEXTS = 128
_HIGH, _MEDIUM = 1, 0  # (0000,0700), PS3.7 E.1; pynetdicom's own default is LOW
_ACSE_TIMEOUT_S = 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Peer:
    """A storage SCP and how long to wait for it."""

    ae_title: str
    host: str
    port: int
    calling_ae_title: str
    response_timeout_s: float


class StoreAssociation:
    """One association to a storage SCP, for objects of the given (SOP class, transfer syntax) pairs.

    A context manager: leaving it releases the association. At most `MAXIMUM_CONTEXTS` pairs.

    Raises:
        TryAgain: the peer cannot be reached, or it rejects or aborts the association.
    """

    def __init__(self, peer: Peer, contexts: Collection[tuple[str, str]]) -> None:
        entity = AE(ae_title=peer.calling_ae_title)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.acse_timeout = _ACSE_TIMEOUT_S
        entity.connection_timeout = _ACSE_TIMEOUT_S
        entity.dimse_timeout = peer.response_timeout_s
        entity.network_timeout = peer.response_timeout_s
        handlers: list[Any] = [(evt.EVT_CONN_OPEN, tune_socket)]
        self._association: Association = entity.associate(
            peer.host,
            peer.port,
            # One syntax for each context: else the peer may choose one that the file does not have.
            contexts=[build_context(sop_class, syntax) for sop_class, syntax in sorted(contexts)],
            ae_title=peer.ae_title,
            evt_handlers=handlers,
        )
        keep_responses(self._association)
        self._message_id = 0
        # A peer that accepts the association and none of its contexts is aborted by the library, but
        # it is there, and each object is refused on its own.
        rejected_contexts = self._association.rejected_contexts
        if not self._association.is_established and not rejected_contexts:
            raise TryAgain(f"{peer.ae_title} at {peer.host}:{peer.port} {self._refusal()}")
        self._accepted = {
            (str(context.abstract_syntax), str(context.transfer_syntax[0]))
            for context in self._association.accepted_contexts
        }

    def __enter__(self) -> StoreAssociation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._association.is_established:
            return
        if kind is None:
            self._association.release()
        else:
            self._association.abort()

    @property
    def is_open(self) -> bool:
        """False once the peer has gone; the next object needs a new association."""
        return bool(self._association.is_established)

    def send(self, file: Path, sop_class_uid: str, transfer_syntax_uid: str, *, urgent: bool) -> SendResult:
        """Send the data set of one file and say what became of it.

        Any doubt about the outcome is `Postponed`: the same UID is sent again.
        """
        if (sop_class_uid, transfer_syntax_uid) not in self._accepted:
            return Refused(
                f"the destination does not accept SOP class {sop_class_uid}"
                f" in transfer syntax {transfer_syntax_uid}"
            )
        if not self.is_open:
            return Postponed("the association is closed")
        self._message_id = self._message_id % 0xFFFF + 1
        try:
            response = self._association.send_c_store(
                file, msg_id=self._message_id, priority=_HIGH if urgent else _MEDIUM
            )
        except (OSError, RuntimeError, ValueError) as error:
            _log.warning("c_store_failed", extra={"error": type(error).__name__})
            return Postponed(f"sending failed: {type(error).__name__}")
        status = response.get("Status")
        if status is None:
            # A timeout or an abort: the library may call the association open for another instant.
            self._association.abort()
            return Postponed("no response")
        return _judge(int(status))

    def _refusal(self) -> str:
        association = self._association
        if association.is_rejected:
            primitive = association.acceptor.primitive
            if primitive is not None:
                code = f"{primitive.result}/{primitive.result_source}/{primitive.diagnostic}"
                return f"rejects the association ({code})"
            return "rejects the association"
        if association.is_aborted:
            return "cannot be reached or aborts the association"
        return "does not answer"


def _judge(status: int) -> SendResult:
    """What a C-STORE status means for us (PS3.4 table B.2-1, PS3.7 annex C)."""
    if status == 0x0000 or 0xB000 <= status <= 0xBFFF or status == 0x0107 or status == 0x0116:
        return Stored(status)
    if 0xA700 <= status <= 0xA7FF:
        return Postponed("the destination is out of resources", status)
    if status == 0x0124:
        return Postponed("the destination does not authorise us", status)
    if status == 0x0111:
        return Refused("the destination has another object under this SOP instance UID", status)
    return Refused("the destination refuses the object", status)
