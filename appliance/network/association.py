"""An association without the library's polling, whoever opened it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association

_IDLE_LOOK_S = 1.0

_log = logging.getLogger(__name__)


class QuietAssociation(Association):
    """An association whose thread sleeps until the upper layer has something for it.

    `mode` is the role in the association that this side has, as the library says it.
    """

    def __init__(self, entity: ApplicationEntity, mode: str, ended: Callable[[], None]) -> None:
        super().__init__(entity, mode)
        self._ended = ended
        self._awake = threading.Event()

    def wake(self) -> None:
        """There is something to look at."""
        self._awake.set()

    def run(self) -> None:
        """The thread."""
        try:
            super().run()
        except Exception as error:  # noqa: BLE001 - as in the upper layer: any fault ends the association
            _log.exception("association_failed", extra={"error": type(error).__name__})
            self.abort()
        finally:
            self._ended()

    def kill(self) -> None:
        """End the thread."""
        self.wake()
        super().kill()

    def _run_reactor(self) -> None:
        """The library's loop, without its polling."""
        self._is_paused = False
        while not self._kill:
            self._is_paused = True
            self._awake.wait(_IDLE_LOOK_S)
            self._awake.clear()
            self._reactor_checkpoint.wait()
            self._is_paused = False
            # Whoever waits for a response clears the checkpoint before it looks at the pause: what arrives
            # from then on is theirs.
            if not self._reactor_checkpoint.is_set():
                self._awake.set()
                continue
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
