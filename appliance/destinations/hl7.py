"""A system that takes HL7 v2 messages over MLLP."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from appliance.config.destinations import Hl7Destination
from appliance.config.schema import Config
from appliance.destinations.base import Parcel
from appliance.destinations.messages import Unreadable, content_of, tell
from appliance.domain.errors import TryAgain
from appliance.domain.types import Postponed, Refused, SendResult, Stored
from appliance.network.mllp import Acknowledgement, MllpConnection
from appliance.network.sending import OutcomeUnknown
from appliance.network.tls import client_context

ACCEPTED = frozenset({"AA", "CA"})
_INTERNAL_ERROR = 207  # HL7 table 0357, for answers that do not say what is wrong


class Hl7Listener:
    """Sends on one connection, which is kept open for the next message."""

    def __init__(self, config: Config, name: str) -> None:
        settings = config.destinations[name]
        assert isinstance(settings, Hl7Destination)
        self._settings = settings
        self._tls = client_context(f"destinations.{name}.tls", settings.tls)
        self._certified_as = (settings.tls and settings.tls.name) or settings.host
        self._connection: MllpConnection | None = None

    def send(self, parcels: Sequence[Parcel], settle: Callable[[Parcel, SendResult], bool]) -> None:
        """See `Destination.send`."""
        tell(parcels, settle, self._send_one)

    def probe(self) -> None:
        """See `Destination.probe`: a connection."""
        self.rest()
        self._open().close()

    def rest(self) -> None:
        """See `Destination.rest`: closes the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _send_one(self, parcel: Parcel) -> SendResult:
        try:
            message = content_of(parcel)
        except Unreadable as error:
            return Postponed(str(error))
        kept = self._connection
        if kept is not None and not kept.has_ended:
            try:
                return self._judge(kept.exchange(message), parcel.delivery.attempts)
            except OutcomeUnknown as error:
                self.rest()
                if not error.gone:
                    raise
                # It had ended while there was nothing to send: no failure of this message.
        self.rest()
        self._connection = self._open()
        try:
            return self._judge(self._connection.exchange(message), parcel.delivery.attempts)
        except OutcomeUnknown:
            self.rest()
            raise

    def _open(self) -> MllpConnection:
        settings = self._settings
        try:
            return MllpConnection(
                settings.host, settings.port, self._tls, self._certified_as, settings.timeout_s
            )
        except TryAgain as error:
            raise TryAgain(f"{settings.host}:{settings.port} {error}") from error

    def _judge(self, answer: Acknowledgement, attempts: int) -> SendResult:
        """What an answer means. Its texts are not repeated: they may quote the patient."""
        if answer.code in ACCEPTED:
            return Stored(0)
        number = "" if answer.error is None else f" (error {answer.error})"
        reason = f"the destination answers {answer.code[:2] or 'without a code'}{number}"
        status = answer.error or _INTERNAL_ERROR
        if attempts >= self._settings.attempts:
            return Refused(f"{reason}, {attempts} times", status)
        return Postponed(reason, status)
