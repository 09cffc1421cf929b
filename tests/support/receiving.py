"""`appliance receive` with deadlines of seconds instead of minutes, and a look at what it holds.

As a program: `python -m tests.support.receiving site.yaml`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from appliance.config.load import load
from appliance.network.limits import Limits
from appliance.observe import exposition, log
from appliance.observe.process import Process
from appliance.services.receiving.receive import serve
from tests.support.processes import ROOT, free_port, listens, stop, wait_until
from tests.support.running import ENVIRONMENT, RunningAppliance

SHORT = Limits(
    pdu_bytes=131072,
    idle_s=600.0,
    handshake_s=2.0,
    request_s=5.0,
    pdu_s=2.0,
    stall_s=2.0,
    message_s=3.0,
    tick_s=0.5,
)


@dataclass(frozen=True)
class Holdings:
    """What a process holds that it may not keep: threads, open files, and its resident memory."""

    threads: int
    descriptors: int
    resident_bytes: int


class Receiving:
    """A receiving process of its own, in `folder`; `settings` replaces sections of the configuration."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        appliance = RunningAppliance(folder, pacs_port=free_port(), settings={"pipelines": [], **settings})
        self.spool = folder / "var" / "spool" / "originals"
        self.port = load(appliance.config).listener.port
        self._config = appliance.config
        self._log = folder / "receive.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Receiving:
        """Start it; returns when it listens."""
        command = [sys.executable, "-m", "tests.support.receiving", str(self._config)]
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=output)
        wait_until(lambda: listens(self.port), 60, "the receiver listens")
        return self

    def stop(self) -> int:
        """End it with SIGTERM; its exit status."""
        assert self._process is not None
        return stop(self._process, 60)

    def holdings(self) -> Holdings:
        """What the process holds now."""
        assert self._process is not None
        process = Path("/proc") / str(self._process.pid)
        status = (process / "status").read_text()
        threads, resident = (
            re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE) for name in ("Threads", "VmRSS")
        )
        assert threads is not None
        assert resident is not None
        # The spool keeps a few locks, more or fewer as names come to their end.
        descriptors = [path for path in map(_target, (process / "fd").iterdir()) if path.name != "lock"]
        return Holdings(int(threads[1]), len(descriptors), int(resident[1]) * 1024)

    def misbehaviour(self, word: str) -> float:
        """The counter appliance_peer_misbehaviour_total{what=word}."""
        for family in exposition.collect(load(self._config).run_directory, ["receive"]):
            for sample in family.samples:
                if sample.name == "appliance_peer_misbehaviour_total" and sample.labels["what"] == word:
                    return sample.value
        raise KeyError(word)

    def files(self) -> list[Path]:
        """The files of the spool that something was written into, finished or not."""
        return [path for path in self.spool.glob("*/*.dcm") if path.stat().st_size]

    def complaints(self) -> list[str]:
        """Lines of the log that tell of a fault of the process, instead of one of its peers."""
        words = ("Traceback", "association_failed", "store_failed", "uncaught_exception")
        return [line for line in self._log.read_text().splitlines() if any(word in line for word in words)]


def _target(descriptor: Path) -> Path:
    try:
        return descriptor.readlink()
    except FileNotFoundError:  # closed meanwhile
        return Path("lock")


def main() -> None:
    """Receive until SIGTERM."""
    config = load(Path(sys.argv[1]))
    log.configure("receive", config.log.level)
    process = Process("receive", config.run_directory)
    exposition.expose(config.run_directory, "receive")
    limits = replace(SHORT, pdu_bytes=config.listener.maximum_pdu, idle_s=config.listener.network_timeout_s)
    serve(config, process, limits)


if __name__ == "__main__":
    main()
