"""Which destinations get which result objects, by what each of them takes: a pure function."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from appliance.domain.types import Artifact

STAND_INS = {"sr": "sc"}
"""The kind of result object that shows people what another kind tells, where that one is not taken."""
SIMPLER = frozenset({"sr"})
"""Kinds of which there is a form of a simpler SOP class, for those who refuse the first."""


def recipients(
    artifact: Artifact, together: Sequence[Artifact], takes: Mapping[str, Collection[str]]
) -> tuple[str, ...]:
    """Names of the destinations that get `artifact` of the results `together` of one job.

    `takes` holds the kinds of result objects that each destination takes, by name.
    """
    replaced = {other.kind for other in together if other.sop_instance_uid == artifact.stands_for}
    return tuple(
        name
        for name, kinds in takes.items()
        if artifact.kind in kinds and not (artifact.instead_only and replaced & set(kinds))
    )


def stand_ins(kinds: Collection[str], takes: Mapping[str, Collection[str]]) -> frozenset[str]:
    """What nobody asked for, but may have to stand in for one of `kinds` somewhere: other kinds, and those
    of `kinds` themselves that have a simpler form.
    """
    taken = {kind for each in takes.values() for kind in each}
    others = {instead for kind, instead in STAND_INS.items() if kind in kinds and instead not in kinds}
    return frozenset((others | SIMPLER & set(kinds)) & taken)
