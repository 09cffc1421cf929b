"""Soft shapes in two or three dimensions, drawn with signed depths (positive inside)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
"""An image or a set of points; float32 wherever speed matters."""
Position = Sequence[Array]
"""One coordinate array per axis, all of one shape: (x, y) or (x, y, z)."""


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def chance(rng: np.random.Generator, probability: float) -> bool:
    """Draw a yes or no."""
    return bool(rng.random() < probability)


def soft(depth: Array, width: float) -> Array:
    """Turn a signed depth into a membership 0..1 whose edge is about four `width` wide."""
    membership: Array = 0.5 + 0.5 * np.tanh(np.float32(0.5 / width) * depth.astype(np.float32, copy=False))
    return membership


def blend(image: Array, value: float | Array, weight: Array) -> Array:
    """Replace `image` by `value` where `weight` is 1, mix in between."""
    mixed: Array = image + (value - image) * weight
    return mixed


def distance_squared(position: Position, centre: Sequence[float]) -> Array:
    """The squared distance to a point."""
    parts = [(axis - np.float32(value)) ** 2 for axis, value in zip(position, centre, strict=True)]
    total: Array = sum(parts[1:], start=parts[0])
    return total


def ellipsoid(position: Position, centre: Sequence[float], radii: Sequence[float]) -> Array:
    """The depth in an axis-aligned ellipse or ellipsoid, in units of its smallest radius."""
    scaled = [
        (axis - np.float32(c)) / np.float32(r) for axis, c, r in zip(position, centre, radii, strict=True)
    ]
    squared: Array = sum((axis**2 for axis in scaled[1:]), start=scaled[0] ** 2)
    depth: Array = 1 - np.sqrt(squared)
    return depth


def capsule(
    position: Position,
    start: Sequence[float],
    end: Sequence[float],
    radius: float,
    end_radius: float | None = None,
) -> Array:
    """The depth in a round-ended rod whose radius changes linearly from start to end."""
    axis = [b - a for a, b in zip(start, end, strict=True)]
    length = sum(step * step for step in axis) + 1e-9
    along: Array = np.zeros_like(position[0])
    for values, first, step in zip(position, start, axis, strict=True):
        along += (values - np.float32(first)) * np.float32(step / length)
    along = np.clip(along, 0, 1)
    squared: Array = np.zeros_like(along)
    for values, first, step in zip(position, start, axis, strict=True):
        squared += (values - np.float32(first) - along * np.float32(step)) ** 2
    widening = (radius if end_radius is None else end_radius) - radius
    depth: Array = np.float32(radius) + np.float32(widening) * along - np.sqrt(squared)
    return depth
