"""Draws the card of an outcome, readable at a glance: what, how sure, where, by whom, and the notice.

Letters are large enough for a card that is shown at half its size.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from appliance.dicom.codes import NOTICE
from appliance.results.display import Edges

WIDTH, HEIGHT = 1024, 768

Colour = tuple[int, int, int]

ALERT: Colour = (255, 98, 72)
CALM: Colour = (120, 170, 220)
UNKNOWN: Colour = (255, 200, 60)
"""What the stripe and the bar of an outcome are drawn in: positive, negative, not analysed."""

_MARGIN = 24
_PICTURE_WIDTH, _PICTURE_HEIGHT = 476, 430
_PICTURES_TOP = 138
_SCORE_TOP = _PICTURES_TOP + _PICTURE_HEIGHT + 14
_BACKGROUND = (16, 18, 22)
_FRAME = (60, 66, 76)
_WHITE = (240, 242, 245)
_GREY = (176, 184, 196)
_MARKER = (255, 226, 120)
_BANNER = (255, 200, 60)
_BANNER_TEXT = (24, 20, 0)
_TRACK = (44, 48, 56)
_LINE = 62  # letters of the text that stands in place of pictures


@dataclass(frozen=True)
class Picture:
    """A picture, RGB of shape (rows, columns, 3); `aspect` is the row spacing over the column spacing."""

    title: str
    pixels: NDArray[np.uint8]
    edges: Edges
    aspect: float


@dataclass(frozen=True)
class Score:
    """A score and its threshold, both 0..1; only a calibrated one may be called a probability."""

    value: float
    threshold: float
    calibrated: bool


@dataclass(frozen=True)
class Card:
    """What the card shows: two pictures and a score, or in their place the text `reason`."""

    heading: str
    remark: str
    accent: Colour
    pictures: tuple[Picture, ...]
    score: Score | None
    reason: str
    model: str
    checksum: str
    time: str


def draw_card(card: Card) -> NDArray[np.uint8]:
    """The card as RGB, shape (768, 1024, 3)."""
    page = Image.new("RGB", (WIDTH, HEIGHT), _BACKGROUND)
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, 12, 96), fill=card.accent)
    _draw_line(draw, (_MARGIN, 8), card.heading, 42, _WHITE, WIDTH - 2 * _MARGIN)
    _draw_line(draw, (_MARGIN, 64), card.remark, 26, card.accent, WIDTH - 2 * _MARGIN)
    for number, picture in enumerate(card.pictures):
        left = _MARGIN + number * (WIDTH - 2 * _MARGIN - _PICTURE_WIDTH)
        _draw_line(draw, (left, _PICTURES_TOP - 32), picture.title, 22, _GREY, _PICTURE_WIDTH)
        _draw_picture(page, draw, left, picture)
    if not card.pictures:
        lines = "\n".join(textwrap.wrap(card.reason, _LINE))
        draw.text((_MARGIN, _PICTURES_TOP), lines, font=_font(30), fill=_WHITE, spacing=12)
    if card.score is not None:
        _draw_score(draw, card.score, card.accent)
    column = WIDTH - _MARGIN - _PICTURE_WIDTH
    _draw_line(draw, (column, _SCORE_TOP), card.model, 26, _WHITE, _PICTURE_WIDTH)
    _draw_line(draw, (column, _SCORE_TOP + 40), card.time, 22, _GREY, _PICTURE_WIDTH)
    _draw_line(draw, (column, _SCORE_TOP + 72), f"sha256 {card.checksum}", 22, _GREY, _PICTURE_WIDTH)
    draw.rectangle((0, HEIGHT - 60, WIDTH, HEIGHT), fill=_BANNER)
    draw.text((WIDTH / 2, HEIGHT - 30), NOTICE, font=_font(23), fill=_BANNER_TEXT, anchor="mm")
    return np.asarray(page, np.uint8)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _draw_line(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], words: str, size: int, colour: Colour, width: int
) -> None:
    """One line of text, smaller if it would be wider than `width`."""
    while size > 8 and draw.textlength(words, font=_font(size)) > width:
        size -= 1
    draw.text(corner, words, font=_font(size), fill=colour)


def _draw_picture(page: Image.Image, draw: ImageDraw.ImageDraw, left: int, picture: Picture) -> None:
    """The picture in true proportions, as large as its frame allows, on black."""
    rows, columns = picture.pixels.shape[0] * picture.aspect, picture.pixels.shape[1]
    scale = min(_PICTURE_HEIGHT / rows, _PICTURE_WIDTH / columns)
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    right, bottom = left + _PICTURE_WIDTH, _PICTURES_TOP + _PICTURE_HEIGHT
    draw.rectangle((left - 1, _PICTURES_TOP - 1, right, bottom), fill=(0, 0, 0), outline=_FRAME)
    corner = (left + (_PICTURE_WIDTH - size[0]) // 2, _PICTURES_TOP + (_PICTURE_HEIGHT - size[1]) // 2)
    page.paste(Image.fromarray(picture.pixels).resize(size, Image.Resampling.BICUBIC), corner)
    middle, centre = _PICTURES_TOP + _PICTURE_HEIGHT // 2, left + _PICTURE_WIDTH // 2
    for letter, place, anchor in (
        (picture.edges.left, (left + 8, middle), "lm"),
        (picture.edges.right, (right - 8, middle), "rm"),
        (picture.edges.top, (centre, _PICTURES_TOP + 6), "mt"),
        (picture.edges.bottom, (centre, bottom - 6), "mb"),
    ):
        draw.text(place, letter, _MARKER, _font(28), anchor, stroke_width=2, stroke_fill=(0, 0, 0))


def _draw_score(draw: ImageDraw.ImageDraw, score: Score, accent: Colour) -> None:
    """The score in words, and as a bar with the threshold as a mark across it."""
    name = "Probability" if score.calibrated else "Score (not a probability)"
    words = f"{name} {100 * score.value:.1f} %, threshold {100 * score.threshold:.1f} %"
    _draw_line(draw, (_MARGIN, _SCORE_TOP), words, 26, _WHITE, _PICTURE_WIDTH)
    top, bottom = _SCORE_TOP + 44, _SCORE_TOP + 64
    draw.rectangle((_MARGIN, top, _MARGIN + _PICTURE_WIDTH, bottom), fill=_TRACK)
    draw.rectangle((_MARGIN, top, _MARGIN + round(_PICTURE_WIDTH * score.value), bottom), fill=accent)
    mark = _MARGIN + round(_PICTURE_WIDTH * score.threshold)
    draw.rectangle((mark - 2, top - 6, mark + 2, bottom + 6), fill=_WHITE)
    label = min(max(mark, _MARGIN + 56), _MARGIN + _PICTURE_WIDTH - 56)
    draw.text((label, bottom + 10), "threshold", font=_font(20), fill=_GREY, anchor="mt")
