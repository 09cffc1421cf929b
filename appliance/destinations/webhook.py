"""A system that takes signed JSON documents over HTTP.

Each request carries the time of sending and HMAC-SHA256(secret, time + "." + body), so that a receiver can
tell documents of this appliance from others, and from old ones that somebody sends again (docs/messages.md).
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from appliance.config.destinations import WebhookDestination
from appliance.config.schema import Config
from appliance.destinations.base import Parcel
from appliance.destinations.messages import Unreadable, content_of, tell
from appliance.domain.errors import Misconfigured, TryAgain
from appliance.domain.identity import IMPLEMENTATION_VERSION_NAME
from appliance.domain.types import Postponed, Refused, SendResult, Stored
from appliance.network.connection import connect
from appliance.network.sending import OutcomeUnknown
from appliance.network.tls import client_context, public_context

SIGNATURE_HEADER = "X-Appliance-Signature"
TIMESTAMP_HEADER = "X-Appliance-Timestamp"

_SHORTEST_SECRET = 16
_LONGEST_ANSWER = 64 * 1024
# RFC 9110 15.5.9, RFC 8470 5.2, RFC 6585 4: not now.
LATER = frozenset({408, 425, 429})


class Webhook:
    """Posts each document on a connection of its own. Redirects are not followed."""

    def __init__(self, config: Config, name: str) -> None:
        settings = config.destinations[name]
        assert isinstance(settings, WebhookDestination)
        address = urlsplit(settings.url)
        assert address.hostname is not None
        secure = address.scheme == "https"
        self._host, self._port = address.hostname, address.port or (443 if secure else 80)
        self._authority = address.netloc
        self._target = (address.path or "/") + (f"?{address.query}" if address.query else "")
        self._certified_as = (settings.tls and settings.tls.name) or address.hostname
        self._timeout_s = settings.timeout_s
        self._secret = _secret(f"destinations.{name}.secret", settings.secret)
        self._tls: ssl.SSLContext | None = None
        if secure:
            self._tls = client_context(f"destinations.{name}.tls", settings.tls) or public_context()
        elif settings.tls is not None:
            raise Misconfigured([f"destinations.{name}.tls: the url is not https"])

    def send(self, parcels: Sequence[Parcel], settle: Callable[[Parcel, SendResult], bool]) -> None:
        """See `Destination.send`."""
        tell(parcels, settle, self._send_one)

    def probe(self) -> None:
        """See `Destination.probe`: a connection."""
        self._connect().close()

    def rest(self) -> None:
        """See `Destination.rest`: nothing is kept open."""

    def _send_one(self, parcel: Parcel) -> SendResult:
        try:
            body = content_of(parcel)
        except Unreadable as error:
            return Postponed(str(error))
        timestamp = str(int(time.time()))
        headers = {
            "Host": self._authority,
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": IMPLEMENTATION_VERSION_NAME,
            "Idempotency-Key": parcel.delivery.sop_instance_uid,
            TIMESTAMP_HEADER: timestamp,
            SIGNATURE_HEADER: signature(self._secret, timestamp, body),
            "Connection": "close",
        }
        return _judge(self._post(body, headers))

    def _post(self, body: bytes, headers: dict[str, str]) -> int:
        """The status of the answer.

        Raises:
            TryAgain: there is no connection.
            OutcomeUnknown: there is no answer.
        """
        connection = self._connect()
        connection.settimeout(self._timeout_s)
        # Each byte may take as long as that: this ends an answer that never does.
        deadline = threading.Timer(self._timeout_s, _cut, (connection,))
        deadline.daemon = True
        deadline.start()
        request = HTTPConnection(self._host, self._port)
        request.auto_open = 0
        request.sock = connection
        try:
            request.request("POST", self._target, body, headers)
            answer = request.getresponse()
            with suppress(OSError, HTTPException):  # the status is all that counts
                answer.read(_LONGEST_ANSWER)
        except (OSError, HTTPException) as error:
            raise OutcomeUnknown(f"no answer: {type(error).__name__}", gone=True) from error
        finally:
            deadline.cancel()
            request.close()
        return answer.status

    def _connect(self) -> socket.socket:
        try:
            return connect(self._host, self._port, self._tls, self._certified_as, self._timeout_s)
        except TryAgain as error:
            raise TryAgain(f"{self._authority} {error}") from error


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """The value of `SIGNATURE_HEADER`."""
    return f"sha256={hmac.new(secret, timestamp.encode() + b'.' + body, hashlib.sha256).hexdigest()}"


def _judge(status: int) -> SendResult:
    reason = f"the destination answers with the HTTP status {status}"
    if 200 <= status < 300:
        return Stored(0)
    if status >= 500 or status in LATER:
        return Postponed(reason, status)
    return Refused(reason, status)


def _secret(setting: str, path: Path) -> bytes:
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise Misconfigured([f"{setting}: cannot be read: {error.strerror}"]) from error
    if len(secret) < _SHORTEST_SECRET:
        raise Misconfigured([f"{setting}: has fewer than {_SHORTEST_SECRET} bytes"])
    return secret


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
