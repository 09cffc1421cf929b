"""An association that a peer opened, without the library's polling."""

from __future__ import annotations

import threading
from copy import deepcopy

from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import MODE_ACCEPTOR, Association
from pynetdicom.transport import AssociationSocket, RequestHandler

from appliance.network.upper_layer import UpperLayer, set_ticks

_IDLE_LOOK_S = 1.0


class AcceptedAssociation(Association):
    """An association that a peer opened; its thread sleeps until the upper layer has something for it."""

    def __init__(self, entity: ApplicationEntity) -> None:
        super().__init__(entity, MODE_ACCEPTOR)
        self._awake = threading.Event()

    def wake(self) -> None:
        """There is something to look at."""
        self._awake.set()

    def kill(self) -> None:
        """End the thread."""
        self.wake()
        super().kill()

    def _run_reactor(self) -> None:
        """The library's loop for an accepted association, without its polling."""
        self._is_paused = False
        while not self._kill:
            self._is_paused = True
            self._awake.wait(_IDLE_LOOK_S)
            self._awake.clear()
            self._reactor_checkpoint.wait()
            self._is_paused = False
            while not self._kill:
                context_id, message = self.dimse.get_msg(block=False)
                if message is None or context_id is None:
                    break
                self._serve_request(message, context_id)
            if self._has_ended():
                self.kill()
                return

    def _has_ended(self) -> bool:
        if self.is_established and self.acse.is_release_requested():
            self.acse.send_release(is_response=True)
            self.is_released = True
            self.is_established = False
            evt.trigger(self, evt.EVT_RELEASED, {})
            return True
        if self.acse.is_aborted():
            self.dul.receive_pdu(wait=False)
            self.is_aborted = True
            self.is_established = False
            evt.trigger(self, evt.EVT_ABORTED, {})
            return True
        if not self.dul.is_alive():
            return True
        if self.dul.idle_timer_expired():
            self.abort()
            return True
        return False


class StoreHandler(RequestHandler):
    """Makes an `AcceptedAssociation` out of a new connection."""

    def _create_association(self) -> Association:
        server = self.server
        association = AcceptedAssociation(self.ae)
        association.name = f"AcceptorThread@{self.client_address[0]}:{self.client_address[1]}"
        association._server = server
        acceptor = association.acceptor
        acceptor.maximum_length = self.ae.maximum_pdu_size
        acceptor.ae_title = server.ae_title
        acceptor.address_info = self.local
        acceptor.implementation_class_uid = self.ae.implementation_class_uid
        acceptor.implementation_version_name = self.ae.implementation_version_name
        acceptor.supported_contexts = deepcopy(server.contexts)
        association.requestor.address_info = self.remote
        for event, handlers in server._handlers.items():
            if event.is_intervention:
                association.bind(event, *handlers)
            else:
                for function, arguments in handlers:
                    association.bind(event, function, arguments)
        association.dul = UpperLayer(association, association.wake, server.begin, server.misbehaved)
        set_ticks(self.request)
        association.set_socket(AssociationSocket(association, client_socket=self.request))
        return association
