"""The golden inputs of a model: those on which it is compared and tested."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from appliance.domain.errors import GiveUp
from appliance.runtime.base import Tensors


def read_golden(path: Path, sha256: str) -> list[Tensors]:
    """The golden cases in an .npz file with arrays named `<case>.<input>`, as float32.

    Raises:
        GiveUp: the file is missing, has another checksum, or holds something else.
    """
    read_checked(path, sha256)
    cases: dict[str, dict[str, Any]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            case, _, tensor = name.partition(".")
            cases.setdefault(case, {})[tensor] = np.ascontiguousarray(arrays[name], np.float32)
    if not cases:
        raise GiveUp(f"{path.name} holds no golden inputs")
    return [cases[case] for case in sorted(cases)]


def read_checked(path: Path, sha256: str) -> bytes:
    """The bytes of a file of a model package or of an engine.

    Raises:
        GiveUp: the file is missing or has another checksum.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GiveUp(f"{path.name} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise GiveUp(f"{path.name} has another checksum than it should have")
    return content
