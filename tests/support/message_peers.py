"""Real systems that are told of findings: python-hl7 as HL7 listener, an HTTP server, a UPS SCP.

Each gives its `answers` in turn, the last of them for ever, and writes down what came.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import socketserver
import ssl
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hl7
from hl7.mllp import HL7StreamReader, HL7StreamWriter, start_hl7_server
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import N_ACTION, N_CREATE
from pynetdicom.events import Event
from pynetdicom.transport import ThreadedAssociationServer

from tests.support.processes import free_port

UPS_PUSH = "1.2.840.10008.5.1.4.34.6.1"
SILENCE = "silence"
"""An answer of an HL7 listener: none."""
HANG_UP = "hang up"
"""An answer of an HL7 listener: the end of the connection."""


def server_tls(folder: Path, name: str) -> ssl.SSLContext:
    """Shows the certificate of `name` in `folder`, and asks for one that the same authority signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


class Turns:
    """The next answer, and the last one for ever."""

    def __init__(self, answers: Sequence[Any]) -> None:
        self.answers = list(answers)

    def take(self) -> Any:
        """The answer whose turn it is."""
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Hl7Server:
    """python-hl7's MLLP listener. `answers` are codes for MSA-1, or how it misbehaves."""

    def __init__(
        self, answers: Sequence[str] = ("AA",), *, port: int | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.port = port or free_port()
        self.messages: list[hl7.Message] = []
        self.acknowledged: list[str] = []
        self.connections = 0
        self.turns = Turns(answers)
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._writers: list[HL7StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> Hl7Server:
        """Listen."""
        listening = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listening,))
        self._thread.start()
        assert listening.wait(10)
        return self

    @property
    def is_running(self) -> bool:
        """Whether `stop` was not called yet."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Close everything."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self, listening: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve(listening))
        self._loop.close()

    async def _serve(self, listening: threading.Event) -> None:
        self._over = asyncio.Event()
        server = await start_hl7_server(self._talk, "127.0.0.1", self.port, encoding="utf-8", ssl=self._tls)
        listening.set()
        await self._over.wait()
        # asyncio trips over a connection that was accepted, but not made yet, when its server closes.
        await asyncio.sleep(0.1)
        server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.sleep(0.05)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _talk(self, reader: HL7StreamReader, writer: HL7StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self._writers.append(writer)
        try:
            while True:
                message = await reader.readmessage()
                self.messages.append(message)
                answer = self.turns.take()
                if answer == HANG_UP:
                    break
                if answer != SILENCE:
                    self.acknowledged.append(answer)
                    writer.writemessage(message.create_ack(answer))
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


class WebhookReceiver:
    """An HTTP server that checks the signature. `answers` are HTTP status codes."""

    def __init__(
        self,
        secret: bytes,
        answers: Sequence[int] = (204,),
        *,
        port: int = 0,
        headers: Mapping[str, str] = {},
    ) -> None:
        self._secret = secret
        self.turns = Turns(answers)
        self._headers = dict(headers)
        self.requests: list[dict[str, str]] = []
        self.documents: list[dict[str, Any]] = []
        self.refused_signatures = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver._answer(self)

            def log_message(self, format: str, *arguments: object) -> None:
                """Nothing to be told."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port: int = self._server.server_address[1]

    def wrap(self, tls: ssl.SSLContext) -> None:
        """Speak https."""
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)

    def start(self) -> WebhookReceiver:
        """Answer requests."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        signed = request.headers["X-Appliance-Timestamp"].encode() + b"." + body
        wanted = "sha256=" + hmac.new(self._secret, signed, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(wanted, request.headers["X-Appliance-Signature"]):
            self.refused_signatures += 1
            status = 401
        else:
            self.requests.append({**request.headers, "path": request.path})
            self.documents.append(json.loads(body))
            status = self.turns.take()
        request.send_response(status)
        for name, value in self._headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", "0")
        request.end_headers()


class _Server(ThreadedAssociationServer):
    """The library's, but not on its list of servers, of which its `shutdown` takes it off."""

    def shutdown(self) -> None:
        socketserver.BaseServer.shutdown(self)
        self.server_close()


class UpsManager:
    """An SCP of UPS Push. `answers` are DIMSE status codes for workitems that it does not have yet.

    A workitem that it has is cancelled when somebody asks for it, as one that nobody has claimed
    (PS3.4 CC.2.2.3); one in another state, which a test may set, gives the status of that state.
    """

    def __init__(self, answers: Sequence[int] = (0x0000,), *, port: int | None = None) -> None:
        self.port = port or free_port()
        self.workitems: dict[str, Dataset] = {}
        self.cancellations: list[tuple[str, Dataset]] = []
        self.requests = 0
        self.turns = Turns(answers)
        self._entity = AE(ae_title="RIS")
        self._entity.add_supported_context(UPS_PUSH)

    def start(self) -> UpsManager:
        """Accept associations."""
        self._server = self._entity.make_server(
            ("127.0.0.1", self.port),
            evt_handlers=[(evt.EVT_N_CREATE, self._create), (evt.EVT_N_ACTION, self._act)],
            server_class=_Server,
        )
        # It looks every 50 ms, not every half second, whether it is to stop.
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Accept no more."""
        for association in self._entity.active_associations:
            association.abort()
        self._server.shutdown()

    def _create(self, event: Event) -> tuple[int, Dataset | None]:
        self.requests += 1
        assert isinstance(event.request, N_CREATE)
        uid = str(event.request.AffectedSOPInstanceUID)
        if uid in self.workitems:
            return 0x0111, None
        status = self.turns.take()
        attributes = event.attribute_list
        if status == 0x0000:
            self.workitems[uid] = attributes
        return status, attributes if status == 0x0000 else None

    def _act(self, event: Event) -> tuple[int, Dataset | None]:
        assert isinstance(event.request, N_ACTION)
        if event.request.ActionTypeID != 2:
            return 0x0123, None
        uid = str(event.request.RequestedSOPInstanceUID)
        self.cancellations.append((uid, event.action_information))
        if uid not in self.workitems:
            return 0xC307, None
        state = self.workitems[uid].ProcedureStepState
        status = {"SCHEDULED": 0x0000, "IN PROGRESS": 0xC312, "COMPLETED": 0xC311, "CANCELED": 0xB304}[state]
        if status == 0x0000:
            self.workitems[uid].ProcedureStepState = "CANCELED"
        return status, None
