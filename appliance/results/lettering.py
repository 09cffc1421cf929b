"""Text in pictures: as large as its place allows, cut where it does not fit, never too small to be read."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cache

from PIL import ImageFont

SMALLEST = 25
"""Size in pixels of the smallest letters: on a picture shown at half its size "Hg" is 11 pixels tall."""

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom lie outside."""

_ELLIPSIS = "..."
_LINE_HEIGHT = 1.2  # of the size


@dataclass(frozen=True)
class Line:
    """One line of text from its upper left corner; on a plate of its own if it lies on an image."""

    words: str
    left: int
    top: int
    size: int
    colour: Colour
    plate: Colour | None = None

    @property
    def box(self) -> Box:
        """What its letters cover."""
        left, top, right, bottom = font(self.size).getbbox(self.words, anchor="la")
        return (
            self.left + round(left),
            self.top + round(top),
            self.left + round(right),
            self.top + round(bottom),
        )

    @property
    def below(self) -> int:
        """Where the next line of its size begins."""
        return self.top + _height(self.size)


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that comes with Pillow, the same on every machine."""
    return ImageFont.load_default(size)


def length(words: str, size: int) -> float:
    """How wide a line is, in pixels."""
    return font(size).getlength(words)


def fitted(words: str, place: Box, largest: int, colour: Colour) -> list[Line]:
    """`words` in as many lines as `place` holds, in the largest letters with which all of it is there.

    What is too long even in the smallest letters ends in an ellipsis.
    """
    left, top, right, bottom = place
    for size in range(largest, SMALLEST - 1, -1):
        lines = _wrapped(words, size, right - left)
        if len(lines) * _height(size) <= bottom - top:
            break
    else:
        lines = _cut(lines, max(1, (bottom - top) // _height(SMALLEST)), right - left)
    return [Line(line, left, top + number * _height(size), size, colour) for number, line in enumerate(lines)]


def _height(size: int) -> int:
    return round(_LINE_HEIGHT * size)


def _wrapped(words: str, size: int, width: int) -> list[str]:
    """Lines that are broken between words, and within words that are wider than a line."""
    lines = [""]
    for word in words.split():
        rest = word
        if length(f"{lines[-1]} {rest}".strip(), size) > width and lines[-1]:
            lines.append("")
        while length(rest, size) > width:
            start = _start(rest, size, width)
            lines[-1] = start
            lines.append("")
            rest = rest[len(start) :]
        lines[-1] = f"{lines[-1]} {rest}".strip()
    return lines


def _start(word: str, size: int, width: int) -> str:
    """As much of a word as fits into a line, and at least a letter."""
    ends = range(1, len(word) + 1)
    return word[: max(1, bisect_right(ends, float(width), key=lambda end: length(word[:end], size)))]


def _cut(lines: list[str], count: int, width: int) -> list[str]:
    last = lines[count - 1]
    while length(last + _ELLIPSIS, SMALLEST) > width:
        last = last[:-1].rstrip()
    return [*lines[: count - 1], last + _ELLIPSIS]
