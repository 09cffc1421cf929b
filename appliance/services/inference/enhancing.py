"""Enhances a series image by image, as the images come.

A series is judged once, on some of its images, before any of them is enhanced: one slice alone may show
nothing but air. What was judged stays judged, also when images come late.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from sqlite3 import Row

from appliance.config.schema import Config
from appliance.dicom.frames import MULTI_FRAME
from appliance.dicom.outcome import Enhanced, NotAnalysed
from appliance.dicom.unusable import Unusable
from appliance.dicom.volume import Volume, load_volume
from appliance.domain.types import Job
from appliance.journal import taken
from appliance.journal.series import Arrived
from appliance.models.catalog import stack_refusal
from appliance.models.manifest import EnhanceTask
from appliance.models.tasks import enhance
from appliance.results import Produced, write
from appliance.services.inference.origin import identity_of, pipeline_digest
from appliance.services.inference.outgoing import order_of
from appliance.services.inference.runners import ModelRunner, ModelRunners
from appliance.services.inference.step import UNTIL_COMPLETE, Step, ended, resting
from appliance.services.packages import Package
from appliance.services.storage import Storage

PARTIAL = "partial"
"""The reason of an answer that some images of the series have no part in."""
OPENING = 8
"""A series that still arrives is judged on at least so many images, and on about twice as many at most."""
_STEP_S = 1.0
"""How long a step takes about: what is more urgent waits no longer."""
_SMALLEST_STEP, _LARGEST_STEP = 4, 64


@dataclass
class _Work:
    """A step while it is done: what was made of which images, and what became of each, by its id."""

    package: Package
    task: EnhanceTask
    settings: dict[str, float]
    runner: ModelRunner
    judged: bool
    together: bool
    parts: list[tuple[Enhanced, Volume]] = field(default_factory=list)
    images: dict[int, str | None] = field(default_factory=dict)


class Enhancer:
    """Runs the steps of enhancement jobs; `progress` is called after each batch."""

    def __init__(
        self, config: Config, storage: Storage, runners: ModelRunners, progress: Callable[[], None]
    ) -> None:
        self._config = config
        self._storage = storage
        self._runners = runners
        self._progress = progress
        self._image_s: dict[str, float] = {}

    def step(
        self, job: Job, package: Package, task: EnhanceTask, settings: dict[str, float], arrived: Arrived
    ) -> Step:
        """Enhance some of the images that wait, or find that the job has ended.

        Raises:
            TryAgain, GiveUp: as the journal, the runner and the writers do.
        """
        (uid, _revision) = job.series[0]
        digest = pipeline_digest(package, settings)
        with self._storage.journal.read() as connection:
            waiting = taken.waiting(connection, uid, digest)
            done = taken.counts(connection, uid, digest)
        judged = None in done
        together = any(row["sop_class_uid"] in MULTI_FRAME for row in waiting)
        if arrived.open and together:  # one object may come in several parts
            return resting(UNTIL_COMPLETE)
        if arrived.open and not judged and len(waiting) < OPENING:
            return resting(arrived.images - len(waiting) + OPENING)
        if together:
            batch: Sequence[Row] = waiting
        elif judged:
            batch = waiting[: self._step_size(job.model)]
        else:
            batch = waiting[:: max(1, len(waiting) // OPENING)]
        work = _Work(package, task, settings, self._runners.for_job(job.model), judged, together)
        started = time.monotonic()
        refused = self._enhance(batch, work) if batch else None
        if refused is not None:
            return resting(2 * arrived.images) if arrived.open else ended(refused)
        if batch:
            self._image_s[job.model] = (time.monotonic() - started) / len(batch)
        for reason in work.images.values():
            done[reason] = done.get(reason, 0) + 1
        if len(waiting) > len(work.images):
            step = resting(0)
        else:
            step = resting(arrived.images + 1) if arrived.open else _end(done)
        return self._with_results(step, job, digest, work)

    def _with_results(self, step: Step, job: Job, digest: str, work: _Work) -> Step:
        package = work.package
        identity = identity_of(job, package, work.settings, self._config, self._storage, work.runner.ran)
        kinds = package.pipeline.results.kinds("enhanced")
        order = order_of(self._config, package.pipeline.destinations, kinds, self._storage.journal)

        def produced() -> Iterator[Produced]:
            for outcome, volume in work.parts:
                yield from write(outcome, volume, identity, order)

        return replace(
            step,
            sources=[source for _, volume in work.parts for source in volume.sources],
            produced=produced(),
            images=work.images,
            pipeline_digest=digest,
        )

    def _step_size(self, model: str) -> int:
        """As many images as fit into a step."""
        fitting = int(_STEP_S / max(self._image_s.get(model, _STEP_S), 1e-6))
        return min(max(fitting, _SMALLEST_STEP), _LARGEST_STEP)

    def _enhance(self, rows: Sequence[Row], work: _Work) -> NotAnalysed | None:
        """Enhance images together, or each alone where that fails, and note what became of each.

        Returns why the whole series is not enhanced; once it was judged, that is never found.
        """
        try:
            volume = self._load(rows, work)
        except Unusable as error:
            return NotAnalysed(error.reason, str(error))
        if volume is None:
            return None
        self._progress()
        rows = [row for row in rows if row["id"] not in work.images]
        outcome = enhance.run(
            volume,
            work.package.manifest,
            work.task,
            work.settings["strength"],
            work.runner,
            self._progress,
            judged=work.judged,
        )
        if isinstance(outcome, Enhanced):
            work.parts.append((outcome, volume))
            work.images.update({row["id"]: None for row in rows})
        elif not work.judged:
            return outcome
        elif len(rows) == 1 or work.together:
            work.images.update({row["id"]: outcome.reason for row in rows})
        else:
            for row in rows:
                self._enhance([row], work)
        return None

    def _load(self, rows: Sequence[Row], work: _Work) -> Volume | None:
        """The images that can be used, None if there is no such; the others are noted as left out.

        Raises:
            Unusable: one of images that belong together.
        """
        try:
            volume = self._volume(rows)
        except Unusable as error:
            if work.together:
                raise
            if len(rows) == 1:
                work.images[rows[0]["id"]] = error.reason
                return None
            usable = [row for row in rows if self._load([row], work) is not None]
            if len(usable) == len(rows):  # each by itself, but not together
                work.images.update({row["id"]: error.reason for row in rows})
                usable = []
            return self._load(usable, work) if usable else None
        refused = stack_refusal(work.package.manifest.accepts, volume.geometry) if work.together else None
        if refused is not None:  # known only now of frames
            raise Unusable(refused.reason, refused.detail)
        return volume

    def _volume(self, rows: Sequence[Row]) -> Volume:
        return load_volume([self._storage.originals.path(row["spool_key"]) for row in rows])


def _end(done: dict[str | None, int]) -> Step:
    """The answer on a whole series, of which so many images have a derived one, or have none for a reason."""
    left_out = {reason: count for reason, count in done.items() if reason is not None}
    if not left_out:
        return Step("enhanced")
    words = ", ".join(f"{count} for {reason}" for reason, count in sorted(left_out.items()))
    total = sum(done.values())
    detail = f"{sum(left_out.values())} of {total} images are left out: {words}"
    if None in done:
        return Step("enhanced", PARTIAL, detail)
    return ended(NotAnalysed(max(left_out, key=left_out.__getitem__), detail))
