"""The monitor process: one HTTP port with /metrics, /healthz and /readyz.

It reads the other processes' metrics and the journal and changes nothing, so it cannot take anything
down with it.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client.metrics_core import Metric

from appliance.config.schema import Config
from appliance.domain.errors import Misconfigured, TryAgain
from appliance.domain.states import SERIES
from appliance.journal import summary
from appliance.journal.database import Journal
from appliance.observe import metrics
from appliance.observe.process import Process

_log = logging.getLogger(__name__)

PLAIN = "text/plain; charset=utf-8"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
CONNECTION_TIMEOUT_S = 10.0
HEARTBEAT_S = 5.0


def serve(config: Config, process: Process) -> None:
    """Answer requests until the process is to stop.

    Raises:
        Misconfigured: the port cannot be had.
    """
    address = (config.monitor.host, config.monitor.port)
    try:
        server = _Server(address, config)
    except OSError as error:
        reason = (
            "is already in use" if error.errno == errno.EADDRINUSE else f"cannot be had: {error.strerror}"
        )
        raise Misconfigured([f"monitor.port: {config.monitor.port} {reason}"]) from error
    thread = threading.Thread(target=server.serve_forever, name="http", daemon=True)
    thread.start()
    process.ready()
    while not process.stopping.is_set():
        process.alive()
        process.wait(HEARTBEAT_S)
    server.shutdown()
    server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], config: Config) -> None:
        super().__init__(address, _Handler)
        self.config = config

    def handle_error(self, request: object, client_address: object) -> None:
        """A fault in one answer ends that answer; the log has it without the texts of others."""
        _log.exception("request_failed")


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "appliance"
    sys_version = ""
    timeout = CONNECTION_TIMEOUT_S

    def do_GET(self) -> None:
        """Answer one request."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(HTTPStatus.OK, PROMETHEUS, metrics.exposition(_families(self.server.config)))
        elif path == "/healthz":
            self._answer(HTTPStatus.OK, PLAIN, b"ok\n")
        elif path == "/readyz":
            reason = _why_not_ready(self.server.config)
            status = HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK
            self._answer(status, PLAIN, f"{reason or 'ready'}\n".encode())
        else:
            self._answer(HTTPStatus.NOT_FOUND, PLAIN, b"try /metrics, /healthz or /readyz\n")

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are counted by whoever makes them; the log is for the appliance's own events."""


def _families(config: Config) -> list[Metric]:
    names = list(metrics.WORKERS)
    # Under systemd nobody supervises but systemd itself.
    if metrics.answers(config.run_directory, "run"):
        names.append("run")
    families = metrics.collect(config.run_directory, names)
    try:
        return families + _journal_families(config)
    except TryAgain as error:
        _log.warning("the journal could not be read", extra={"reason": str(error)})
        return families


def _journal_families(config: Config) -> list[Metric]:
    with _journal(config) as connection:
        # Zero where the journal has nothing, so that an alert rule always has a value to look at.
        series: dict[tuple[str, ...], float] = {(state,): 0.0 for state in SERIES.states}
        series |= _values(summary.series_by_state(connection))
        oldest: dict[tuple[str, ...], float] = {(name,): 0.0 for name in config.destinations}
        oldest |= {(name,): age_s for name, age_s in summary.oldest_waiting_s(connection).items()}
        return [
            metrics.SERIES.family(series),
            metrics.JOBS.family(_values(summary.jobs_by_state(connection))),
            metrics.OUTBOX.family(_values(summary.deliveries_by_state(connection))),
            metrics.OLDEST_WAITING.family(oldest),
        ]


def _values(counts: Iterable[summary.Count]) -> dict[tuple[str, ...], float]:
    return {count.labels: float(count.count) for count in counts}


@contextmanager
def _journal(config: Config) -> Iterator[sqlite3.Connection]:
    """A view of the journal. Opened anew each time: one that was broken is seen as such, and as healed.

    Raises:
        TryAgain: the journal is missing, locked or damaged.
    """
    if not config.journal_path.exists():
        raise TryAgain("the journal does not exist yet")
    try:
        with closing(Journal(config.journal_path)) as journal, journal.read() as connection:
            yield connection
    except sqlite3.DatabaseError as error:
        raise TryAgain(f"the journal cannot be read: {error}") from error


def _why_not_ready(config: Config) -> str | None:
    if not metrics.answers(config.run_directory, "receive"):
        return "the receive process does not answer"
    try:
        with _journal(config) as connection:
            summary.series_by_state(connection)
    except TryAgain as error:
        return str(error)
    return None
