"""The monitor process: one HTTP port with /metrics, /healthz and /readyz.

It reads the other processes' metrics and the journal and changes nothing, so it cannot take anything
down with it.
"""

from __future__ import annotations

import errno
import logging
import shutil
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from prometheus_client.metrics_core import Metric

from appliance.config.schema import Config
from appliance.domain.errors import ApplianceError, GiveUp, Misconfigured, TryAgain
from appliance.domain.policy import Space, seconds_to_full
from appliance.domain.states import COMMITMENT, SERIES, TRANSACTION
from appliance.journal import health, summary
from appliance.journal.database import Journal
from appliance.observe import exposition, metrics
from appliance.observe.process import Process
from appliance.services.monitoring.alarm import Alarm

_log = logging.getLogger(__name__)

PLAIN = "text/plain; charset=utf-8"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
CONNECTION_TIMEOUT_S = 10.0
HEARTBEAT_S = 5.0
FORECAST_FROM_S = 3600.0


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
        server.disk.look()
        _look_for_overdue_messages(server)
        process.wait(HEARTBEAT_S)
    server.shutdown()
    server.server_close()


class _JournalReader:
    """Views of the journal, each over a connection of its own: one that was broken is seen healed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._journal: Journal | None = None

    @contextmanager
    def view(self) -> Iterator[sqlite3.Connection]:
        """One consistent view.

        Raises:
            TryAgain: the journal is missing or locked.
            GiveUp: the journal is damaged.
        """
        journal = self._opened()
        try:
            with journal.read() as connection:
                yield connection
        except sqlite3.DatabaseError as error:
            raise GiveUp(f"the journal is damaged: {error}") from error
        finally:
            journal.close()

    def _opened(self) -> Journal:
        if not self._path.exists():
            raise TryAgain("the journal does not exist yet")
        with self._lock:
            # Once only, for it writes; a full disk must not take the gauges away later.
            if self._journal is None:
                self._journal = Journal(self._path)
            return self._journal


class _Disk:
    """How much room there is, and how it went over the last hour."""

    def __init__(self, config: Config) -> None:
        self._folder = config.storage.path
        self._reserve = config.storage.minimum_free_mb * 2**20
        self._samples: deque[Space] = deque(maxlen=int(FORECAST_FROM_S / HEARTBEAT_S))
        self.look()

    def look(self) -> None:
        """Take a sample."""
        usable = shutil.disk_usage(self._folder).free - self._reserve
        self._samples.append(Space(time.monotonic(), usable))

    def families(self) -> list[Metric]:
        """The gauges as of the latest sample."""
        samples = list(self._samples)
        return [
            metrics.STORAGE_USABLE.family({(): max(0.0, samples[-1].usable)}),
            metrics.STORAGE_FULL.family({(): seconds_to_full(samples)}),
        ]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], config: Config) -> None:
        super().__init__(address, _Handler)
        self.config = config
        self.journal = _JournalReader(config.journal_path)
        self.disk = _Disk(config)
        self.alarm = Alarm(config)

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
            self._answer(HTTPStatus.OK, PROMETHEUS, exposition.exposition(_families(self.server)))
        elif path == "/healthz":
            self._answer(HTTPStatus.OK, PLAIN, b"ok\n")
        elif path == "/readyz":
            reason = _why_not_ready(self.server)
            status = HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK
            lines = [reason] if reason else ["ready", *_impaired(self.server)]
            self._answer(status, PLAIN, "".join(f"{line}\n" for line in lines).encode())
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


def _families(server: _Server) -> list[Metric]:
    run_directory = server.config.run_directory
    names = [*server.config.receivers, *metrics.WORKERS[1:]]
    # Under systemd nobody supervises but systemd itself.
    if exposition.answers(run_directory, "run"):
        names.append("run")
    families = exposition.collect(run_directory, names) + server.disk.families()
    try:
        return families + _journal_families(server)
    except ApplianceError as error:
        _log.warning("the journal could not be read", extra={"reason": str(error)})
        return families


def _journal_families(server: _Server) -> list[Metric]:
    with server.journal.view() as connection:
        # Zero where the journal has nothing, so that an alert rule always has a value to look at.
        series: dict[tuple[str, ...], float] = {(state,): 0.0 for state in SERIES.states}
        series |= _values(summary.series_by_state(connection))
        oldest: dict[tuple[str, ...], float] = {(name,): 0.0 for name in server.config.destinations}
        oldest |= {(name,): age_s for name, age_s in summary.oldest_waiting_s(connection).items()}
        circuits: dict[tuple[str, ...], float] = {
            (one.destination, state): float(state == one.state)
            for one in summary.circuits(connection)
            for state in metrics.CIRCUIT_STATES
        }
        files = summary.spool_files(connection)
        commitments: dict[tuple[str, ...], float] = {("scp", state): 0.0 for state in COMMITMENT.states}
        commitments |= {("scu", state): 0.0 for state in TRANSACTION.states}
        undecided = (("scp", "requested"), ("scp", "ready"), ("scu", "asked"))
        waiting: dict[tuple[str, ...], float] = dict.fromkeys(undecided, 0.0)
        waiting |= summary.oldest_commitment_s(connection)
        return [
            metrics.SERIES.family(series),
            metrics.JOBS.family(_values(summary.jobs_by_state(connection))),
            metrics.MODEL_IN_SERVICE.family(
                {(one.model,): float(one.in_service) for one in health.all_models(connection)}
            ),
            metrics.OUTBOX.family(_values(summary.deliveries_by_state(connection))),
            metrics.OLDEST_WAITING.family(oldest),
            metrics.CIRCUIT.family(circuits),
            metrics.COMMITMENTS.family(commitments | _values(summary.commitments_by_state(connection))),
            metrics.COMMITMENT_OLDEST.family(waiting),
            metrics.UNCOMMITTED.family(_values(summary.uncommitted(connection))),
            metrics.SPOOL_FILES.family({labels: float(count) for labels, (count, _) in files.items()}),
            metrics.SPOOL_BYTES.family({labels: float(size) for labels, (_, size) in files.items()}),
            metrics.SPOOL_OLDEST.family({(): summary.oldest_file_s(connection)}),
            *server.alarm.families(connection),
        ]


def _look_for_overdue_messages(server: _Server) -> None:
    try:
        with server.journal.view() as connection:
            server.alarm.look(connection)
    except ApplianceError as error:
        _log.debug("the journal could not be read", extra={"reason": str(error)})


def _values(counts: Iterable[summary.Count]) -> dict[tuple[str, ...], float]:
    return {count.labels: float(count.count) for count in counts}


def _why_not_ready(server: _Server) -> str | None:
    for name in server.config.receivers:
        if not exposition.answers(server.config.run_directory, name):
            return f"the {name} process does not answer"
    try:
        with server.journal.view() as connection:
            summary.series_by_state(connection)
    except ApplianceError as error:
        return str(error)
    return None


def _impaired(server: _Server) -> list[str]:
    """A line for each destination that is not sent to now, and each model out of service.

    Images are taken in all the same.
    """
    try:
        with server.journal.view() as connection:
            circuits = summary.circuits(connection)
            overdue = server.alarm.lines(connection)
            models = health.all_models(connection)
    except ApplianceError as error:
        return [str(error)]
    away = [
        f"destination {one.destination} does not work since {one.since_at}: {one.reason}"
        for one in circuits
        if one.state != "closed"
    ]
    out = [
        f"model {one.model} is out of service since {one.since_at}: {one.why}"
        for one in models
        if not one.in_service
    ]
    return away + out + overdue
