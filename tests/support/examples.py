"""How many examples Hypothesis draws where a test wants another number than usual."""

from __future__ import annotations

from hypothesis import settings

USUAL = 100
"""What Hypothesis draws if nobody says otherwise."""


def examples(number: int) -> int:
    """`number` of a whole run, and as much less in the fast one as tests/conftest.py sets for all tests."""
    drawn: int = settings().max_examples
    return max(5, number * drawn // USUAL)
