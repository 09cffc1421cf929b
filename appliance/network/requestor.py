"""Opening associations: to whom, for what, and with what deadlines."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, build_role
from pynetdicom._globals import MODE_REQUESTOR
from pynetdicom.events import EventHandlerType
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import T_CONNECT, AddressInformation, AssociationSocket

from appliance.config.destinations import DicomNode
from appliance.config.schema import Config
from appliance.domain.errors import TryAgain
from appliance.domain.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from appliance.network.association import QuietAssociation
from appliance.network.connection import connect, reason
from appliance.network.limits import Limits
from appliance.network.requestor_layer import RequestorLayer
from appliance.network.tls import client_context
from appliance.network.upper_layer import bound

MAXIMUM_CONTEXTS = 128

_ANSWER_S = 30.0
"""For the connection, for TLS, and for the answer to the A-ASSOCIATE-RQ; no more than for other answers."""
_RELEASE_S = 5.0
_LIMITS = Limits(pdu_bytes=16384, idle_s=float("inf"), tick_s=1.0)
"""Responses are short. An association ends when its user is done with it, not by the clock."""


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

    def __str__(self) -> str:
        """For messages."""
        return f"{self.ae_title} at {self.host}:{self.port}"


def peer_of(config: Config, name: str) -> Peer:
    """The DICOM peer that the configuration calls `name`.

    Raises:
        Misconfigured: its TLS files cannot be used.
    """
    destination = config.destinations[name]
    assert isinstance(destination, DicomNode)
    return Peer(
        destination.ae_title,
        destination.host,
        destination.port,
        config.station.ae_title,
        config.delivery.dimse_timeout_s,
        client_context(f"destinations.{name}.tls", destination.tls),
        destination.tls.name if destination.tls else None,
    )


class NothingAccepted(TryAgain):
    """The peer is there, but accepts none of the presentation contexts."""


class RequestedAssociation(QuietAssociation):
    """An association that this side opens; `request` negotiates it, `start` begins its thread."""

    def __init__(
        self,
        peer: Peer,
        connection: socket.socket,
        contexts: Iterable[tuple[str, Sequence[str]]],
        scp_roles: Collection[str],
    ) -> None:
        entity = AE(ae_title=peer.calling_ae_title)
        super().__init__(entity, MODE_REQUESTOR, ended=lambda: None)
        self.acse_timeout = min(_ANSWER_S, peer.response_timeout_s)
        self.dimse_timeout = peer.response_timeout_s
        self.network_timeout = None
        limits = replace(_LIMITS, pdu_s=self.acse_timeout)
        self.upper_layer = RequestorLayer(self, limits)
        self.dul = self.upper_layer
        bound(connection, _LIMITS.tick_s)
        self.set_socket(_Connected(self, connection))
        self.acceptor.ae_title = peer.ae_title
        self.acceptor.address_info = AddressInformation.from_tuple(connection.getpeername())
        requestor = self.requestor
        requestor.ae_title = peer.calling_ae_title
        requestor.address_info = AddressInformation.from_tuple(connection.getsockname())
        requestor.maximum_length = _LIMITS.pdu_bytes
        requestor.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
        requestor.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        for abstract in scp_roles:
            requestor.add_negotiation_item(build_role(UID(abstract), scp_role=True))
        proposed = [build_context(abstract, list(syntaxes)) for abstract, syntaxes in contexts]
        for index, context in enumerate(proposed):
            context.context_id = 2 * index + 1
        requestor.requested_contexts = proposed


class _Connected(AssociationSocket):
    """A connection that is there already, where the library would make one."""

    def __init__(self, association: QuietAssociation, connection: socket.socket) -> None:
        self._connection = connection
        super().__init__(association, address=AddressInformation.from_tuple(connection.getsockname()))

    def _create_socket(self, address: AddressInformation) -> socket.socket:
        return self._connection

    def connect(self, primitive: T_CONNECT) -> None:
        """Say that it is there."""
        self._is_connected = True
        primitive.result = "Evt2"
        self.provider_queue.put(primitive)
        self._ready.set()

    def _shutdown_socket(self) -> None:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def open_association(
    peer: Peer,
    contexts: Iterable[tuple[str, Sequence[str]]],
    *,
    scp_roles: Collection[str] = (),
    handlers: Sequence[EventHandlerType] = (),
) -> RequestedAssociation:
    """Open an association with one presentation context for each (abstract syntax, transfer syntaxes).

    `scp_roles` are the abstract syntaxes for which the caller, and not the peer, is the SCP (PS3.7 D.3.3.4).

    Raises:
        TryAgain: the peer cannot be reached, or it rejects or aborts the association.
        NothingAccepted: no context can be used.
    """
    patience_s = min(_ANSWER_S, peer.response_timeout_s)
    try:
        connection = connect(peer.host, peer.port, peer.tls, peer.tls_name or peer.host, patience_s)
    except TryAgain as error:
        raise TryAgain(f"{peer} {error}") from error
    try:
        association = RequestedAssociation(peer, connection, contexts, scp_roles)
    except OSError as error:
        connection.close()
        raise TryAgain(f"{peer} closes the connection as soon as it is open") from error
    for handler in handlers:
        association.bind(*handler)
    try:
        association.request()
    except (KeyError, ValueError, IndexError) as error:
        # The library trips over some answers that make no sense.
        association.abort()
        raise TryAgain(f"{peer} answers with an association that was not asked for") from error
    if not association.is_established:
        kind = NothingAccepted if association.rejected_contexts else TryAgain
        raise kind(f"{peer} {_refusal(association)}")
    association.acse_timeout = min(_RELEASE_S, peer.response_timeout_s)
    association.start()
    return association


def echo(peer: Peer) -> None:
    """Verify that the peer answers (C-ECHO, PS3.4 annex A).

    Raises:
        TryAgain: it does not, or not with success.
    """
    try:
        association = open_association(peer, [(Verification, [ImplicitVRLittleEndian])])
    except NothingAccepted:
        return  # It is there, and that is all that the question is about.
    try:
        status = association.send_c_echo().get("Status")
    except (RuntimeError, ValueError) as error:
        raise TryAgain(f"{peer} ends the association instead of answering a C-ECHO") from error
    finally:
        association.release()
    if status != 0x0000:
        raise TryAgain(f"{peer} does not answer a C-ECHO with success")


def _refusal(association: RequestedAssociation) -> str:
    if association.is_rejected:
        answer = association.acceptor.primitive
        assert answer is not None
        return f"rejects the association ({answer.result}/{answer.result_source}/{answer.diagnostic})"
    if association.rejected_contexts:
        return "accepts no presentation context"
    if isinstance(association.upper_layer.lost, ssl.SSLError):
        # With TLS 1.3, a server says only after the handshake that it does not like a certificate.
        return f"ends the connection: {reason(association.upper_layer.lost)}"
    return "aborts the association or does not answer"
