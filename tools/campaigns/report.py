"""The result of a campaign as the table that stands in docs/reliability.md."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass

from tools.campaigns.crash import Crash
from tools.campaigns.journal_view import DELIVERED, STAGES
from tools.campaigns.tree import ROOT

DOCUMENT = ROOT / "docs" / "reliability.md"
_END = "<!-- to here -->"


@dataclass(frozen=True)
class Campaign:
    """Every crash of one campaign, and what the last look at all series found."""

    seed: int
    receivers: int
    crashes: tuple[Crash, ...]
    last_look: tuple[str, ...]
    seconds: float

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that was lost, changed, doubled, stuck or left behind."""
        return (*(problem for one in self.crashes for problem in one.problems), *self.last_look)


def markdown(campaign: Campaign) -> str:
    """Command, counts by stage and victim, and what was found."""
    crashes = campaign.crashes
    seconds = [one.seconds for one in crashes]
    bad = sum(1 for one in crashes if one.problems)
    cut = sum(1 for one in crashes if one.associations > 1)
    early = sum(1 for one in crashes if one.revision > 1)
    under_way = sum(1 for one in crashes if one.sending)
    copies = sum(one.copies for one in crashes)
    lines = [
        f"`tools/campaign crash --points {len(crashes)} --seed {campaign.seed}"
        f" --receivers {campaign.receivers}` took"
        f" {campaign.seconds / 60:.0f} minutes. Crashes by stage of the series and killed process:",
        "",
        *_table(crashes),
        "",
        f"- Crashes after which something was lost, changed, doubled, stuck or left behind:"
        f" **{bad} of {len(crashes)}**.",
        f"- Found by a last look at all series after the appliance was stopped: {len(campaign.last_look)}.",
        f"- Crashes while files were on their way to the PACS: {under_way};"
        f" files that reached it a second time under the same UID: {copies}.",
        f"- Crashes that cut an association of the scanner: {cut}.",
        f"- Series that were taken as complete too early and analysed again with all images: {early}.",
        f"- From the scanner's first image until all was delivered: median"
        f" {statistics.median(seconds):.1f} s, longest {max(seconds):.1f} s.",
    ]
    found = Counter(campaign.problems)
    return "\n".join([*lines, *(f"- {count} x {problem}" for problem, count in sorted(found.items()))])


def into_document(document: str, text: str, kind: str) -> str:
    """`document` with `text` in the place that is kept for campaigns of this kind."""
    begin = f"<!-- tools/campaign {kind} writes from here -->\n"
    before, _, rest = document.partition(begin)
    _, _, after = rest.partition(_END)
    return f"{before}{begin}{text}\n{_END}{after}"


def _table(crashes: tuple[Crash, ...]) -> list[str]:
    counts = Counter((one.stage, one.point.victim) for one in crashes)
    stages = (*STAGES, DELIVERED)
    victims = sorted({one.point.victim for one in crashes})
    rows: list[tuple[str | int, ...]] = []
    for stage in stages:
        row = [counts[stage, victim] for victim in victims]
        rows.append((stage, *row, sum(row)))
    columns = [sum(counts[stage, victim] for stage in stages) for victim in victims]
    rows.append(("**all**", *columns, len(crashes)))
    head = ("stage", *victims, "**all**")
    rule = ("---", *("--:" for _ in range(len(victims) + 1)))
    return ["| " + " | ".join(map(str, row)) + " |" for row in (head, rule, *rows)]
