"""TensorRT and TensorRT-RTX as one library: what differs between them, and between their releases, is here.

| | TensorRT 10.3 (JetPack 6) | 10.13 to 10.16 | 11.x | TensorRT-RTX 1.x |
|---|---|---|---|---|
| networks are always strongly typed | no: asked for | no: asked for | yes | yes |
| engines for GPUs that are not there | no | no | no | yes |
| `create_runtime_config` | no | yes | yes | yes, with CUDA graphs |
| size of the activations | `device_memory_size` | both | `_v2` | `_v2` |

From the Python bindings of each release; executed on no GPU yet.
"""

from __future__ import annotations

import importlib
import threading
from dataclasses import dataclass
from typing import Any, Literal

from appliance.runtime.base import Unavailable

Flavour = Literal["tensorrt", "tensorrt_rtx"]
FLAVOURS: tuple[Flavour, ...] = ("tensorrt", "tensorrt_rtx")
_MODULES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt_rtx_bindings"}
_OLDEST = {"tensorrt": (10, 3), "tensorrt_rtx": (1, 0)}
_KEPT_MESSAGES = 20


class Messages:
    """The last errors of the library, which mostly returns None or -1, and says only here why."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._lock = threading.Lock()

    def add(self, line: str) -> None:
        """Keep one line, and forget the oldest of too many."""
        with self._lock:
            self._lines = [*self._lines, " ".join(line.split())][-_KEPT_MESSAGES:]

    def take(self) -> str:
        """All lines since the last call as one sentence."""
        with self._lock:
            lines, self._lines = self._lines, []
        return "; ".join(dict.fromkeys(lines)) or "the library gave no reason"


@dataclass(frozen=True)
class Library:
    """One of the two libraries, loaded. Its logger puts errors into `messages`."""

    flavour: Flavour
    module: Any
    logger: Any
    messages: Messages

    @property
    def version(self) -> str:
        """The full version: an engine runs under exactly this one."""
        return str(self.module.__version__)

    @property
    def builds_for_absent_gpus(self) -> bool:
        """Whether engines can be built for a list of compute capabilities."""
        return hasattr(self.module.IBuilderConfig, "num_compute_capabilities")

    @property
    def targets(self) -> tuple[str, ...]:
        """Compute capabilities that engines can be built for without such a GPU, such as SM86."""
        if not self.builds_for_absent_gpus:
            return ()
        return tuple(name for name in self.module.ComputeCapability.__members__ if name.startswith("SM"))

    @property
    def network_flags(self) -> int:
        """Strongly typed where that is a choice, so that precision is what the graph says."""
        flags = self.module.NetworkDefinitionCreationFlag
        return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0


def load_library(flavour: Flavour) -> Library:
    """The library `flavour`. Needs no GPU.

    Raises:
        Unavailable: it is not installed, damaged, or older than 10.3 (TensorRT) or 1.0 (TensorRT-RTX).
    """
    try:
        module = importlib.import_module(_MODULES[flavour])
    except (ImportError, OSError) as error:  # OSError: it is there, but something that it needs is not
        raise Unavailable(f"{flavour} cannot be loaded: {error}") from error
    version = str(module.__version__)
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST[flavour]:
        oldest = ".".join(map(str, _OLDEST[flavour]))
        raise Unavailable(f"{flavour} {version} is older than {oldest}")
    messages = Messages()
    return Library(flavour, module, _logger(module, messages), messages)


def _logger(module: Any, messages: Messages) -> Any:
    severity = module.ILogger.Severity

    class _Logger(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, level: Any, text: str) -> None:
            if level in (severity.ERROR, severity.INTERNAL_ERROR):
                messages.add(text)

    return _Logger()


def error_recorder(library: Library) -> Any:
    """A recorder that puts what an execution context reports into the library's messages."""
    module, messages = library.module, library.messages

    class _Recorder(module.IErrorRecorder):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            module.IErrorRecorder.__init__(self)
            self._errors: list[tuple[Any, str]] = []

        def num_errors(self) -> int:
            return len(self._errors)

        def get_error_code(self, index: int) -> Any:
            return self._errors[index][0]

        def get_error_desc(self, index: int) -> str:
            return self._errors[index][1]

        def has_overflowed(self) -> bool:
            return len(self._errors) >= _KEPT_MESSAGES

        def clear(self) -> None:
            self._errors.clear()

        def report_error(self, code: Any, description: str) -> bool:
            self._errors = [*self._errors, (code, description)][-_KEPT_MESSAGES:]
            messages.add(f"{code}: {description}")
            return True

    return _Recorder()
