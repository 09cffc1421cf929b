"""Falx, tentorium, venous sinuses and vessels of the training slices."""

from __future__ import annotations

import numpy as np

from tools.simulate.head_anatomy import Canvas, Level
from tools.simulate.head_shapes import capsule, chance, ellipsoid, soft


def draw_membranes(canvas: Canvas) -> None:
    """Falx, tentorium, venous sinuses and vessels: bright, thin and normal."""
    rng, draw = canvas.rng, canvas.rng.uniform
    x, y = canvas.moved
    width = draw(0.004, 0.012)
    falx = np.exp(-((x / width) ** 2))
    if canvas.level is Level.BODIES:
        falx = falx * np.maximum(soft(-0.3 - y, 0.05), soft(y - 0.35, 0.05))
    elif canvas.level is Level.GANGLIA:
        falx = falx * np.maximum(soft(draw(-0.55, -0.4) - y, 0.04), soft(y - draw(0.35, 0.5), 0.04))
    elif canvas.level >= Level.SUPRASELLAR:
        falx = falx * np.maximum(soft(-0.6 - y, 0.04), soft(y - draw(0.5, 0.8), 0.04))
    membrane = falx * draw(0.2, 1)
    if canvas.level in (Level.GANGLIA, Level.SUPRASELLAR) and chance(rng, 0.65):
        spread, front, strength = draw(0.2, 0.6), draw(0.2, 0.35), draw(0.2, 1)
        for side in (-1, 1):
            end = (side * spread, front + draw(0.25, 0.5))
            leaf = capsule(canvas.moved, (side * 0.03, front), end, width * 0.8, width * 1.3)
            membrane = np.maximum(membrane, soft(leaf, 0.008) * strength)
    if canvas.level is Level.GANGLIA and chance(rng, 0.3):
        straight = capsule(canvas.moved, (0, 0.3), (0, 0.75), draw(0.008, 0.02), draw(0.008, 0.022))
        membrane = np.maximum(membrane, soft(straight, 0.012) * draw(0.3, 1))
    canvas.paint(membrane, draw(42, 62))
    _draw_sinuses(canvas)


def _draw_sinuses(canvas: Canvas) -> None:
    rng, draw = canvas.rng, canvas.rng.uniform
    x, y = canvas.moved
    if chance(rng, 0.7):
        triangle = soft(ellipsoid((x, canvas.depth), (0, 0), (draw(0.03, 0.09), draw(0.03, 0.09))), 0.2)
        front_too = canvas.level <= Level.BODIES and chance(rng, 0.4)
        canvas.paint(triangle if front_too else triangle * (y > 0), draw(45, 75))
    if canvas.level >= Level.SUPRASELLAR and chance(rng, 0.6):
        side, at = rng.choice([-1, 1]), np.pi - draw(0.2, 0.9)
        arc = np.exp(-(((canvas.angle * side - at) / draw(0.2, 0.5)) ** 2)) * soft(
            draw(0.02, 0.06) - canvas.depth, 0.01
        )
        canvas.paint(arc, draw(45, 70))
    if canvas.level >= Level.SUPRASELLAR and chance(rng, 0.6):
        for _ in range(int(rng.integers(1, 5))):
            vessel = ellipsoid(
                canvas.moved, (draw(-0.2, 0.2), draw(-0.25, 0.1)), (draw(0.012, 0.025), draw(0.012, 0.025))
            )
            canvas.paint(soft(vessel, 0.3), draw(42, 65))
