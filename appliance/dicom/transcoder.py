"""`dicom.transcode` in a process of its own, the only one that a crashing or greedy decoder ends.

As a program: `python -m appliance.dicom.transcoder DESCRIPTOR`, where the descriptor is that of a socket to
the process that wants something transcoded.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import IO

from appliance.dicom.transcode import transcode
from appliance.domain.errors import GiveUp

_PATIENCE_S = 120.0
_MEMORY_BYTES = 4 << 30
_MESSAGE_BYTES = 4096
_DONE, _TROUBLE = "done", "trouble: "
_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

_log = logging.getLogger(__name__)


class Transcoder:
    """Starts the process when it is first needed, and anew when it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def transcode(self, source: Path, target: IO[bytes], transfer_syntax_uid: str) -> None:
        """Write the data set of the Part-10 file `source` in another syntax to `target`, and nothing else.

        Raises:
            GiveUp: it cannot be done without a loss.
                OSError: a file cannot be read or written, or the process cannot be started.
        """
        with source.open("rb") as stored:
            answer = self._ask(transfer_syntax_uid, [stored.fileno(), target.fileno()])
        if answer.startswith(_TROUBLE):
            raise OSError(answer.removeprefix(_TROUBLE))
        if answer != _DONE:
            raise GiveUp(answer)

    def close(self) -> None:
        """End the process."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                # Decoders write what they like, with no regard to patients.
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=_ENVIRONMENT,
            )
        ours.settimeout(_PATIENCE_S)
        self._socket = ours
        return ours

    def _ask(self, transfer_syntax_uid: str, files: list[int]) -> str:
        if self._process is not None and self._process.poll() is not None:
            self.close()
        channel = self._socket or self._start()
        try:
            socket.send_fds(channel, [transfer_syntax_uid.encode("ascii")], files)
            answer = channel.recv(_MESSAGE_BYTES).decode()
        except (TimeoutError, ConnectionError):
            answer = ""
        if not answer:
            self.close()
            _log.error("transcoder_died")
            return "decoding the object ends or blocks the decoder"
        return answer


def main() -> None:
    """Transcode what is asked for, until nobody is left who could ask."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        while True:
            message, descriptors, _, _ = socket.recv_fds(channel, _MESSAGE_BYTES, 2)
            if not message:
                return
            source, target = descriptors
            # Nobody waits any longer, and nobody may be left who could end it.
            signal.alarm(int(_PATIENCE_S))
            try:
                with open(source, "rb") as stored, open(target, "wb") as written:  # noqa: PTH123
                    transcode(stored, written, message.decode("ascii"))
                answer = _DONE
            except GiveUp as error:
                answer = str(error)
            except OSError as error:
                answer = f"{_TROUBLE}{error.strerror}"
            signal.alarm(0)
            channel.send(answer.encode()[:_MESSAGE_BYTES])


if __name__ == "__main__":
    main()
