"""The C-STORE SCU: sends spooled files as they lie, each data set byte for byte."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from appliance.config.schema import Config
from appliance.domain.errors import TryAgain
from appliance.domain.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from appliance.domain.types import Postponed, Refused, SendResult, Stored
from appliance.network.library import keep_responses, tune_socket
from appliance.network.tls import client_context

MAXIMUM_CONTEXTS = 128
_HIGH, _MEDIUM = 1, 0  # (0000,0700), PS3.7 E.1; pynetdicom's own default is LOW
_ACSE_TIMEOUT_S = 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Peer:
    """Who is called, as whom, and how long to wait for an answer.

    With `tls`, its certificate must be for `tls_name`, or for `host` where that is None.
    """

    ae_title: str
    host: str
    port: int
    calling_ae_title: str
    response_timeout_s: float
    tls: ssl.SSLContext | None = None
    tls_name: str | None = None


def peer_of(config: Config, name: str) -> Peer:
    """The destination that the configuration calls `name`.

    Raises:
        Misconfigured: its TLS files cannot be used.
    """
    destination, tls = config.destinations[name], None
    if destination.tls is not None:
        files = destination.tls
        tls = client_context(f"destinations.{name}.tls", files.certificate, files.key, files.ca)
    return Peer(
        destination.ae_title,
        destination.host,
        destination.port,
        config.station.ae_title,
        config.delivery.dimse_timeout_s,
        tls,
        destination.tls.name if destination.tls else None,
    )


class NothingAccepted(TryAgain):
    """The peer is there, but accepts none of the presentation contexts."""


def open_association(
    peer: Peer,
    contexts: Iterable[tuple[str, Sequence[str]]],
    *,
    scp_roles: Collection[str] = (),
    handlers: Sequence[EventHandlerType] = (),
) -> Association:
    """Open an association with one presentation context for each (abstract syntax, transfer syntaxes).

    `scp_roles` are the abstract syntaxes for which the caller, and not the peer, is the SCP (PS3.7 D.3.3.4).

    Raises:
        TryAgain: the peer cannot be reached, or it rejects or aborts the association.
        NothingAccepted: no context can be used.
    """
    entity = AE(ae_title=peer.calling_ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.acse_timeout = _ACSE_TIMEOUT_S
    entity.connection_timeout = _ACSE_TIMEOUT_S
    entity.dimse_timeout = peer.response_timeout_s
    entity.network_timeout = peer.response_timeout_s
    try:
        association = entity.associate(
            peer.host,
            peer.port,
            contexts=[build_context(abstract, list(syntaxes)) for abstract, syntaxes in contexts],
            ae_title=peer.ae_title,
            ext_neg=[build_role(UID(abstract), scp_role=True) for abstract in scp_roles],
            tls_args=(peer.tls, peer.tls_name or peer.host) if peer.tls else None,
            evt_handlers=[(evt.EVT_CONN_OPEN, tune_socket), *handlers],
        )
    except OSError as error:
        raise TryAgain(f"{peer.ae_title} at {peer.host}:{peer.port}: {error.strerror}") from error
    if not association.is_established:
        kind = NothingAccepted if association.rejected_contexts else TryAgain
        raise kind(f"{peer.ae_title} at {peer.host}:{peer.port} {_refusal(association)}")
    return association


def echo(peer: Peer) -> None:
    """Verify that the peer answers (C-ECHO, PS3.4 annex A).

    Raises:
        TryAgain: it does not, or not with success.
    """
    association = open_association(peer, [(Verification, [ImplicitVRLittleEndian])])
    keep_responses(association)
    status = association.send_c_echo().get("Status")
    association.release()
    if status != 0x0000:
        raise TryAgain(f"{peer.ae_title} at {peer.host}:{peer.port} does not answer a C-ECHO")


class StoreAssociation:
    """One association to a storage SCP, for objects of the given (SOP class, transfer syntax) pairs.

    A context manager: leaving it releases the association. At most `MAXIMUM_CONTEXTS` pairs.

    Raises:
        TryAgain: the peer cannot be reached, or it rejects or aborts the association.
    """

    def __init__(self, peer: Peer, contexts: Collection[tuple[str, str]]) -> None:
        self._message_id = 0
        self._association: Association | None = None
        self._accepted: set[tuple[str, str]] = set()
        pairs = [(sop_class, [syntax]) for sop_class, syntax in sorted(contexts)]
        try:
            # One syntax for each context: else the peer may choose one that the file does not have.
            self._association = open_association(peer, pairs)
        except NothingAccepted:
            return
        keep_responses(self._association)
        self._accepted = {
            (str(context.abstract_syntax), str(context.transfer_syntax[0]))
            for context in self._association.accepted_contexts
        }

    def __enter__(self) -> StoreAssociation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._association is None or not self.is_open:
            return
        if kind is None:
            self._association.release()
        else:
            self._association.abort()

    @property
    def is_open(self) -> bool:
        """False once the peer has gone; the next object needs a new association."""
        return self._association is not None and bool(self._association.is_established)

    def send(self, file: Path, sop_class_uid: str, transfer_syntax_uid: str, *, urgent: bool) -> SendResult:
        """Send the data set of one file and say what became of it.

        Any doubt about the outcome is `Postponed`: the same UID is sent again.
        """
        if (sop_class_uid, transfer_syntax_uid) not in self._accepted:
            return Refused(
                f"the destination does not accept SOP class {sop_class_uid}"
                f" in transfer syntax {transfer_syntax_uid}"
            )
        if self._association is None or not self.is_open:
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


def _refusal(association: Association) -> str:
    if association.is_rejected:
        primitive = association.acceptor.primitive
        if primitive is not None:
            code = f"{primitive.result}/{primitive.result_source}/{primitive.diagnostic}"
            return f"rejects the association ({code})"
        return "rejects the association"
    if association.rejected_contexts:
        return "accepts no presentation context"
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
