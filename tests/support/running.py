"""The appliance as its users run it: a configuration file, one command, a signal to end it."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.processes import ROOT, free_port, stop

# The repository is importable wherever the appliance is started, installed or not.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


class RunningAppliance:
    """`appliance run` with a `site.yaml` in `folder`, on free ports, with short waits.

    `settings` replaces whole sections of the configuration, by name.
    """

    def __init__(
        self,
        folder: Path,
        *,
        pacs_port: int,
        pacs_title: str = "PACS",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.monitor_port = free_port()
        self.config = folder / "site.yaml"
        self.log = folder / "appliance.log"
        content: dict[str, Any] = {
            "station": {"ae_title": "EDGE"},
            "listener": {
                "host": "127.0.0.1",
                "port": self.port,
                "accept": [{"ae_title": "*", "networks": ["127.0.0.0/8"]}],
            },
            "storage": {"path": "./var", "minimum_free_mb": 16},
            "destinations": {"pacs": {"ae_title": pacs_title, "host": "127.0.0.1", "port": pacs_port}},
            "pipelines": [
                {"model": "ct-denoise", "destinations": ["pacs"]},
                {"model": "head-ct-triage", "destinations": ["pacs"]},
            ],
            "completeness": {"quiet_s": {"default": 1.0, "CT": 1.0, "MR": 1.0, "US": 1.0}},
            "delivery": {"retry_minimum_s": 0.5, "retry_maximum_s": 2.0},
            "inference": {"threads": 1},
            "monitor": {"host": "127.0.0.1", "port": self.monitor_port},
            **(settings or {}),
        }
        self.config.write_text(yaml.safe_dump(content, sort_keys=False))
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `appliance ... --config site.yaml` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "appliance", *arguments, "--config", str(self.config)],
            cwd=self.folder,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start(self, *, seconds: float = 60.0, prefix: tuple[str, ...] = ()) -> RunningAppliance:
        """Start it and wait for its ready line. `prefix` is a command that runs it, such as faketime."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "appliance", "run", "--config", str(self.config)],
                cwd=self.folder,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._wait_for_ready_line(seconds)
        return self

    def _wait_for_ready_line(self, seconds: float) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            spoke = bool(selector.select(seconds))
        line = self.process.stdout.readline() if spoke else b""
        assert b"ready" in line, f"no ready line but {line!r}; the log ends:\n{self.log_tail()}"

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of the appliance's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def status(self) -> dict[str, Any]:
        """What `appliance status --json` prints."""
        answer = self.command("status", "--json")
        assert answer.returncode == 0, answer.stderr
        status: dict[str, Any] = json.loads(answer.stdout)
        return status

    def get(self, path: str) -> str:
        """The body of the monitor's answer to GET `path`."""
        url = f"http://127.0.0.1:{self.monitor_port}{path}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            body: bytes = answer.read()
            return body.decode()

    def stop(self, seconds: float = 60.0) -> None:
        """End it with SIGTERM; it must drain and exit 0."""
        if self.process is None:
            return
        begin = time.monotonic()
        status = stop(self.process, seconds)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        took = time.monotonic() - begin
        assert status == 0, f"exit status {status} after {took:.1f} s; the log ends:\n{self.log_tail()}"
