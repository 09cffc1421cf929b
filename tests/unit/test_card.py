"""Cards can be read: measured from what is drawn, at full size and at half of it, in both designs."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread

from appliance.dicom.codes import NOTICE
from appliance.dicom.outcome import CardDesign, NotAnalysed, Subject
from appliance.dicom.volume import load_headers
from appliance.results import Order, write_unanalysed
from appliance.results.card import HEIGHT, WIDTH, Card, Picture, Score, draw_card, lines_of
from appliance.results.card_design import DESIGNS, Tone, design_of
from appliance.results.display import Edges
from appliance.results.lettering import Box, Line
from appliance.results.retraction import retracting_card
from tests.dicom_samples import CtSeries, write_series
from tests.result_samples import BRAIN, HAEMORRHAGE, IDENTITY, as_wanted, findings, produce, sample_volume

READABLE = 4.5  # WCAG 2.1 SC 1.4.3
PIXELS = NDArray[np.uint8]
LONG = "Extraordinarily long words that somebody once put into a registry "


def card(tone: Tone, *, words: str = "", brightness: int = 128) -> Card:
    """A card with every part that a card can have; `words` are put into each text of other origin."""
    shown = tone is not Tone.UNKNOWN
    image = np.full((64, 64, 3), brightness, np.uint8)
    picture = Picture(
        f"Key image 12 (32 in all){words}", image, Edges("R", "L", "A", "P"), 1.0, "W 1500 L -600"
    )
    return Card(
        heading=f"Suspected: Intracranial hemorrhage{words}",
        remark=f"ACR Category 1 Actionable Finding{words}",
        tone=tone,
        pictures=(picture, picture) if shown else (),
        score=Score(1.0, 0.62, calibrated=False) if shown else None,
        reason=f"Reason: {words * 9}",
        model=f"Sample model{words} 1.2.3",
        checksum="0123456789ab",
        time="2026-01-02 11:30:15 +0100",
    )


WORDS = [("short", "", 0), ("long", f" {LONG}", 128), ("unbroken", "Mg" * 32, 255)]
CARDS = [
    pytest.param(
        (design, card(tone, words=words, brightness=brightness)),
        id=f"{design}-{tone.value}-{name}",
        marks=[pytest.mark.slow] if name == "short" else [],  # what is hard to fit shows most
    )
    for design in DESIGNS
    for tone in Tone
    for name, words, brightness in WORDS
]


def luminance(colours: PIXELS) -> NDArray[np.float64]:
    """Relative luminance (WCAG 2.1)."""
    part = colours / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    weighted: NDArray[np.float64] = linear @ np.array([0.2126, 0.7152, 0.0722])
    return weighted


def contrasts(pixels: PIXELS, box: Box) -> NDArray[np.float64]:
    """The contrast of each pixel of a box to its commonest one, which is what the letters stand on."""
    left, top, right, bottom = box
    cut = pixels[top - 1 : bottom + 1, left - 1 : right + 1]
    values = luminance(cut)
    colours, counts = np.unique(values.round(6), return_counts=True)
    ground = colours[np.argmax(counts)]
    ratio: NDArray[np.float64] = (np.maximum(values, ground) + 0.05) / (np.minimum(values, ground) + 0.05)
    return ratio


def half(pixels: PIXELS) -> PIXELS:
    """The card as wide as 512 pixels, as a viewer shows it."""
    small = Image.fromarray(pixels).resize((WIDTH // 2, HEIGHT // 2), Image.Resampling.LANCZOS)
    return np.asarray(small, np.uint8)


def halved(box: Box) -> Box:
    left, top, right, bottom = box
    return left // 2, top // 2, -(-right // 2), -(-bottom // 2)


@dataclass(frozen=True)
class Drawn:
    """A card at full size and at half of it, and its texts."""

    pixels: PIXELS
    small: PIXELS
    lines: list[Line]


@pytest.fixture(scope="module", params=CARDS)
def drawn(request: pytest.FixtureRequest) -> Drawn:
    design, shown = request.param
    pixels = draw_card(shown, DESIGNS[design])
    return Drawn(pixels, half(pixels), lines_of(shown, DESIGNS[design]))


def test_every_text_stands_out_from_what_is_behind_it(drawn: Drawn) -> None:
    for line in drawn.lines:
        assert contrasts(drawn.pixels, line.box).max() >= READABLE, line
        assert contrasts(drawn.small, halved(line.box)).max() >= READABLE, line


def test_letters_are_tall_enough_at_half_the_size(drawn: Drawn) -> None:
    for line in drawn.lines:
        inked = np.flatnonzero((contrasts(drawn.small, halved(line.box)) > 1.5).any(axis=1))
        # From the top of the capitals down to the base line, or to below it where a letter reaches there.
        below = any(letter in "gjpqy,()" for letter in line.words)
        assert np.ptp(inked) + 1 >= (11 if below else 9), line


def test_no_text_leaves_the_card_or_covers_another(drawn: Drawn) -> None:
    boxes = [line.box for line in drawn.lines]
    for left, top, right, bottom in boxes:
        assert 12 < left < right <= WIDTH - 12
        assert 0 < top < bottom <= HEIGHT
    for (left, top, right, bottom), (x0, y0, x1, y1) in combinations(boxes, 2):
        assert right <= x0 or x1 <= left or bottom <= y0 or y1 <= top


def test_texts_of_the_usual_length_are_there_in_full() -> None:
    shown = replace(
        card(Tone.ALERT), heading=f"Not suspected: {'Sixty-four letters are what a code may mean ' * 2}"[:79]
    )
    shown = replace(shown, remark="Sixty-four letters are what a code may mean, and not one more ok")
    title = "A title of sixty-four letters, which have to fit into two lines."
    shown = replace(shown, model=f"{title} 10.20.30")
    words = " ".join(line.words for line in lines_of(shown, DESIGNS["dark"]))
    for text in (shown.heading, shown.remark, shown.model, shown.time, shown.checksum, NOTICE):
        assert text in words
    long = replace(card(Tone.UNKNOWN), reason=f"Reason: {LONG * 9}"[:600].strip())
    assert long.reason in " ".join(line.words for line in lines_of(long, DESIGNS["dark"]))


def test_what_is_too_long_ends_in_an_ellipsis() -> None:
    lines = lines_of(card(Tone.UNKNOWN, words=f" {LONG * 9}"), DESIGNS["dark"])
    assert sum(line.words.endswith("...") for line in lines) == 4


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("tone", Tone)
def test_bar_and_mark_stand_out(design: CardDesign, tone: Tone) -> None:
    shown = replace(card(Tone.ALERT), tone=tone, score=Score(0.5, 0.5, calibrated=True))
    row = draw_card(shown, DESIGNS[design])[636:637, 24:500]
    filled, empty, mark, gap = (row[:, x : x + 1] for x in (100, 400, 238, 234))
    for one, other in ((filled, empty), (mark, gap), (mark, empty)):
        pair = np.concatenate([one, other, other], axis=1)
        assert contrasts(np.pad(pair, ((1, 1), (1, 1), (0, 0)), "edge"), (1, 1, 4, 2)).max() >= 3  # SC 1.4.11


def captures(folder: Path, design: CardDesign) -> Iterator[tuple[str, str, PIXELS]]:
    """Series, name and pixels of the cards of all three outcomes."""
    identity = replace(IDENTITY, card_design=design)
    volume = sample_volume(folder / "volume", CtSeries(slices=3))
    headers = load_headers(write_series(folder / "series", CtSeries(slices=3)))
    order, subject = Order(["sc"], (), as_wanted), Subject(HAEMORRHAGE, BRAIN)
    made = [
        *produce(findings(volume, positive=True), volume, identity, ["sc"]),
        *produce(findings(volume, positive=False), volume, identity, ["sc"]),
        *write_unanalysed(NotAnalysed("truncated", "cut off"), subject, headers, identity, order),
    ]
    for one in made:
        image = dcmread(io.BytesIO(one.encode()))
        yield one.series_instance_uid, one.sop_instance_uid, image.pixel_array


def test_the_other_design_is_another_image_by_another_name(tmp_path: Path) -> None:
    dark, light = (list(captures(tmp_path / design, design)) for design in ("dark", "light"))
    for (series, uid, pixels), (other_series, other_uid, other_pixels) in zip(dark, light, strict=True):
        assert series != other_series
        assert uid != other_uid
        assert luminance(pixels[0, -1]) < 0.1 < 0.8 < luminance(other_pixels[0, -1])
        assert design_of(pixels) is DESIGNS["dark"]
        assert design_of(other_pixels) is DESIGNS["light"]


def test_nothing_but_the_card_is_named_by_its_design(tmp_path: Path) -> None:
    volume = sample_volume(tmp_path, CtSeries(slices=3))
    positive = findings(volume, positive=True)
    uids = [
        {made.kind: made.sop_instance_uid for made in produce(positive, volume, identity, ["sr", "sc", "ko"])}
        for identity in (IDENTITY, replace(IDENTITY, card_design="light"))
    ]
    assert {kind for kind in uids[0] if uids[0][kind] != uids[1][kind]} == {"sc"}


@pytest.mark.parametrize("design", DESIGNS)
def test_a_withdrawn_card_keeps_its_design(tmp_path: Path, design: CardDesign) -> None:
    volume = sample_volume(tmp_path, CtSeries(slices=3))
    positive, identity = findings(volume, positive=True), replace(IDENTITY, card_design=design)
    (made,) = produce(positive, volume, identity, ["sc"])
    path = tmp_path / "card.dcm"
    path.write_bytes(made.encode())
    withdrawn = retracting_card(path, IDENTITY.created, "another patient", as_wanted, "EDGE")
    assert design_of(withdrawn.dataset.pixel_array) is DESIGNS[design]
    assert tuple(withdrawn.dataset.pixel_array[40, 5]) == DESIGNS[design].tones[Tone.UNKNOWN]
