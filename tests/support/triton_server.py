"""A real Triton server without a GPU: the one in nvidia-pytriton, from `tools/environment triton-server`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.processes import ROOT, free_port, listens, wait_until

PYTHON = ROOT / ".venv-triton-server" / "bin" / "python"
BACKEND = Path(__file__).with_name("triton_backend.py")
_ASK = (
    "import importlib.util, sys, sysconfig; print(importlib.util.find_spec('pytriton').origin);"
    "print('%d.%d' % sys.version_info[:2]); print(sysconfig.get_config_var('LIBDIR'))"
)


class TritonServer:
    """`tritonserver` with one model of its Python backend for each ONNX file in `graphs`, by name.

    `parameters` go into each model's configuration. The test is skipped where the server cannot run.
    """

    def __init__(
        self, folder: Path, graphs: Mapping[str, Path], parameters: Mapping[str, str] | None = None
    ) -> None:
        self.port = free_port()
        self.folder = folder
        self.log = folder / "triton.log"
        for name, graph in graphs.items():
            self.put(name, graph, parameters or {})
        self._program, self._backends, self._environment = _installed()
        self._process: subprocess.Popen[bytes] | None = None

    def put(self, name: str, graph: Path, parameters: Mapping[str, str] | None = None) -> None:
        """Place a model in the repository, instead of the one with that name if there is one."""
        version = self.folder / "repository" / name / "1"
        version.mkdir(parents=True, exist_ok=True)
        shutil.copy(BACKEND, version / "model.py")
        shutil.copy(graph, version / "model.onnx")
        lines = [f'name: "{name}"', 'backend: "python"']
        lines += [
            f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
            for key, value in (parameters or {}).items()
        ]
        (version.parent / "config.pbtxt").write_text("\n".join(lines) + "\n")

    def start(self) -> TritonServer:
        """Run it until it answers."""
        command = [
            str(self._program),
            f"--model-repository={self.folder / 'repository'}",
            f"--backend-directory={self._backends}",
            f"--backend-config=python,shm-region-prefix-name={self._memory}",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={self.port}",
            "--allow-http=false",
            "--allow-metrics=false",
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        process = self._process
        wait_until(lambda: listens(self.port) or process.poll() is not None, 60.0, "Triton listens")
        assert process.poll() is None, self.log.read_text(errors="replace")[-3000:]
        return self

    def kill(self) -> None:
        """End it and what it started, as a crash would."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        for path in Path("/dev/shm").glob(f"{self._memory}*"):
            path.unlink()

    @property
    def _memory(self) -> str:
        return f"test-triton-{self.port}-"


def _installed() -> tuple[Path, Path, dict[str, str]]:
    """The server's program, the folder of its backends, and its environment."""
    if not PYTHON.exists():
        pytest.skip("no Triton server is installed: tools/environment triton-server (x86-64 only)")
    origin, version, libraries = subprocess.run(
        [PYTHON, "-c", _ASK], capture_output=True, text=True, check=True
    ).stdout.split()
    package = Path(origin).parent / "tritonserver"
    backends = package / "backends"
    stub = backends / "python" / "triton_python_backend_stub"
    if not stub.exists():
        shutil.copy2(package / "python_backend_stubs" / version / stub.name, stub)
    # The backend embeds Python: it needs the library of the very interpreter whose packages it loads, and
    # finds these packages by the first python3 on PATH.
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": libraries,
        "PATH": f"{PYTHON.parent}:{os.environ['PATH']}",
    }
    for name in ("PYTHONPATH", "PYTHONHOME"):
        environment.pop(name, None)
    linked = subprocess.run(["ldd", stub], env=environment, capture_output=True, text=True, check=True).stdout
    missing = [line.split()[0] for line in linked.splitlines() if "not found" in line]
    if missing:
        pytest.skip(f"the Triton server cannot run here: {', '.join(missing)} is missing")
    return package / "bin" / "tritonserver", backends, environment
