"""How the metrics of many processes become one page.

Each process serves its own on a Unix socket in the run directory; the monitor reads them all and adds the
label `process`.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from appliance.observe import sockets
from appliance.observe.metrics import REGISTRY

READ_TIMEOUT_S = 2.0

_log = logging.getLogger(__name__)


def expose(run_directory: Path, name: str) -> threading.Thread:
    """Serve this process's metrics on a Unix socket in `run_directory` until the process ends.

    Raises:
        OSError: the socket cannot be made.
    """
    listener = sockets.bind(_metrics_path(run_directory, name), socket.SOCK_STREAM)
    listener.listen(8)
    thread = threading.Thread(target=_serve, args=(listener,), name="metrics", daemon=True)
    thread.start()
    return thread


def _serve(listener: socket.socket) -> None:
    while True:
        reader, _ = listener.accept()
        with reader:
            reader.settimeout(READ_TIMEOUT_S)
            try:
                reader.sendall(generate_latest(REGISTRY))
            except OSError:
                # The reader went away; it asks again.
                _log.info("a reader of the metrics went away")


def collect(run_directory: Path, names: Iterable[str]) -> list[Metric]:
    """The metrics of the processes `names`, one family each, every sample with its `process`.

    A process that does not answer contributes only `appliance_process_up` 0.
    """
    up = GaugeMetricFamily("appliance_process_up", "1 if the process answers, else 0.", labels=["process"])
    families: dict[str, Metric] = {}
    for name in names:
        text = _read(_metrics_path(run_directory, name))
        up.add_metric([name], 0.0 if text is None else 1.0)
        for family in text_string_to_metric_families(text or ""):
            merged = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type, family.unit)
            )
            merged.samples += [
                sample._replace(labels={"process": name, **sample.labels}) for sample in family.samples
            ]
    return [up, *families.values()]


def answers(run_directory: Path, name: str) -> bool:
    """Whether the process `name` is there and answers."""
    return _read(_metrics_path(run_directory, name)) is not None


def exposition(families: Iterable[Metric]) -> bytes:
    """The text format of Prometheus, version 0.0.4."""
    registry = CollectorRegistry()
    registry.register(_Families(list(families)))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _read(path: Path) -> str | None:
    try:
        with sockets.connect(path, socket.SOCK_STREAM) as server:
            server.settimeout(READ_TIMEOUT_S)
            parts = []
            while part := server.recv(65536):
                parts.append(part)
    except OSError:
        return None
    return b"".join(parts).decode()


def _metrics_path(run_directory: Path, name: str) -> Path:
    return run_directory / f"{name}.metrics"
