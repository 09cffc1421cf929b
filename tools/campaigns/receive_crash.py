"""The fast crash experiment on receiving: no model, several scanners at once, and a kill while they send."""

from __future__ import annotations

import hashlib
import random
import secrets
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tools.campaigns.crash import calm_down
from tools.campaigns.journal_view import JournalView
from tools.campaigns.pacs import Pacs
from tools.campaigns.raw_sender import data_set_bytes
from tools.campaigns.scanner import Scanner, Series, new_series
from tools.campaigns.tree import SUPERVISOR, Tree
from tools.simulate.head_series import write_series

IMAGES, SIZE = 40, 128
MEASURED_RUNS = 3
"""Undisturbed runs: they show how long the scanners send."""

_VICTIMS = ("forward", "plan", SUPERVISOR, SUPERVISOR)
_RECEIVER_WEIGHT = 6
"""All receivers together, against one for each of the other victims."""
_SETTINGS = {"pipelines": [], "completeness": {"quiet_s": {"default": 0.5, "CT": 0.5}}}
PATIENCE_S = 120.0
_UNFINISHED_S = 5.0
"""How long the PACS may take to remove a file whose sender died in the middle of it."""


@dataclass(frozen=True)
class Kill:
    """`victim` is killed when `share` of the time has passed that the scanners need undisturbed."""

    number: int
    victim: str
    share: float


@dataclass(frozen=True)
class ReceiveCrash:
    """What one kill was and what it led to. `problems` is empty if nothing was lost or doubled.

    `acknowledged`: how many of `images` were, when the victim died; `associations`: how many the `senders`
    needed; `copies`: files that reached the PACS once more; `seconds`: from the first image to the verdict.
    """

    kill: Kill
    acknowledged: int
    images: int
    senders: int
    associations: int
    copies: int
    seconds: float
    problems: tuple[str, ...]

    @property
    def while_sending(self) -> bool:
        """Whether images were still to be acknowledged when the victim died."""
        return self.acknowledged < self.images


@dataclass(frozen=True)
class ReceiveCampaign:
    """Every kill of one campaign, and what the last look at all images found."""

    seed: int
    senders: int
    receivers: int
    undisturbed_s: float
    crashes: tuple[ReceiveCrash, ...]
    last_look: tuple[str, ...]
    seconds: float

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that was lost, changed, doubled, stuck or left behind."""
        return (*(problem for one in self.crashes for problem in one.problems), *self.last_look)


class Arrivals:
    """What has reached the PACS of all that was ever sent. What is right is counted and removed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sent: dict[bytes, str] = {}
        self.counts: Counter[str] = Counter()

    def expect(self, images: dict[str, Path]) -> None:
        """These images are going to be sent."""
        for uid, path in images.items():
            self._sent[_digest(data_set_bytes(path))] = uid

    def take_in(self) -> list[str]:
        """Look at what has arrived since the last call; returns what is wrong with it."""
        end = time.monotonic() + _UNFINISHED_S
        while found := self._look():
            if time.monotonic() > end:
                return found
            time.sleep(0.1)
        return []

    def _look(self) -> list[str]:
        found = []
        for path in list(self._folder.iterdir()):
            try:
                content, data_set = path.read_bytes(), data_set_bytes(path)
            except FileNotFoundError:  # its sender has died, and the PACS has just removed it
                continue
            uid = self._sent.get(_digest(data_set))
            if uid is None:
                found.append("CHANGED: the PACS has a data set that no scanner sent")
            elif uid.encode("ascii") not in content[: -len(data_set)]:
                found.append("TWICE: the PACS has an image under another UID than its own")
            else:
                self.counts[uid] += 1
                path.unlink()
        return found

    @property
    def here(self) -> int:
        """How many files the PACS has that were not taken in yet, finished or not."""
        return sum(1 for _ in self._folder.iterdir())

    def drop_unfinished(self) -> None:
        """Remove what a PACS that was killed had not written to its end."""
        for path in self._folder.iterdir():
            if _digest(data_set_bytes(path)) not in self._sent:
                path.unlink()

    def lost(self, acknowledged: Iterable[str]) -> list[str]:
        """One problem for each image that has not arrived although it was acknowledged."""
        missing = sum(1 for uid in acknowledged if not self.counts[uid])
        return ["LOST: an acknowledged image is not at the PACS"] * missing

    def copies(self, uids: Iterable[str]) -> int:
        """How many files of these images arrived beyond the first of each."""
        return sum(max(0, self.counts[uid] - 1) for uid in uids)


@dataclass
class ReceiveBench:
    """A running appliance without models, a PACS behind it and some scanners before it."""

    folder: Path
    pacs: Pacs
    tree: Tree
    journal: JournalView
    template: Series
    senders: int
    arrivals: Arrivals
    studies: int = 0
    acknowledged: set[str] = field(default_factory=set)
    undisturbed_s: float = 0.0

    def new_study(self) -> list[Series]:
        """One new series of the same study for each scanner, written to disk."""
        folder = self.folder / "sent" / f"{self.studies:04d}"
        self.studies += 1
        study = _new_uid(self.template.study_instance_uid)
        return [_copy(self.template, study, folder / str(number)) for number in range(self.senders)]


@contextmanager
def bench(folder: Path, *, senders: int, receivers: int) -> Iterator[ReceiveBench]:
    """Start PACS and appliance in `folder`, with so many receiving processes, and measure undisturbed runs.

    Raises:
        RuntimeError: it does not start, or an undisturbed run finds problems.
    """
    drawn = write_series(folder / "drawn", seed=1, bleed=False, slices=IMAGES, size=SIZE)
    template = new_series(drawn, folder / "template")
    pacs = Pacs(folder / "pacs")
    pacs.start()
    tree = Tree(folder / "appliance", pacs.port, _SETTINGS, receivers=receivers)
    try:
        tree.start()
        arrivals = Arrivals(pacs.folder)
        made = ReceiveBench(folder, pacs, tree, JournalView(tree.storage), template, senders, arrivals)
        made.undisturbed_s = statistics.median(_measure(made) for _ in range(MEASURED_RUNS))
        yield made
    finally:
        tree.stop()
        pacs.stop()


def draw_kills(bench: ReceiveBench, count: int, chance: random.Random) -> Iterator[Kill]:
    """Kills of all victims in random order, mostly of receivers, each at a random moment of the sending."""
    receivers = [name for name in bench.tree.names if name.startswith("receive")]
    victims: list[str] = []
    for number in range(count):
        if not victims:
            victims = [*receivers * (_RECEIVER_WEIGHT // len(receivers) or 1), *_VICTIMS]
            chance.shuffle(victims)
        yield Kill(number, victims.pop(), chance.random())


def receive_crash(bench: ReceiveBench, kill: Kill) -> ReceiveCrash:
    """Let the scanners send, kill the victim at its moment, and verify once everything has calmed down."""
    begin = time.monotonic()
    scanners, whole = start_scanners(bench)
    time.sleep(kill.share * bench.undisturbed_s)
    acknowledged = sum(len(scanner.acknowledged) for scanner in scanners)
    found = bench.tree.kill(kill.victim)
    if kill.victim == SUPERVISOR:
        bench.tree.start()
    found += verify(bench, scanners, whole)
    return ReceiveCrash(
        kill,
        acknowledged,
        len(whole.images),
        len(scanners),
        sum(scanner.associations for scanner in scanners),
        bench.arrivals.copies(whole.images),
        time.monotonic() - begin,
        tuple(found),
    )


def last_look(bench: ReceiveBench) -> list[str]:
    """Stop the appliance and look once more for all that was ever acknowledged; returns what is wrong."""
    status = bench.tree.stop()
    found = [f"the appliance ended with status {status}"] if status else []
    found += bench.arrivals.take_in()
    found += bench.arrivals.lost(bench.acknowledged)
    untidy = bench.journal.untidy()
    return [*found, *([f"UNTIDY: {untidy}"] if untidy else [])]


def _measure(bench: ReceiveBench) -> float:
    """How long the scanners send while nothing happens, in seconds."""
    scanners, whole = start_scanners(bench)
    begin = time.monotonic()
    for scanner in scanners:
        scanner.join()
    lasted_s = time.monotonic() - begin
    found = verify(bench, scanners, whole)
    copies = bench.arrivals.copies(whole.images)
    if found or copies:
        raise RuntimeError(f"an undisturbed run made {copies} copies, {found}")
    return lasted_s


def start_scanners(bench: ReceiveBench) -> tuple[list[Scanner], Series]:
    """Start a scanner for each series of a new study; returns them, and the whole study as if one series."""
    study = bench.new_study()
    images = {uid: path for series in study for uid, path in series.images.items()}
    bench.arrivals.expect(images)
    scanners = [Scanner(bench.tree.port, series, patience_s=PATIENCE_S) for series in study]
    for scanner in scanners:
        scanner.start()
    return scanners, Series(study[0].study_instance_uid, study[0].series_instance_uid, images)


def verify(bench: ReceiveBench, scanners: Sequence[Scanner], whole: Series) -> list[str]:
    """Wait until nothing moves any more; returns what was lost, changed, doubled or left behind."""
    for scanner in scanners:
        scanner.join()
    found = calm_down(bench.tree, bench.journal, whole)
    found += bench.arrivals.take_in()
    acknowledged = set().union(*(scanner.acknowledged for scanner in scanners))
    bench.acknowledged |= acknowledged
    found += bench.arrivals.lost(acknowledged)
    if rejected := bench.journal.rejected(whole):
        found.append(f"{rejected} deliveries rejected")
    if len(acknowledged) < len(whole.images):
        found.append(f"REFUSED: {len(acknowledged)} of {len(whole.images)} images acknowledged")
    found += [f"REFUSED: status {status}" for scanner in scanners for status in scanner.refusals]
    if not found:
        shutil.rmtree(next(iter(whole.images.values())).parents[1])
    return found


def _copy(template: Series, study: str, folder: Path) -> Series:
    """The images of `template` as a new series of `study`; new UIDs have the length of those they replace."""
    folder.mkdir(parents=True)
    series, images = _new_uid(template.series_instance_uid), {}
    for old, path in template.images.items():
        new, content = _new_uid(old), path.read_bytes()
        for before, after in (
            (old, new),
            (template.series_instance_uid, series),
            (template.study_instance_uid, study),
        ):
            content = content.replace(before.encode("ascii"), after.encode("ascii"))
        images[new] = folder / path.name
        images[new].write_bytes(content)
    return Series(study, series, images)


def _new_uid(old: str) -> str:
    """A random UID of the same length below 2.25 (PS3.5 B.2)."""
    base = 10 ** (len(old.removeprefix("2.25.")) - 1)
    return f"2.25.{base + secrets.randbelow(base)}"


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
