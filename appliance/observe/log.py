"""The log: JSON lines on standard error that never hold patient data.

The appliance's own messages say what they know in `extra` fields. Messages of other libraries may quote
any attribute of a data set, so only their origin and level are kept; of an exception, its type and the
places it came through, and its text only if it is one of ours.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import threading
import traceback
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType

from appliance.domain.errors import ApplianceError

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
INNERMOST_FRAMES = 12
_OWN = ("appliance", "__main__", "tools")
_QUOTING_LIBRARIES = ("pynetdicom", "pydicom", "highdicom")


def hashed(uid: str) -> str:
    """Twelve hexadecimal digits that stand for a UID in the log.

    Whoever knows the UID finds its lines with `printf %s UID | sha256sum | cut -c1-12`. Only for UIDs:
    names and patient numbers are so few that a hash does not hide them.
    """
    return hashlib.sha256(uid.encode()).hexdigest()[:12]


def configure(process_name: str, level: str) -> None:
    """Send all log messages of this process to standard error, from `level` ("info", ...) up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter(process_name))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda uncaught: _log_uncaught(
        uncaught.exc_type, uncaught.exc_value, uncaught.exc_traceback
    )
    for name in _QUOTING_LIBRARIES:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(logging.WARNING)


def _log_uncaught(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    # Python's own way prints the text of the exception, which may quote a data set.
    logging.getLogger("appliance").critical(
        "uncaught_exception", exc_info=None if error is None else (kind, error, trace)
    )


class _JsonFormatter(logging.Formatter):
    def __init__(self, process_name: str) -> None:
        super().__init__()
        self._process_name = process_name

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process_name,
            "logger": record.name,
        }
        if record.name.split(".")[0] in _OWN:
            line["message"] = record.getMessage()
            line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        else:
            line["message"] = f"message withheld, from {record.module}:{record.lineno}"
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = _describe(record.exc_info[1])
        return json.dumps(line, default=str, ensure_ascii=True)


def _describe(error: BaseException | None) -> list[str]:
    """The chain of exceptions, the last one first, without texts that are not ours."""
    lines: list[str] = []
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        places = " < ".join(
            f"{Path(frame.filename).stem}.{frame.name}:{frame.lineno}"
            for frame in reversed(frames[-INNERMOST_FRAMES:])
        )
        lines.append(f"{type(error).__name__}{_safe_text(error)} in {places}")
        error = error.__cause__ or error.__context__
    return lines


def _safe_text(error: BaseException) -> str:
    if isinstance(error, ApplianceError):
        return f": {error}"
    if isinstance(error, OSError) and error.strerror:
        return f": {error.strerror}"
    return ""
