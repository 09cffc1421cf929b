"""Draws the card of a positive finding: two pictures, the finding, the score, the notice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from appliance.dicom.codes import NOTICE

WIDTH, HEIGHT = 1024, 768
WINDOW_CENTER_HU, WINDOW_WIDTH_HU = 40.0, 80.0
"""The brain window."""

_MARGIN = 24
_PICTURE = 476
_PICTURES_TOP = 124
_BACKGROUND = (16, 18, 22)
_FRAME = (60, 66, 76)
_WHITE = (240, 242, 245)
_GREY = (164, 172, 184)
_ALERT = (255, 98, 72)
_BANNER = (255, 200, 60)
_BANNER_TEXT = (24, 20, 0)
_TRACK = (44, 48, 56)

# Heat colours, from where they begin to show to full heat: deep red, orange, pale yellow.
_HEAT_STOPS = np.array([0.0, 0.5, 1.0])
_HEAT_COLOURS = np.array([[150, 0, 30], [255, 120, 0], [255, 245, 170]], np.float64)
_HEAT_OPACITY = 0.6
_HEAT_FROM = 0.15


@dataclass(frozen=True)
class Card:
    """What the card shows. `hounsfield` and `heat` (0..1) have the shape (rows, columns) of the key slice.

    `score` and `threshold` are 0..1; `aspect` is the row spacing over the column spacing.
    """

    finding: str
    urgency: str
    score: float
    threshold: float
    calibrated: bool
    place: str
    """Where the key slice lies in its series: "image 12, 28 slices"."""
    model: str
    checksum: str
    time: str
    hounsfield: NDArray[np.float32]
    heat: NDArray[np.float32] | None
    aspect: float


def draw_card(card: Card) -> NDArray[np.uint8]:
    """The card as RGB, shape (768, 1024, 3)."""
    page = Image.new("RGB", (WIDTH, HEIGHT), _BACKGROUND)
    draw = ImageDraw.Draw(page)
    _draw_heading(draw, card)
    grey = window(card.hounsfield)
    right = grey if card.heat is None else overlay(grey, card.heat)
    pictures = (
        (_MARGIN, grey, f"Key slice, brain window: {card.place}"),
        (WIDTH - _MARGIN - _PICTURE, right, "Heat map" if card.heat is not None else "No heat map"),
    )
    for left, picture, title in pictures:
        _draw_picture(page, draw, left, picture, card.aspect)
        draw.text((left, _PICTURES_TOP - 24), title, font=_font(15), fill=_GREY)
    _draw_score(draw, card)
    _draw_notice(draw)
    return np.asarray(page, np.uint8)


def window(hounsfield: NDArray[np.float32]) -> NDArray[np.uint8]:
    """HU as grey RGB in the brain window; shape (rows, columns, 3)."""
    low = WINDOW_CENTER_HU - WINDOW_WIDTH_HU / 2
    scaled = np.clip((hounsfield - low) / WINDOW_WIDTH_HU, 0, 1) * 255
    return np.repeat(np.rint(scaled).astype(np.uint8)[..., None], 3, axis=2)


def overlay(grey: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """`grey` with heat (0..1) laid over it; where the heat is low, the picture stays as it is."""
    strength = np.clip((heat - _HEAT_FROM) / (1 - _HEAT_FROM), 0, 1)
    colours = np.stack([np.interp(strength, _HEAT_STOPS, channel) for channel in _HEAT_COLOURS.T], axis=-1)
    opacity = (_HEAT_OPACITY * np.sqrt(strength))[..., None]
    return np.rint(grey * (1 - opacity) + colours * opacity).astype(np.uint8)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _draw_line(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    words: str,
    size: int,
    colour: tuple[int, int, int],
    width: int,
) -> None:
    """One line of text, smaller if it would be wider than `width`."""
    while size > 8 and draw.textlength(words, font=_font(size)) > width:
        size -= 1
    draw.text(corner, words, font=_font(size), fill=colour)


def _draw_heading(draw: ImageDraw.ImageDraw, card: Card) -> None:
    draw.rectangle((0, 0, 10, 88), fill=_ALERT)
    _draw_line(draw, (_MARGIN, 12), f"Suspected: {card.finding}", 34, _WHITE, WIDTH - 2 * _MARGIN)
    _draw_line(draw, (_MARGIN, 58), card.urgency, 20, _ALERT, WIDTH - 2 * _MARGIN)


def _draw_picture(
    page: Image.Image, draw: ImageDraw.ImageDraw, left: int, picture: NDArray[np.uint8], aspect: float
) -> None:
    """The picture in true proportions, as large as its square allows, on black."""
    rows, columns = picture.shape[0] * aspect, picture.shape[1]
    scale = _PICTURE / max(rows, columns)
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    box = (left, _PICTURES_TOP, left + _PICTURE, _PICTURES_TOP + _PICTURE)
    draw.rectangle((box[0] - 1, box[1] - 1, box[2], box[3]), fill=(0, 0, 0), outline=_FRAME)
    corner = (left + (_PICTURE - size[0]) // 2, _PICTURES_TOP + (_PICTURE - size[1]) // 2)
    page.paste(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC), corner)


def _draw_score(draw: ImageDraw.ImageDraw, card: Card) -> None:
    top = _PICTURES_TOP + _PICTURE + 18
    name = "Probability" if card.calibrated else "Score (not a probability)"
    words = f"{name} {100 * card.score:.1f} %   threshold {100 * card.threshold:.1f} %"
    draw.text((_MARGIN, top), words, font=_font(20), fill=_WHITE)
    left, right, bar = _MARGIN, _MARGIN + _PICTURE, (top + 34, top + 46)
    draw.rectangle((left, bar[0], right, bar[1]), fill=_TRACK)
    draw.rectangle((left, bar[0], left + round((right - left) * card.score), bar[1]), fill=_ALERT)
    mark = left + round((right - left) * card.threshold)
    draw.rectangle((mark - 1, bar[0] - 5, mark + 1, bar[1] + 5), fill=_WHITE)
    column = WIDTH - _MARGIN - _PICTURE
    _draw_line(draw, (column, top), card.model, 20, _WHITE, _PICTURE)
    draw.text((column, top + 32), f"sha256 {card.checksum}   {card.time}", font=_font(15), fill=_GREY)


def _draw_notice(draw: ImageDraw.ImageDraw) -> None:
    top = HEIGHT - 56
    draw.rectangle((0, top, WIDTH, HEIGHT), fill=_BANNER)
    draw.text((WIDTH / 2, top + 28), NOTICE, font=_font(21), fill=_BANNER_TEXT, anchor="mm")
