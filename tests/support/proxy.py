"""A network between two peers of this machine that can be made to fail."""

from __future__ import annotations

import random
import select
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

_PIECE_BYTES = 65536
_BUFFER_BYTES = 65536
_LOOK_S = 0.1


@dataclass(frozen=True)
class Trouble:
    """What the network does to each connection once up to `after_bytes` (drawn anew) have gone to the server.

    `cut`: it ends the connection in an orderly way; `reset`: with a TCP RST; `stall`: it carries nothing any
    more in either direction and says nothing; `deaf`: the same, but only towards the client, so that the
    server's answers are lost; `slow`: it carries everything, each piece later by `delay_s`.
    """

    how: Literal["cut", "reset", "stall", "deaf", "slow"]
    after_bytes: int = 0
    delay_s: float = 0.0


class Proxy:
    """Listens on `port` and relays each connection to `target`, through `trouble` unless that is None."""

    def __init__(self, target: int, trouble: Trouble | None = None, *, seed: int = 0) -> None:
        self.trouble = trouble
        self.troubled = 0
        """Connections that met with the trouble."""
        self._target = target
        self._chance = random.Random(seed)
        self._connections: list[_Connection] = []
        self._stopping = threading.Event()
        self._listener = socket.socket()
        # Small buffers, so that a stall is felt before a large object has vanished into them.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self._listener.settimeout(_LOOK_S)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def heal(self) -> None:
        """Carry everything, on open connections without delay; one that is to fail still does."""
        self.trouble = None

    def stop(self) -> None:
        """Stop listening and drop all connections."""
        self._stopping.set()
        self._thread.join()
        self._listener.close()
        for connection in self._connections:
            connection.stop()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except ConnectionError:
                _reset(client)
                continue
            self._connections.append(_Connection(self, client, server, self.trouble, self._chance.random()))


class _Connection:
    """One connection with its own share of the trouble, relayed by a thread of its own."""

    def __init__(
        self,
        proxy: Proxy,
        client: socket.socket,
        server: socket.socket,
        trouble: Trouble | None,
        share: float,
    ) -> None:
        self._proxy, self._client, self._server, self._trouble = proxy, client, server, trouble
        self._left: int | None = int(share * trouble.after_bytes) if trouble else None
        self._stopping = threading.Event()
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Drop the connection."""
        self._stopping.set()
        for one in (self._client, self._server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _work(self) -> None:
        try:
            self._relay()
        except OSError:
            pass  # a peer has gone; so does the other end of the connection
        finally:
            self._client.close()
            self._server.close()

    def _relay(self) -> None:
        is_deaf = False
        how = self._trouble.how if self._trouble else None
        while not self._stopping.is_set():
            for source in select.select([self._client, self._server], [], [], _LOOK_S)[0]:
                piece = source.recv(_PIECE_BYTES)
                if not piece:
                    return
                if source is self._client and self._is_due(len(piece)):
                    self._proxy.troubled += 1
                    if how in ("cut", "reset", "stall"):
                        self._server.sendall(piece[: len(piece) // 2])
                        self._fail(how)
                        return
                    is_deaf = how == "deaf"
                if self._proxy.trouble:
                    time.sleep(self._proxy.trouble.delay_s)
                if source is self._client:
                    self._server.sendall(piece)
                elif not is_deaf:
                    self._client.sendall(piece)

    def _is_due(self, size: int) -> bool:
        """Whether the trouble begins within the next `size` bytes to the server."""
        if self._left is None:
            return False
        self._left -= size
        if self._left >= 0:
            return False
        self._left = None
        return True

    def _fail(self, how: str) -> None:
        if how == "reset":
            _reset(self._client)
            _reset(self._server)
        elif how == "stall":
            self._stopping.wait()


def _reset(connection: socket.socket) -> None:
    """End a connection with a TCP RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
