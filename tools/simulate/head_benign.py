"""What is bright and harmless in a head slice: drawn alike with and without a bleed.

Calcifications, dense cortex, bone and its partial volumes, metal, beam hardening, scars of surgery.
Without them a network learns "bright blob".
"""

from __future__ import annotations

import numpy as np

from tools.simulate.head_anatomy import Canvas, Level, field, turned_ellipse
from tools.simulate.head_shapes import Array, capsule, chance, ellipsoid, log_uniform, soft


def draw_dense_tissue(canvas: Canvas) -> None:
    """Grey matter that looks denser than it is, before lesions are painted."""
    rng, draw = canvas.rng, canvas.rng.uniform
    x, y = canvas.moved
    if chance(rng, 0.5):  # thick medial grey matter along the falx
        start, width = draw(0.05, 0.5), draw(0.025, 0.13)
        strip = np.exp(-(np.abs(x / width) ** draw(1.2, 3)))
        if chance(rng, 0.7):
            strip = strip * soft(y - start, draw(0.03, 0.15))
        else:
            strip = strip * soft(np.abs(y) - draw(0, 0.5), 0.08)
        canvas.hu = canvas.hu + draw(3, 15) * strip * canvas.solid * np.clip(0.7 + 0.5 * canvas.folds, 0, 1.3)
    if chance(rng, 0.35):  # cortex brightened by the inner table
        near = soft(draw(0.03, 0.2) * (1 + 0.5 * canvas.swell) - canvas.depth, 0.03) * (1 - canvas.spaces)
        uneven = 0.8 + 0.35 * np.cos(canvas.angle * rng.integers(1, 3) + draw(0, 6)) + 0.3 * canvas.folds
        canvas.hu = canvas.hu + draw(2, 13) * near * np.clip(uneven, 0, 1.5)
    if canvas.level >= Level.GANGLIA and chance(rng, 0.3):  # vermis, edge of the tentorium
        centre, radii = (draw(-0.03, 0.03), draw(0.35, 0.6)), (draw(0.06, 0.3), draw(0.08, 0.3))
        vermis = soft(ellipsoid(canvas.moved, centre, radii) + 0.2 * canvas.swell, 0.25)
        canvas.hu = canvas.hu + draw(2, 10) * vermis * (1 - canvas.spaces)


def _speck(
    canvas: Canvas, centre: tuple[float, float], radius: float, hu: float, roughness: float = 0.3
) -> None:
    rng, draw = canvas.rng, canvas.rng.uniform
    depth = turned_ellipse(canvas.moved, centre, (radius * log_uniform(rng, 0.6, 1.6), radius), draw(0, 3))
    canvas.paint(soft(depth + roughness * field(rng, 20), 0.25) * canvas.inside, hu)


def draw_calcifications(canvas: Canvas) -> None:
    """Pineal, choroid, basal ganglia, falx, single specks and the sella."""
    rng, draw, lift = canvas.rng, canvas.rng.uniform, canvas.lift
    if canvas.level is Level.GANGLIA:
        if chance(rng, 0.5):
            _speck(
                canvas, (draw(-0.02, 0.02), 0.22 + lift + draw(-0.05, 0.07)), draw(0.01, 0.035), draw(70, 300)
            )
        _pair(canvas, 0.55, 0.9, (draw(0.17, 0.32), draw(0.3, 0.5) + lift), (0.012, 0.05), draw(60, 300))
        _pair(canvas, 0.1, 0.92, (draw(0.2, 0.3), draw(-0.15, 0.05)), (0.012, 0.06), draw(45, 140))
    if canvas.level is Level.BODIES:
        _pair(canvas, 0.3, 0.8, (draw(0.1, 0.25), draw(0.15, 0.45)), (0.01, 0.035), draw(60, 250))
    if canvas.level <= Level.GANGLIA and chance(rng, 0.12):
        front = draw(-0.85, -0.3)
        falx = capsule(
            canvas.place, (0, front), (draw(-0.01, 0.01), front + draw(0.03, 0.25)), draw(0.006, 0.02)
        )
        canvas.paint(soft(falx, 0.012) * canvas.inside, draw(90, 400))
    if chance(rng, 0.05):
        _speck(canvas, (draw(-0.5, 0.5), draw(-0.5, 0.5)), draw(0.006, 0.014), draw(120, 400), 0.2)
    if canvas.level >= Level.SUPRASELLAR and chance(rng, 0.35):
        _speck(canvas, (0, lift - 0.18), draw(0.03, 0.09), draw(120, 500))
        _pair(canvas, 1.0, 1.0, (draw(0.06, 0.12), lift - 0.12), (0.01, 0.04), 300)


def _pair(
    canvas: Canvas,
    often: float,
    each: float,
    centre: tuple[float, float],
    radius: tuple[float, float],
    hu: float,
) -> None:
    """Calcify both sides, not quite alike."""
    rng, draw = canvas.rng, canvas.rng.uniform
    if not chance(rng, often):
        return
    for side in (-1, 1):
        if chance(rng, each):
            moved = (side * centre[0] + draw(-0.02, 0.02), centre[1] + draw(-0.03, 0.03))
            _speck(canvas, moved, draw(*radius), hu * draw(0.7, 1.3), 0.5)


def draw_skull(canvas: Canvas) -> None:
    """Put the brain into its skull, the skull into scalp, and the head into air."""
    draw = canvas.rng.uniform
    diploe = np.exp(-(((canvas.depth + 0.5 * canvas.wall) / (0.28 * canvas.wall + 1e-3)) ** 2))
    bone = draw(250, 900) * (1 - draw(0, 0.55) * diploe * (1 + 0.3 * canvas.folds))
    scalp = draw(0.02, 0.12)
    skin_depth = 1 + scalp * (1 + 0.3 * canvas.swell) - canvas.radius
    temples = soft(np.abs(canvas.place[0]) - 0.55, 0.05) * soft(canvas.radius - 1.01, 0.01)
    outside = soft(skin_depth, 0.008)
    around = -200 * (1 - outside) + (draw(-100, 40) + draw(0, 90) * temples) * outside
    around = around + draw(0, 120) * np.exp(-(((canvas.radius - 1 - scalp) / 0.012) ** 2))
    canvas.hu = canvas.hu * canvas.inside + bone * (1 - canvas.inside)
    canvas.hu = canvas.hu * canvas.head + around * (1 - canvas.head)
    if canvas.level >= Level.SUPRASELLAR or chance(canvas.rng, 0.06):
        _draw_base(canvas)
    if chance(canvas.rng, 0.55):
        rough = field(canvas.rng, 26)
        if chance(canvas.rng, 0.6):
            canvas.cover(soft(ellipsoid(canvas.place, (0, -0.93), (0.42, 0.15)), 0.2) * canvas.head, 500.0)
        centre, radii = (draw(-0.1, 0.1), draw(-0.95, -0.87)), (draw(0.1, 0.35), draw(0.03, 0.1))
        canvas.cover(soft(ellipsoid(canvas.place, centre, radii) + 0.3 * rough, 0.15) * canvas.head, -400.0)


def _draw_base(canvas: Canvas) -> None:
    """Petrous bones, mastoid cells, sphenoid wings, orbits."""
    rng, draw = canvas.rng, canvas.rng.uniform
    rough = field(rng, 26)
    if canvas.level is Level.POSTERIOR_FOSSA:
        back, tilt, thick = draw(-0.05, 0.15), draw(0, 0.25), draw(0.02, 0.09)
        for side in (-1, 1):
            start, end = (side * draw(0.85, 1), back + tilt), (side * draw(0.22, 0.4), back - draw(0, 0.12))
            pyramid = soft(
                capsule(canvas.place, start, end, thick * draw(1, 1.8), thick * draw(0.4, 0.9)), 0.012
            )
            canvas.cover(np.clip(pyramid * (1 + 0.2 * rough), 0, 1) * canvas.head, draw(300, 900))
            if chance(rng, 0.7):
                centre = (side * draw(0.7, 0.88), back + tilt + draw(-0.02, 0.1))
                cells = soft(ellipsoid(canvas.place, centre, (draw(0.06, 0.16), draw(0.08, 0.2))), 0.3)
                canvas.cover(cells * (rough > -0.1) * canvas.head, -300.0)
            if chance(rng, 0.7):
                start, end = (
                    (side * draw(0.75, 0.95), draw(-0.5, -0.3)),
                    (side * draw(0.1, 0.25), draw(-0.3, -0.15)),
                )
                wing = capsule(canvas.place, start, end, draw(0.015, 0.07), draw(0.01, 0.04))
                canvas.cover(soft(wing, 0.012) * canvas.head, draw(150, 700))
        if chance(rng, 0.5):
            _draw_orbits(canvas, rough)
    if chance(rng, 0.5):  # roofs of the orbits
        for side in (-1, 1):
            centre, radii = (side * draw(0.3, 0.5), draw(-0.75, -0.55)), (draw(0.1, 0.3), draw(0.05, 0.2))
            roof = turned_ellipse(canvas.place, centre, radii, side * draw(-0.5, 0.5))
            canvas.cover(soft(roof + 0.4 * rough, 0.15) * canvas.head * draw(0.3, 1), draw(80, 600))


def _draw_orbits(canvas: Canvas, rough: Array) -> None:
    draw = canvas.rng.uniform
    x, y = canvas.place
    canvas.cover(soft(draw(-0.5, -0.38) - y + 0.15 * np.abs(x), 0.03) * canvas.head, draw(-80, 10))
    height = draw(-0.8, -0.65)
    for side in (-1, 1):
        globe = ellipsoid(canvas.place, (side * draw(0.35, 0.45), height), (0.16, 0.16))
        canvas.cover(soft(globe, 0.08) * canvas.head, draw(5, 40))
    nose = soft(0.2 + 0.02 * rough - np.abs(x), 0.02) * soft(-0.38 - y, 0.03)
    canvas.cover(nose * canvas.head, np.where(rough > 0.2, np.float32(400), np.float32(-300)))
    for side in (-1, 1):
        medial = capsule(canvas.place, (side * 0.22, -0.9), (side * 0.15, -0.42), 0.02)
        lateral = capsule(canvas.place, (side * 0.75, -0.6), (side * 0.3, -0.38), 0.03)
        canvas.cover(soft(np.maximum(medial, lateral), 0.012) * canvas.head, 500.0)


def draw_scars_and_artefacts(canvas: Canvas) -> None:
    """Surgery, metal, partial volume and beam hardening."""
    rng, draw = canvas.rng, canvas.rng.uniform
    x, y = canvas.place
    operated = rng.random()
    if operated < 0.05:  # skull defect
        away = np.abs((canvas.angle - draw(-2.6, 2.6) + np.pi) % (2 * np.pi) - np.pi)
        gap = (
            soft(draw(0.06, 0.5) - away, 0.03) * soft(-canvas.depth, 0.01) * soft(1.01 - canvas.radius, 0.01)
        )
        canvas.paint(gap, draw(0, 45))
    elif operated < 0.08:  # trapped air
        bubble = ellipsoid(
            canvas.place, (draw(-0.5, 0.5), draw(-0.8, 0.3)), (draw(0.02, 0.12), draw(0.015, 0.08))
        )
        canvas.cover(soft(bubble, 0.2) * canvas.inside, -300.0)
    if chance(rng, 0.03):  # clip, shunt or coil with streaks
        right, down = x - draw(-0.4, 0.4), y - draw(-0.4, 0.4)
        away = np.hypot(right, down)
        streaks = np.cos(np.arctan2(down, right) * rng.integers(3, 9) + draw(0, 6))
        canvas.hu = canvas.hu + draw(5, 30) * streaks * np.exp(-away / draw(0.15, 0.5))
        canvas.paint(soft(draw(0.01, 0.03) - away, 0.008), 1500.0)
    if canvas.level >= Level.SUPRASELLAR and chance(rng, 0.25):  # roofs and ridges cut tangentially
        first = rng.choice([-1, 1])
        for side in (-1, 1):
            if side == first or chance(rng, 0.7):
                front = chance(rng, 0.6)
                centre = (side * draw(0.25, 0.6), draw(-0.7, -0.45) if front else draw(0, 0.3))
                ridge = turned_ellipse(
                    canvas.place, centre, (draw(0.08, 0.3), draw(0.06, 0.2)), draw(-0.5, 0.5)
                )
                canvas.hu = canvas.hu + draw(5, 40) * soft(ridge, 0.4) * canvas.inside
    cupping = np.clip(1 - canvas.depth / draw(0.1, 0.4), 0, 1) ** 2
    canvas.hu = canvas.hu + draw(-4, 9) * cupping * canvas.inside
    if chance(rng, 0.6 if canvas.level >= Level.SUPRASELLAR else 0.12):  # bars between dense bones
        bar = np.exp(-(((y - draw(-0.2, 0.3)) / draw(0.03, 0.12)) ** 2)) * np.exp(
            -((x / draw(0.2, 0.8)) ** 2)
        )
        canvas.hu = canvas.hu + draw(-18, 12) * bar * canvas.inside
    if chance(rng, 0.15):
        turn = draw(0, np.pi)
        waves = np.cos((x * np.cos(turn) + y * np.sin(turn)) * draw(8, 50) + draw(0, 6))
        canvas.hu = canvas.hu + draw(0, 5) * waves * soft(field(rng, 4), 0.3) * canvas.inside
