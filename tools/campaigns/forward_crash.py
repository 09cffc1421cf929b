"""The crash experiment on forwarding: the forwarder, or the PACS, is killed while images leave."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.campaigns import receive_crash
from tools.campaigns.receive_crash import PATIENCE_S, ReceiveBench, start_scanners, verify
from tools.campaigns.scanner import Series
from tools.campaigns.tree import SUPERVISOR

FORWARDER, PACS = "forward", "PACS"
LIVE, BACKLOG = "while scanners send", "while a backlog leaves"
SITUATIONS = (LIVE, BACKLOG)
"""In the second the PACS is away until the appliance has all images."""

# The death of the supervisor is one of the forwarder, too, and lets restarts begin with a short delay again.
_DRAW = (FORWARDER, FORWARDER, FORWARDER, FORWARDER, SUPERVISOR, PACS)
_LOOK_S = 0.001
_CLAIMED_S = 0.01
"""About how long a batch is in the hands of the forwarder."""


@dataclass(frozen=True)
class Kill:
    """`victim` is killed when `share` of the time has passed that the situation lasts undisturbed, at a
    random moment in the hands of the forwarder: `later_s` after images were seen to be claimed.
    """

    number: int
    victim: str
    situation: str
    share: float
    later_s: float


@dataclass(frozen=True)
class ForwardCrash:
    """What one kill was and what it led to. `problems` is empty if nothing was lost, changed or doubled.

    At the kill `arrived` of the `images` were at the PACS and `sending` were claimed by the forwarder;
    `copies`: files that reached the PACS once more; `seconds`: from the first image to the verdict.
    """

    kill: Kill
    arrived: int
    sending: int
    images: int
    copies: int
    seconds: float
    problems: tuple[str, ...]


@dataclass(frozen=True)
class ForwardCampaign:
    """Every kill of one campaign, and what the last look at all images found."""

    seed: int
    senders: int
    lasting_s: dict[str, float]
    crashes: tuple[ForwardCrash, ...]
    last_look: tuple[str, ...]
    seconds: float

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that was lost, changed, doubled, stuck or left behind."""
        return (*(problem for one in self.crashes for problem in one.problems), *self.last_look)


@dataclass(frozen=True)
class ForwardBench:
    """The bench of the receive campaign, and how long each situation lasts undisturbed, in seconds."""

    receiving: ReceiveBench
    lasting_s: dict[str, float]


@contextmanager
def bench(folder: Path, *, senders: int) -> Iterator[ForwardBench]:
    """Start PACS and appliance in `folder` and measure undisturbed runs.

    Raises:
        RuntimeError: it does not start, or an undisturbed run finds problems.
    """
    with receive_crash.bench(folder, senders=senders, receivers=1) as made:
        yield ForwardBench(made, {LIVE: made.undisturbed_s, BACKLOG: _measure_backlog(made)})


def draw_kills(count: int, chance: random.Random) -> Iterator[Kill]:
    """Kills in both situations in random order, mostly of the forwarder, each at a random moment."""
    drawn: list[str] = []
    for number in range(count):
        if not drawn:
            drawn = chance.sample(_DRAW, len(_DRAW))
        situation = chance.choice(SITUATIONS)
        yield Kill(number, drawn.pop(), situation, chance.random(), chance.uniform(0.0, _CLAIMED_S))


def forward_crash(bench: ForwardBench, kill: Kill) -> ForwardCrash:
    """Kill the victim at its moment, and verify once everything has calmed down."""
    made = bench.receiving
    begin = time.monotonic()
    if kill.situation == BACKLOG:
        made.pacs.stop()
    scanners, whole = start_scanners(made)
    if kill.situation == BACKLOG:
        for scanner in scanners:
            scanner.join()
        made.pacs.start()
        _await_first(made)
    time.sleep(kill.share * bench.lasting_s[kill.situation])
    _await_claimed(made, whole)
    time.sleep(kill.later_s)
    arrived, sending = made.arrivals.here, made.journal.sending(whole)
    if kill.victim == PACS:
        made.pacs.kill()
        made.arrivals.drop_unfinished()
        made.pacs.start()
        found = []
    else:
        found = made.tree.kill(kill.victim)
    if kill.victim == SUPERVISOR:
        made.tree.start()
    found += verify(made, scanners, whole)
    copies = made.arrivals.copies(whole.images)
    seconds = time.monotonic() - begin
    return ForwardCrash(kill, arrived, sending, len(whole.images), copies, seconds, tuple(found))


def last_look(bench: ForwardBench) -> list[str]:
    """Stop the appliance and look once more for all that was ever acknowledged; returns what is wrong."""
    return receive_crash.last_look(bench.receiving)


def _measure_backlog(made: ReceiveBench) -> float:
    """How long an undisturbed forwarder takes from the first to the last image of a backlog, in seconds."""
    made.pacs.stop()
    scanners, whole = start_scanners(made)
    for scanner in scanners:
        scanner.join()
    made.pacs.start()
    _await_first(made)
    begin = time.monotonic()
    _await(made, len(whole.images))
    lasted_s = time.monotonic() - begin
    found = verify(made, scanners, whole)
    if found:
        raise RuntimeError(f"an undisturbed backlog made {found}")
    return lasted_s


def _await_claimed(made: ReceiveBench, whole: Series) -> None:
    """Return once the forwarder has images in hand, or all have arrived."""
    while not made.journal.sending(whole) and made.arrivals.here < len(whole.images):
        time.sleep(_LOOK_S)


def _await_first(made: ReceiveBench) -> None:
    _await(made, 1)


def _await(made: ReceiveBench, count: int) -> None:
    """Return once the PACS has so many new files, or patience is at its end."""
    end = time.monotonic() + PATIENCE_S
    while made.arrivals.here < count and time.monotonic() < end:
        time.sleep(_LOOK_S)
