"""The site of the demonstration: the appliance and the PACS as processes, with a folder for all they keep."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config" / "site.yaml"
START_S = 120.0
STOP_S = 60.0


class NotStarted(Exception):
    """A process did not become ready; the message ends with its last words."""


@dataclass(frozen=True)
class Ports:
    """Free TCP ports of the loopback interface."""

    listener: int
    pacs: int
    monitor: int


def free_ports() -> Ports:
    """Three ports that nobody listens on."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(3)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return Ports(*(probe.getsockname()[1] for probe in probes))


class Site:
    """Appliance and PACS. `folder` gets the configuration, the logs, the storage and the PACS's files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = free_ports()
        self.received = folder / "pacs"
        self.config = folder / "site.yaml"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.config.write_text(yaml.safe_dump(self._configuration(), sort_keys=False))

    def _configuration(self) -> dict[str, Any]:
        """The default configuration; only the ports are others, so that nothing here is disturbed."""
        content: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
        content["listener"]["port"] = self.ports.listener
        content["destinations"]["pacs"]["port"] = self.ports.pacs
        content["monitor"]["port"] = self.ports.monitor
        return content

    def start(self) -> None:
        """Start both and wait until they are ready.

        Raises:
            NotStarted: one of them ended or said nothing for two minutes.
        """
        pacs = ["-m", "tools.demonstrate.pacs", str(self.received), str(self.ports.pacs)]
        self._start("pacs", pacs)
        self._start("appliance", ["-m", "appliance", "run", "--config", str(self.config)])

    def _start(self, name: str, arguments: list[str]) -> None:
        log = self.folder / f"{name}.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=sink,
            )
        self._processes[name] = process
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            line = process.stdout.readline() if selector.select(START_S) else b""
        if b"ready" not in line:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise NotStarted(f"the {name} did not become ready; its log ends:\n{last}")

    def died(self) -> list[str]:
        """Names of the processes that are no longer there."""
        return [name for name, process in self._processes.items() if process.poll() is not None]

    def stop(self) -> list[str]:
        """End both with SIGTERM, the appliance first; returns what did not end well, in sentences."""
        problems = []
        for name, process in reversed(self._processes.items()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                status = process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                status = process.wait()
            if status != 0:
                problems.append(f"the {name} ended with status {status}")
            assert process.stdout is not None
            process.stdout.close()
        self._processes.clear()
        return problems

    def metrics(self) -> dict[str, dict[tuple[str, ...], float]]:
        """The appliance's /metrics: sample name -> label values in order of label names -> value.

        The label `process` is summed over.
        """
        url = f"http://127.0.0.1:{self.ports.monitor}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        values: dict[str, dict[tuple[str, ...], float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = tuple(sample.labels[key] for key in sorted(sample.labels) if key != "process")
                named = values.setdefault(sample.name, {})
                named[labels] = named.get(labels, 0.0) + sample.value
        return values
