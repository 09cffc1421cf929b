"""Draws the card of an outcome, readable at a glance: what, how sure, where, by whom, and the notice.

Letters are large enough for a card that is shown at half its size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from appliance.dicom.codes import NOTICE
from appliance.results.card_design import BANNER, BANNER_INK, DIRECTION, NOTE, PLATE, Design, Tone
from appliance.results.display import Edges
from appliance.results.lettering import SMALLEST, Box, Line, fitted, font, length

WIDTH, HEIGHT = 1024, 768

_MARGIN = 24
_COLUMN_WIDTH = 476
_COLUMNS = (_MARGIN, WIDTH - _MARGIN - _COLUMN_WIDTH)
_HEADING_TOP, _REMARK_TOP, _TITLES_TOP = 8, 62, 106
_PICTURES_TOP, _PICTURES_BOTTOM = 140, 560
_SCORE_TOP = 574
_BAR_TOP, _BAR_BOTTOM = 626, 646
_BANNER_TOP = 712
_PLATE_EDGE = 6  # pixels around the letters on an image


@dataclass(frozen=True)
class Picture:
    """A picture, RGB of shape (rows, columns, 3); `aspect` is the row spacing over the column spacing.

    `note` is written into its lower left corner.
    """

    title: str
    pixels: NDArray[np.uint8]
    edges: Edges
    aspect: float
    note: str = ""


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
    tone: Tone
    pictures: tuple[Picture, ...]
    score: Score | None
    reason: str
    model: str
    checksum: str
    time: str


def draw_card(card: Card, design: Design) -> NDArray[np.uint8]:
    """The card as RGB, shape (768, 1024, 3)."""
    page = Image.new("RGB", (WIDTH, HEIGHT), design.page)
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, 12, 96), fill=design.tones[card.tone])
    for left, picture in zip(_COLUMNS, card.pictures, strict=False):
        _draw_picture(page, draw, left, picture, design)
    if card.score is not None:
        _draw_bar(draw, card.score, design, card.tone)
    draw.rectangle((0, _BANNER_TOP, WIDTH, HEIGHT), fill=BANNER)
    for line in lines_of(card, design):
        if line.plate is not None:
            left, top, right, bottom = line.box
            edge = _PLATE_EDGE
            draw.rectangle((left - edge, top - edge, right + edge, bottom + edge), fill=line.plate)
        draw.text((line.left, line.top), line.words, font=font(line.size), fill=line.colour, anchor="la")
    return np.asarray(page, np.uint8)


def lines_of(card: Card, design: Design) -> list[Line]:
    """Every text on the card: what, where, how large, in which colour."""
    wide = (_MARGIN, WIDTH - _MARGIN)
    lines = fitted(card.heading, (wide[0], _HEADING_TOP, wide[1], _REMARK_TOP), 42, design.ink)
    lines = [replace(line, top=line.top + _REMARK_TOP - lines[-1].below) for line in lines]
    remark = (wide[0], _REMARK_TOP, wide[1], _TITLES_TOP)
    lines += fitted(card.remark, remark, min(28, lines[-1].size), design.tones[card.tone])
    for left, picture in zip(_COLUMNS, card.pictures, strict=False):
        title = (left, _TITLES_TOP, left + _COLUMN_WIDTH, _PICTURES_TOP)
        lines += fitted(picture.title, title, SMALLEST, design.soft)
        lines += _on_picture(left, picture)
    if not card.pictures:
        place = (wide[0], _PICTURES_TOP, wide[1], _PICTURES_BOTTOM)
        lines += fitted(card.reason, place, 30, design.ink)
    if card.score is not None:
        lines += _score(card.score, design)
    lines += _origin(card, design)
    left = round((WIDTH - length(NOTICE, SMALLEST)) / 2)
    return [*lines, Line(NOTICE, left, _BANNER_TOP + 15, SMALLEST, BANNER_INK)]


def _on_picture(left: int, picture: Picture) -> Iterator[Line]:
    """The directions of the patient at the edges, and the note."""
    right = left + _COLUMN_WIDTH
    centre, middle = (left + right) // 2, (_PICTURES_TOP + _PICTURES_BOTTOM) // 2
    for letter, x, y in (
        (picture.edges.left, left + 20, middle),
        (picture.edges.right, right - 20, middle),
        (picture.edges.top, centre, _PICTURES_TOP + 22),
        (picture.edges.bottom, centre, _PICTURES_BOTTOM - 22),
    ):
        if letter:
            first, top, last, bottom = font(28).getbbox(letter, anchor="la")
            corner = round(x - (first + last) / 2), round(y - (top + bottom) / 2)
            yield Line(letter, *corner, 28, DIRECTION, PLATE)
    if picture.note:
        yield Line(picture.note, left + 10, _PICTURES_BOTTOM - 38, SMALLEST, NOTE, PLATE)


def _score(score: Score, design: Design) -> Iterator[Line]:
    """The score above its bar, and the threshold below its mark."""
    name = "Probability" if score.calibrated else "Score"
    value = Line(f"{name} {100 * score.value:.1f} %", _MARGIN, _SCORE_TOP, 36, design.ink)
    yield value
    if not score.calibrated:
        yield Line("not a probability", value.box[2] + 16, _SCORE_TOP + 10, SMALLEST, design.soft)
    words = f"Threshold {100 * score.threshold:.1f} %"
    width = round(length(words, SMALLEST))
    left = _MARGIN + round(_COLUMN_WIDTH * score.threshold) - width // 2
    left = min(max(left, _MARGIN), _MARGIN + _COLUMN_WIDTH - width)
    yield Line(words, left, _BAR_BOTTOM + 10, SMALLEST, design.soft)


def _origin(card: Card, design: Design) -> list[Line]:
    """Who made it, and when."""
    left, right = _COLUMNS[1] if card.pictures else _MARGIN, WIDTH - _MARGIN
    lines = fitted(card.model, (left, _SCORE_TOP, right, _SCORE_TOP + 60), 28, design.ink)
    for words in (card.time, f"sha256 {card.checksum}"):
        top = lines[-1].below + 2
        lines += fitted(words, (left, top, right, top + 30), SMALLEST, design.soft)
    return lines


def _draw_picture(
    page: Image.Image, draw: ImageDraw.ImageDraw, left: int, picture: Picture, design: Design
) -> None:
    """The picture in true proportions, as large as its frame allows, on black."""
    frame: Box = (left, _PICTURES_TOP, left + _COLUMN_WIDTH, _PICTURES_BOTTOM)
    width, height = frame[2] - frame[0], frame[3] - frame[1]
    rows, columns = picture.pixels.shape[0] * picture.aspect, picture.pixels.shape[1]
    scale = min(height / rows, width / columns)
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    outline = (frame[0] - 1, frame[1] - 1, frame[2], frame[3])
    draw.rectangle(outline, fill=(0, 0, 0), outline=design.frame)
    corner = (left + (width - size[0]) // 2, _PICTURES_TOP + (height - size[1]) // 2)
    page.paste(Image.fromarray(picture.pixels).resize(size, Image.Resampling.BICUBIC), corner)


def _draw_bar(draw: ImageDraw.ImageDraw, score: Score, design: Design, tone: Tone) -> None:
    """The score as a bar, with the threshold as a mark across it."""
    right = _MARGIN + _COLUMN_WIDTH
    draw.rectangle((_MARGIN, _BAR_TOP, right - 1, _BAR_BOTTOM), fill=design.track, outline=design.soft)
    end = _MARGIN + round(_COLUMN_WIDTH * score.value) - 1
    if end >= _MARGIN:
        draw.rectangle((_MARGIN, _BAR_TOP, end, _BAR_BOTTOM), fill=design.tones[tone])
    mark = _MARGIN + round(_COLUMN_WIDTH * score.threshold)
    for half, colour in ((5, design.page), (2, design.ink)):  # a gap keeps the mark apart from the bar
        draw.rectangle((mark - half, _BAR_TOP - 6, mark + half, _BAR_BOTTOM + 6), fill=colour)
