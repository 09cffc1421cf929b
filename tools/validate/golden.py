"""Write `golden.npz` of both model packages: the inputs on which engines are held to ONNX Runtime.

    python -m tools.validate.golden

Simulated like the validation cases, small, and the same bytes on every run. Prints the checksums for
`model.yaml`.
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from appliance.models.tasks.triage import inputs_of, prepare_aligned_head
from tools.simulate.head_series import simulate_series
from tools.validate.ct_denoise_cases import NOISE_LEVELS, development_cases
from tools.validate.head_ct_triage_cases import volume_of

ENGINES = Path(__file__).resolve().parents[2] / "engines"
_CROP = 128
_SLABS = 2

_Array = NDArray[np.float32]


def denoising() -> dict[str, _Array]:
    """One slice of each noise level in whole HU, cropped to its middle, at full and at half strength."""
    arrays: dict[str, _Array] = {}
    cases = development_cases(1, NOISE_LEVELS, seed=5)
    for number, case in enumerate(cases):
        rows, columns = ((size - _CROP) // 2 for size in case.noisy.shape)
        middle = case.noisy[rows : rows + _CROP, columns : columns + _CROP]
        arrays[f"{number}.x"] = np.round(middle)[None, None].astype(np.float32)
        arrays[f"{number}.strength"] = np.full((1, 1), 1.0 if number % 2 == 0 else 0.5, np.float32)
    return arrays


def triage() -> dict[str, _Array]:
    """Two slabs of a head with a bleed, and two of one without, prepared as the task does."""
    arrays: dict[str, _Array] = {}
    for number, bleed in enumerate((True, False)):
        series = simulate_series(seed=3, bleed=bleed, slices=16, size=192, slice_mm=5)
        slabs = prepare_aligned_head(volume_of(series)).slabs
        middle = len(slabs) // 2
        for name, values in inputs_of([slab.head for slab in slabs[middle : middle + _SLABS]]).items():
            whole = np.round(values) if name == "hu" else values
            arrays[f"{number}.{name}"] = whole.astype(np.float32)
    return arrays


def archive(arrays: Mapping[str, _Array]) -> bytes:
    """An .npz file without times in it, so that the same arrays are the same bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.save(member, arrays[name], allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(entry, member.getvalue())
    return content.getvalue()


def main() -> int:
    """Write the files and print their checksums."""
    for model, arrays in (("ct-denoise", denoising()), ("head-ct-triage", triage())):
        content = archive(arrays)
        (ENGINES / model / "golden.npz").write_bytes(content)
        checksum = hashlib.sha256(content).hexdigest()
        sys.stdout.write(f"{model}: {len(arrays)} arrays, {len(content)} bytes, sha256 {checksum}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
