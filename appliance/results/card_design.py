"""The colours of a card on a dark and on a light page; the layout is the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from appliance.dicom.outcome import CardDesign
from appliance.results.lettering import Colour


class Tone(Enum):
    """What a card has to say: act, no need to, nobody knows."""

    ALERT = "alert"
    CALM = "calm"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Design:
    """Colours: every text has at least 4.5 : 1 against what lies behind it (WCAG 2.1 SC 1.4.3)."""

    page: Colour
    ink: Colour
    soft: Colour
    frame: Colour
    track: Colour
    tones: Mapping[Tone, Colour]


DESIGNS: Mapping[CardDesign, Design] = MappingProxyType(
    {
        "dark": Design(
            page=(16, 18, 22),
            ink=(240, 242, 245),
            soft=(176, 184, 196),
            frame=(60, 66, 76),
            track=(44, 48, 56),
            tones={Tone.ALERT: (255, 98, 72), Tone.CALM: (120, 170, 220), Tone.UNKNOWN: (255, 200, 60)},
        ),
        "light": Design(
            page=(250, 250, 248),
            ink=(22, 26, 32),
            soft=(78, 86, 98),
            frame=(190, 196, 204),
            track=(222, 226, 232),
            tones={Tone.ALERT: (188, 36, 12), Tone.CALM: (20, 86, 150), Tone.UNKNOWN: (134, 82, 0)},
        ),
    }
)


def design_of(card: NDArray[np.uint8]) -> Design:
    """The design that a card, RGB of shape (rows, columns, 3), was drawn in."""
    corner = card[0, -1].astype(int)
    return min(DESIGNS.values(), key=lambda design: int(np.abs(corner - design.page).sum()))


BANNER: Colour = (255, 200, 60)
BANNER_INK: Colour = (24, 20, 0)
PLATE: Colour = (0, 0, 0)
"""What lies behind text on an image."""
DIRECTION: Colour = (255, 226, 120)
NOTE: Colour = (240, 242, 245)
