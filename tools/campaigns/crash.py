"""The crash experiment: kill one process at a random moment, let it recover, then look for losses."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tools.campaigns.journal_view import DELIVERED, QUEUED, STAGES, JournalView
from tools.campaigns.pacs import Pacs
from tools.campaigns.scanner import Scanner, Series, new_series
from tools.campaigns.tree import SUPERVISOR, Tree
from tools.campaigns.verify import Reference, problems, reference
from tools.simulate.head_series import write_series

SLICES, SIZE = 8, 256
MEASURED_RUNS = 2
"""Undisturbed runs of each template: they show what to expect and how long each stage takes."""
AIMS = tuple(stage for stage in STAGES if stage != QUEUED)
"""Stages long enough to be aimed at. The moments between them are hit by shots that go too far."""

_BEYOND = 1.15
_LOOK_S = 0.01
_PATIENCE_S = 120.0
_TIDY_S = 10.0


@dataclass(frozen=True)
class Point:
    """What one crash is to be: `victim` is killed `delay_s` after the series enters a stage for the
    `visit`-th time, counted from 0 (each model has an inference of its own).
    """

    number: int
    template: str
    victim: str
    aimed_at: str
    visit: int
    delay_s: float


@dataclass(frozen=True)
class Crash:
    """What one crash was and what it led to. `problems` is empty if nothing was lost or doubled.

    `stage` is that of the series when the victim died; `sending`: files of it on their way at that
    moment; `acknowledged`: images acknowledged until then; `copies`: files that reached the PACS once more.
    """

    point: Point
    stage: str
    sending: int
    acknowledged: int
    associations: int
    revision: int
    copies: int
    seconds: float
    problems: tuple[str, ...]


@dataclass
class Bench:
    """A running appliance with a PACS behind it, and what undisturbed series make of it."""

    folder: Path
    pacs: Pacs
    tree: Tree
    journal: JournalView
    templates: Mapping[str, Sequence[Path]]
    references: dict[str, Reference] = field(default_factory=dict)
    visits: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    """By stage: number and length in seconds of each visit of an undisturbed series."""
    finished: list[tuple[Series, frozenset[str], str]] = field(default_factory=list)

    def series(self, template: str) -> Series:
        """A new series with the images of a template."""
        return new_series(self.templates[template], self.folder / "sent" / f"{len(self.finished):04d}")

    def finish(self, series: Series, acknowledged: set[str], template: str) -> None:
        """Remember a series, to be looked at once more in the end."""
        self.finished.append((series, frozenset(acknowledged), template))


@contextmanager
def bench(folder: Path, *, receivers: int = 1) -> Iterator[Bench]:
    """Start PACS and appliance in `folder`, with so many receiving processes, and measure undisturbed runs.

    Raises:
        RuntimeError: it does not start, or undisturbed series do not come to their end.
    """
    templates = {
        name: write_series(folder / "templates" / name, seed=1, bleed=bleed, slices=SLICES, size=SIZE)
        for name, bleed in (("clear", False), ("bleed", True))
    }
    pacs = Pacs(folder / "pacs")
    pacs.start()
    tree = Tree(folder / "appliance", pacs.port, receivers=receivers)
    try:
        tree.start()
        made = Bench(folder, pacs, tree, JournalView(tree.storage), templates)
        for name in templates:
            for _ in range(MEASURED_RUNS):
                _measure(made, name)
        yield made
    finally:
        tree.stop()
        pacs.stop()


def _measure(bench: Bench, template: str) -> None:
    """Let one series pass undisturbed and note how long it is in which stage."""
    series = bench.series(template)
    scanner = Scanner(bench.tree.port, series, patience_s=_PATIENCE_S)
    scanner.start()
    entered: list[tuple[str, float]] = []
    for stage in _stages(bench, series, scanner):
        if not entered or stage != entered[-1][0]:
            entered.append((stage, time.monotonic()))
    if entered[-1][0] != DELIVERED:
        raise RuntimeError(f"an undisturbed series does not come to its end: {bench.journal.pending(series)}")
    scanner.join()
    for index, (stage, since) in enumerate(entered[:-1]):
        visit = sum(1 for earlier, _ in entered[:index] if earlier == stage)
        bench.visits[stage].append((visit, entered[index + 1][1] - since))
    bench.references.setdefault(template, reference(bench.journal, bench.pacs, series))
    expected = bench.references[template]
    found = problems(bench.journal, bench.pacs, series, scanner.acknowledged, expected)
    if found or len(expected.pixels) != len(series.images) or "sr" not in expected.kinds:
        raise RuntimeError(f"an undisturbed series made {dict(expected.kinds)}, {found}")
    bench.finish(series, scanner.acknowledged, template)


def _stages(bench: Bench, series: Series, scanner: Scanner) -> Iterator[str]:
    """The stage of a series, again and again until it is delivered or patience is at its end."""
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        stage = bench.journal.stage(series, all_acknowledged=scanner.is_done)
        yield stage
        if stage == DELIVERED:
            return
        time.sleep(_LOOK_S)


def draw_points(bench: Bench, count: int, chance: random.Random) -> Iterator[Point]:
    """Crash points over all pairs of stage and victim in random order, each at a random moment."""
    pairs: list[tuple[str, str]] = []
    for number in range(count):
        if not pairs:
            pairs = [(stage, victim) for stage in AIMS for victim in bench.tree.names]
            chance.shuffle(pairs)
        stage, victim = pairs.pop()
        visit, lasted_s = chance.choice(bench.visits[stage] or [(0, 0.0)])
        delay_s = lasted_s * chance.uniform(0.0, _BEYOND)
        yield Point(number, chance.choice(sorted(bench.templates)), victim, stage, visit, delay_s)


def _await_moment(bench: Bench, point: Point, series: Series, scanner: Scanner) -> None:
    """Return at the moment of a crash, or once the series is delivered if its stage was too short to see."""
    entered: list[str] = []
    for stage in _stages(bench, series, scanner):
        if entered[-1:] != [stage]:
            entered.append(stage)
        if entered.count(point.aimed_at) > point.visit:
            break
    time.sleep(point.delay_s)


def crash(bench: Bench, point: Point) -> Crash:
    """Send one series, kill the victim at its moment, and verify everything once it has calmed down."""
    series = bench.series(point.template)
    scanner = Scanner(bench.tree.port, series, patience_s=_PATIENCE_S)
    scanner.start()
    begin = time.monotonic()
    _await_moment(bench, point, series, scanner)
    stage = bench.journal.stage(series, all_acknowledged=scanner.is_done)
    acknowledged = len(scanner.acknowledged)
    found = bench.tree.kill(point.victim)
    sending = bench.journal.sending(series)
    if point.victim == SUPERVISOR:
        bench.tree.start()
    scanner.join()
    found += calm_down(bench.tree, bench.journal, series)
    expected = bench.references[point.template]
    found += problems(bench.journal, bench.pacs, series, scanner.acknowledged, expected)
    if not scanner.is_done:
        found.append(f"REFUSED: {len(scanner.acknowledged)} of {len(series.images)} images acknowledged")
    found += [f"REFUSED: status {status}" for status in scanner.refusals]
    copies = sum(len(copies) - 1 for copies in bench.pacs.arrived(series.study_instance_uid).values())
    bench.finish(series, scanner.acknowledged, point.template)
    return Crash(
        point,
        stage,
        sending,
        acknowledged,
        scanner.associations,
        bench.journal.revision(series),
        copies,
        time.monotonic() - begin,
        tuple(found),
    )


def calm_down(tree: Tree, journal: JournalView, series: Series) -> list[str]:
    """Wait until the series is at its end, all processes live and spool and journal agree.

    Returns what has not come about in time.
    """
    end = time.monotonic() + _PATIENCE_S
    while pending := journal.pending(series):
        if time.monotonic() > end:
            return [f"STUCK: after {_PATIENCE_S:g} s still {pending}"]
        time.sleep(0.05)
    while missing := set(tree.names) - set(tree.processes()):
        if time.monotonic() > end:
            return [f"STUCK: after {_PATIENCE_S:g} s not restarted: {', '.join(sorted(missing))}"]
        time.sleep(0.05)
    end = time.monotonic() + _TIDY_S
    while untidy := journal.untidy():
        if time.monotonic() > end:
            return [f"UNTIDY: {untidy}"]
        time.sleep(0.05)
    return []


def last_look(bench: Bench) -> list[str]:
    """Stop the appliance and verify every series of the bench once more; returns what is wrong."""
    found = []
    status = bench.tree.stop()
    if status != 0:
        found.append(f"the appliance ended with status {status}")
    for series, acknowledged, template in bench.finished:
        expected = bench.references[template]
        found += problems(bench.journal, bench.pacs, series, acknowledged, expected)
    return found
