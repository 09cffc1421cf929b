"""The result of `tools/campaign receive` as the table that stands in docs/reliability.md."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from tools.campaigns.receive_crash import ReceiveCampaign, ReceiveCrash


def markdown(campaign: ReceiveCampaign) -> str:
    """Command, figures by victim, and what was found."""
    crashes = campaign.crashes
    bad = sum(1 for one in crashes if one.problems)
    seconds = [one.seconds for one in crashes]
    acknowledged = sum(one.images for one in crashes if not one.problems)
    lines = [
        f"`tools/campaign receive --points {len(crashes)} --seed {campaign.seed} --senders {campaign.senders}"
        f" --receivers {campaign.receivers}` took {campaign.seconds / 60:.0f} minutes. Undisturbed, the"
        f" {campaign.senders} scanners send their {crashes[0].images} images in"
        f" {campaign.undisturbed_s:.1f} s. Kills by process:",
        "",
        *_table(crashes),
        "",
        f"- Kills after which something was lost, changed, doubled, stuck or left behind:"
        f" **{bad} of {len(crashes)}**.",
        f"- Found by a last look at all images after the appliance was stopped: {len(campaign.last_look)}.",
        f"- Images of points without any finding, each acknowledged and at the PACS: {acknowledged}.",
        f"- From the first image until the verdict: median {statistics.median(seconds):.1f} s,"
        f" longest {max(seconds):.1f} s.",
    ]
    found = Counter(campaign.problems)
    return "\n".join([*lines, *(f"- {count} x {problem}" for problem, count in sorted(found.items()))])


def _table(crashes: tuple[ReceiveCrash, ...]) -> list[str]:
    head = (
        "killed",
        "kills",
        "while images were still to be acknowledged",
        "images acknowledged at the kill (median)",
        "kills that cut associations",
        "files that reached the PACS twice under the same UID",
        "kills with a finding",
    )
    rows = [head, ("---", *("--:" for _ in head[1:]))]
    for victim in sorted({one.kill.victim for one in crashes}):
        rows.append((f"`{victim}`", *_figures([one for one in crashes if one.kill.victim == victim])))
    rows.append(("**all**", *_figures(crashes)))
    return ["| " + " | ".join(row) + " |" for row in rows]


def _figures(crashes: Sequence[ReceiveCrash]) -> tuple[str, ...]:
    return (
        str(len(crashes)),
        str(sum(1 for one in crashes if one.while_sending)),
        f"{statistics.median(one.acknowledged for one in crashes):.0f} of {crashes[0].images}",
        str(sum(1 for one in crashes if one.associations > one.senders)),
        str(sum(one.copies for one in crashes)),
        str(sum(1 for one in crashes if one.problems)),
    )
