"""The report as one HTML file: what was sent, what arrived, and pictures of it."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

from tools.demonstrate.evidence import Arrived, Evidence
from tools.demonstrate.pictures import DIFFERENCE_HU, card, comparison
from tools.demonstrate.verdict import Row

STYLE = Path(__file__).with_name("page.css")
COLUMNS = (
    ("Series", "series"),
    ("Images in", "number"),
    ("Forwarded", "number"),
    ("Enhanced", "number"),
    ("Triage", "triage"),
    ("Seconds", "number"),
    ("Check", "check"),
)
"""Each column's name and class: on a phone the name stands before each value."""


@dataclass(frozen=True)
class Result:
    """Everything that the demonstration has to say. `skips` are sentences about models and reasons."""

    rows: list[Row]
    problems: list[str]
    skips: list[str]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether everything arrived that should have."""
        return not self.problems and not any(row.problems for row in self.rows)


def write_page(path: Path, result: Result, evidence: Evidence) -> None:
    """Write the report to `path`; it needs no other file and no network."""
    body = "\n".join(
        [
            _head(result),
            _facts(result),
            "<h2>Enhancement and triage</h2>",
            *(_series(row, evidence.arrived[row.series.uid]) for row in result.rows),
            "<h2>All series</h2>",
            _table(result.rows),
            _skips(result.skips),
        ]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Edge inference appliance: demonstration</title><style>{STYLE.read_text()}</style></head>"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def _head(result: Result) -> str:
    verdict = (
        '<p class="verdict good">Everything that should have arrived at the PACS did.</p>'
        if result.passed
        else '<p class="verdict bad">Something is missing or wrong:</p><ul class="bad">'
        + "".join(f"<li>{escape(problem)}</li>" for problem in all_problems(result))
        + "</ul>"
    )
    return (
        "<h1>Edge inference appliance: demonstration</h1>"
        '<p class="soft">A scanner, the appliance and a PACS on one machine. Every figure and picture below '
        "comes from the files that the PACS received.</p>"
        f"{verdict}"
        '<div class="flow"><div>scanner</div><i>DICOM</i><div><b>appliance</b>: store, forward, '
        "enhance, triage</div><i>DICOM</i><div>PACS: originals, enhanced series, reports, "
        "cards</div></div>"
        '<div class="notice"><b>Not for diagnosis.</b> The heads are simulated. The models were trained on '
        "simulated data only; their scores say nothing about patients.</div>"
    )


def all_problems(result: Result) -> list[str]:
    """Every problem, each with the series it belongs to."""
    by_series = [f"{row.series.name}: {problem}" for row in result.rows for problem in row.problems]
    return [*by_series, *result.problems]


def _facts(result: Result) -> str:
    images = sum(len(row.series.images) for row in result.rows)
    facts = (
        (f"{sum(row.forwarded for row in result.rows)} of {images}", "originals at the PACS"),
        (str(len(result.rows)), "series"),
        (str(sum(row.enhanced for row in result.rows)), "enhanced images"),
        (str(sum(row.triage.startswith("positive") for row in result.rows)), "flagged as urgent"),
        (f"{result.seconds:.0f} s", "from the first image to the last result"),
    )
    return (
        '<div class="facts">'
        + "".join(f'<div class="fact"><b>{value}</b><span>{name}</span></div>' for value, name in facts)
        + "</div>"
    )


def _series(row: Row, arrived: Arrived) -> str:
    shown = comparison(arrived)
    if shown is None:
        return ""
    pictures = (
        (shown.before, f"Before, as sent: {shown.caption}"),
        (shown.after, "After, as the PACS received it"),
        (
            shown.difference,
            f'Change: <span class="range">&minus;{DIFFERENCE_HU:.0f} '
            f'<span class="scale"></span> +{DIFFERENCE_HU:.0f} HU</span>',
        ),
    )
    figures = "".join(_figure(picture, caption) for picture, caption in pictures)
    caption = "The card with the heat map, as the PACS received it"
    cards = "".join(f'<div class="heat">{_figure(card(found), caption)}</div>' for found in arrived.cards)
    flag = "alert" if row.triage.startswith("positive") else "soft"
    when = "" if row.triage_seconds is None else f", at the PACS after {row.triage_seconds:.1f} s"
    return (
        f'<section class="series"><h3>{escape(row.series.name)}</h3>'
        f'<p class="{flag}">Triage: {escape(row.triage)}{when}</p>'
        f'<div class="pictures">{figures}</div>'
        f'<p class="soft">Noise in soft tissue {shown.noise_before_hu:.1f} HU before, '
        f"{shown.noise_after_hu:.1f} HU after; mean change {shown.mean_change_hu:.1f} HU, "
        f"largest {shown.largest_change_hu:.0f} HU.</p>{cards}</section>"
    )


def _figure(picture: str, caption: str) -> str:
    return f'<figure><img src="{picture}" alt=""><figcaption>{caption}</figcaption></figure>'


def _table(rows: list[Row]) -> str:
    head = "".join(f'<th class="{kind}">{name}</th>' for name, kind in COLUMNS)
    body = "".join(map(_table_row, rows))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _table_row(row: Row) -> str:
    check = (
        '<span class="good">complete</span>'
        if not row.problems
        else f'<span class="bad">{escape("; ".join(row.problems))}</span>'
    )
    triage = escape(row.triage)
    if row.triage.startswith("positive"):
        triage = f'<span class="alert">{triage}</span>'
    values = (
        escape(row.series.name),
        str(len(row.series.images)),
        str(row.forwarded),
        str(row.enhanced or "&ndash;"),
        triage,
        "&ndash;" if row.seconds is None else f"{row.seconds:.1f}",
        check,
    )
    cells = (
        f'<td class="{kind}" data-name="{name}">{value}</td>'
        for (name, kind), value in zip(COLUMNS, values, strict=True)
    )
    return f"<tr>{''.join(cells)}</tr>"


def _skips(skips: list[str]) -> str:
    if not skips:
        return ""
    items = "".join(f"<li>{escape(skip)}</li>" for skip in skips)
    return (
        "<h2>What the models left alone</h2><p>A model takes a series only if it was made for it. Everything "
        f"else is forwarded untouched, and the reason is kept:</p><ul>{items}</ul>"
    )
