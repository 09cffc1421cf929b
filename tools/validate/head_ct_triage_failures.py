"""What `head-ct-triage` gets wrong, as pictures: the slice as people see it, the blood, the heat map."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from appliance.dicom.outcome import Findings
from appliance.models.tasks.head_alignment import AlignedHead
from appliance.results.display import BRAIN_CENTER_HU, BRAIN_WIDTH_HU, overlay
from tools.validate.head_ct_triage_cases import Case, Picture

_SIDE = 256
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>head-ct-triage: failures</title></head>
<body><h1>What head-ct-triage gets wrong at its threshold</h1>
<p>Each row: the slice at 0 to 80 HU, the blood that was drawn (simulated cases only), the heat map.</p>
{entries}
</body></html>
"""


@dataclass
class Gallery:
    """Collects the failures in a folder, which must exist; `close` writes the page that lists them."""

    folder: Path
    _entries: list[tuple[str, str]] = field(default_factory=list)

    def add_case(self, case: Case, outcome: Findings) -> None:
        """Keep a simulated series if the model is wrong about it."""
        if outcome.positive == (case.bleed is not None):
            return
        area = case.blood.sum(axis=(1, 2))
        index = outcome.key_slice if case.bleed is None else int(np.argmax(area))
        kind = "clear" if case.bleed is None else case.bleed.value
        grey = _grey(case.volume.voxels[index])
        heat = np.zeros_like(case.blood) if outcome.heat is None else outcome.heat
        self._keep(
            f"{'missed' if case.bleed else 'flagged'}-{kind}-{case.seed}",
            f"simulated, {kind}, slice {index + 1} of {len(case.blood)}, score {outcome.score:.3f}",
            [grey, overlay(grey, case.blood[index]), overlay(grey, heat[index])],
        )

    def add_picture(
        self, picture: Picture, head: AlignedHead, heat: NDArray[np.float32], score: float, *, positive: bool
    ) -> None:
        """Keep a labelled picture if the model is wrong about it; `heat` is (GRID, GRID)."""
        if positive == picture.bleeds:
            return
        grey = _grey(head.hu)
        self._keep(
            f"{'missed' if picture.bleeds else 'flagged'}-{picture.name}",
            f"real picture {picture.name}, score {score:.3f}",
            [grey, overlay(grey, heat)],
        )

    def close(self) -> None:
        """Write `index.html`."""
        entries = "\n".join(
            f'<h2>{html.escape(caption)}</h2>\n<img src="{name}.png" alt="{html.escape(caption)}">'
            for name, caption in self._entries
        )
        page = _PAGE.format(entries=entries or "<p>None.</p>")
        (self.folder / "index.html").write_text(page, encoding="utf-8")

    def _keep(self, name: str, caption: str, panels: list[NDArray[np.uint8]]) -> None:
        images = [Image.fromarray(panel).resize((_SIDE, _SIDE)) for panel in panels]
        row = Image.new("RGB", (_SIDE * len(images), _SIDE))
        for index, image in enumerate(images):
            row.paste(image, (_SIDE * index, 0))
        row.save(self.folder / f"{name}.png")
        self._entries.append((name, caption))


def _grey(hu: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(rows, columns) HU in the brain window as (rows, columns, 3)."""
    share = (hu - (BRAIN_CENTER_HU - BRAIN_WIDTH_HU / 2)) / BRAIN_WIDTH_HU
    stored = np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
    return np.repeat(stored[..., None], 3, axis=2)
