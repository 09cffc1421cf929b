"""The result of `tools/campaign forward` as the table that stands in docs/reliability.md."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from tools.campaigns.forward_crash import BACKLOG, LIVE, ForwardCampaign, ForwardCrash


def markdown(campaign: ForwardCampaign) -> str:
    """Command, figures by victim and situation, and what was found."""
    crashes = campaign.crashes
    bad = sum(1 for one in crashes if one.problems)
    seconds = [one.seconds for one in crashes]
    right = sum(one.images for one in crashes if not one.problems)
    lines = [
        f"`tools/campaign forward --points {len(crashes)} --seed {campaign.seed}"
        f" --senders {campaign.senders}` took {campaign.seconds / 60:.0f} minutes. Undisturbed, the"
        f" {campaign.senders} scanners send their {crashes[0].images} images in"
        f" {campaign.lasting_s[LIVE]:.1f} s, and a backlog of as many leaves in"
        f" {campaign.lasting_s[BACKLOG]:.2f} s. Kills:",
        "",
        *_table(crashes),
        "",
        f"- Kills after which something was lost, changed, doubled, stuck or left behind:"
        f" **{bad} of {len(crashes)}**.",
        f"- Found by a last look at all images after the appliance was stopped: {len(campaign.last_look)}.",
        f"- Images of points without any finding, each at the PACS with the bytes that were sent: {right}.",
        f"- From the first image until the verdict: median {statistics.median(seconds):.1f} s,"
        f" longest {max(seconds):.1f} s.",
    ]
    found = Counter(campaign.problems)
    return "\n".join([*lines, *(f"- {count} x {problem}" for problem, count in sorted(found.items()))])


def _table(crashes: tuple[ForwardCrash, ...]) -> list[str]:
    head = (
        "killed",
        "kills",
        "while images were claimed",
        "images at the PACS at the kill (median)",
        "files that reached the PACS twice under the same UID",
        "kills with a finding",
    )
    rows = [head, ("---", *("--:" for _ in head[1:]))]
    for victim, situation in sorted({(one.kill.victim, one.kill.situation) for one in crashes}):
        chosen = [one for one in crashes if (one.kill.victim, one.kill.situation) == (victim, situation)]
        rows.append((f"`{victim}` {situation}", *_figures(chosen)))
    rows.append(("**all**", *_figures(crashes)))
    return ["| " + " | ".join(row) + " |" for row in rows]


def _figures(crashes: Sequence[ForwardCrash]) -> tuple[str, ...]:
    return (
        str(len(crashes)),
        str(sum(1 for one in crashes if one.sending)),
        f"{statistics.median(one.arrived for one in crashes):.0f} of {crashes[0].images}",
        str(sum(one.copies for one in crashes)),
        str(sum(1 for one in crashes if one.problems)),
    )
