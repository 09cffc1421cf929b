"""`appliance run` as a tree of processes, one of which can be killed."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tools.campaigns.pacs import free_port

ROOT = Path(__file__).resolve().parents[2]
SUPERVISOR = "run"
_OTHERS = ("plan", "infer", "forward", "monitor")
_START_S = 120.0
_STOP_S = 120.0
_ORPHANS_S = 30.0
"""A process that was just being started notices that it has no supervisor once its modules are loaded."""


class Tree:
    """The appliance with its processes, its configuration and storage in `folder`.

    `settings` replaces whole sections of the configuration, by name; `environment` adds variables;
    `receivers` processes receive.
    """

    def __init__(
        self,
        folder: Path,
        pacs_port: int,
        settings: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        receivers: int = 1,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.storage = folder / "var"
        self.port = free_port()
        more = (f"receive-{number}" for number in range(2, receivers + 1))
        self.names = ("receive", *more, *_OTHERS, SUPERVISOR)
        self._log = folder / "appliance.log"
        self._config = folder / "site.yaml"
        content: dict[str, Any] = {
            "station": {"ae_title": "EDGE"},
            "listener": {"host": "127.0.0.1", "port": self.port, "processes": receivers},
            "storage": {"path": "./var", "minimum_free_mb": 16},
            "destinations": {"pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": pacs_port}},
            "pipelines": [
                {"model": "ct-denoise", "destinations": ["pacs"]},
                {"model": "head-ct-triage", "destinations": ["pacs"]},
            ],
            "completeness": {"quiet_s": {"default": 1.0, "CT": 1.0}},
            "delivery": {"retry_minimum_s": 0.5, "retry_maximum_s": 2.0},
            "inference": {"threads": 1},
            "monitor": {"host": "127.0.0.1", "port": free_port()},
            **(settings or {}),
        }
        self._config.write_text(yaml.safe_dump(content, sort_keys=False))
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait for its ready line.

        Raises:
            RuntimeError: it ended or stayed silent instead.
        """
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command("run"),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the campaign alone
            )
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            spoke = bool(selector.select(_START_S))
        if not spoke or not self._process.stdout.readline().startswith(b"ready"):
            raise RuntimeError(f"the appliance did not become ready; see {self._log}")

    def command(self, name: str, *arguments: str) -> list[str]:
        """The command line of `appliance NAME --config ...`."""
        return [sys.executable, "-m", "appliance", name, "--config", str(self._config), *arguments]

    def processes(self) -> dict[str, int]:
        """The process id of every process that lives, by name."""
        assert self._process is not None
        found = {SUPERVISOR: self._process.pid} if self._process.poll() is None else {}
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        try:
            identifiers = [int(word) for word in children.read_text().split()]
        except FileNotFoundError:
            return found
        for identifier in identifiers:
            try:
                command = Path(f"/proc/{identifier}/cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            name = _name(command)
            if name in self.names and name != SUPERVISOR:  # else it is dead, or was forked a moment ago
                found[name] = identifier
        return found

    def kill(self, victim: str) -> list[str]:
        """End one process with SIGKILL; returns what is wrong with what its death leaves behind."""
        processes = self.processes()
        if victim not in processes:
            return [f"{victim} was not running when it was to be killed"]
        os.kill(processes[victim], signal.SIGKILL)
        if victim != SUPERVISOR:
            return []
        assert self._process is not None
        self._process.wait()
        self._close()
        end = time.monotonic() + _ORPHANS_S
        while left := [name for name in self.names if _lives(processes.get(name))]:
            if time.monotonic() > end:
                return [f"{', '.join(left)} survived the supervisor by {_ORPHANS_S:g} s"]
            time.sleep(0.02)
        return []

    def stop(self) -> int:
        """End it with SIGTERM and return its exit status."""
        if self._process is None:
            return 0
        self._process.terminate()
        status = self._process.wait(_STOP_S)
        self._close()
        return status

    def _close(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None


def _name(command: list[bytes]) -> str:
    """`receive` of `python -m appliance receive ...`, `receive-2` of `... receive --number 2 ...`."""
    words = [word.decode() for word in command]
    if "appliance" not in words:
        return ""
    _, duty, option, value, *_ = words[words.index("appliance") :]
    return f"{duty}-{value}" if option == "--number" else duty


def _lives(identifier: int | None) -> bool:
    if identifier is None:
        return False
    try:
        state = Path(f"/proc/{identifier}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"
