"""The error hierarchy. An error answers one question: is it worth trying again?

Every error says what is wrong, where, and what to do next, in a sentence that may be shown to an
operator: it never holds patient data.
"""

from __future__ import annotations


class ApplianceError(Exception):
    """Base of all errors that the appliance raises on purpose.

    `status` is the DIMSE status (PS3.7 Annex C, PS3.4 Table B.2-1) that a peer is told, if one waits
    for an answer.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class TryAgain(ApplianceError):
    """The same attempt may succeed later: a full disk, a peer that is away, a busy device."""


class GiveUp(ApplianceError):
    """The same attempt will fail again: a person or other input is needed."""


class Misconfigured(ApplianceError):
    """What the administrator wrote cannot work. `problems` holds one sentence per mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
