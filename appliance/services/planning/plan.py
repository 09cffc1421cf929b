"""Decides when a series is complete and which models get it, or why none does.

The process also looks after the spool, since both wait for time to pass.
"""

from __future__ import annotations

import logging

from appliance.config.schema import Config
from appliance.dicom.frames import MULTI_FRAME
from appliance.dicom.geometry import check_series
from appliance.dicom.header import Facts
from appliance.domain.errors import TryAgain
from appliance.domain.policy import Arrival, completeness
from appliance.journal import commitments, instances, series
from appliance.journal.clock import boot_seconds
from appliance.journal.series import NewJob, Skip, WaitingSeries
from appliance.models.catalog import refusal
from appliance.observe import metrics
from appliance.observe.log import hashed
from appliance.observe.process import Process, ring
from appliance.services.packages import Package, load_packages
from appliance.services.planning.retention import Retention
from appliance.services.storage import Storage

_TICK_S = 0.25  # while a series is open
_LOOK_S = 5.0
# Triage is run before enhancement: somebody may be waiting to be read. Of each, what is STAT comes first.
_URGENCY = {"triage": 0, "enhance": 2}
_BEGIN_IMAGES = 8
"""A series that arrives is looked at when it has so many images, and then whenever they have doubled."""

_log = logging.getLogger(__name__)


class Planner:
    """Looks at the series that a decision is due for."""

    def __init__(self, config: Config, storage: Storage, packages: list[Package]) -> None:
        self._config = config
        self._journal = storage.journal
        self._packages = packages
        self._begun: dict[tuple[str, int], int] = {}

    def look(self) -> bool:
        """Decide what can be decided now; returns whether anything is still open.

        Raises:
            TryAgain: the journal cannot be read or written.
        """
        with self._journal.read() as connection:
            waiting = series.waiting(connection)
        begun, self._begun = self._begun, {}
        for one in waiting:
            if one.state == "complete" or self._complete(one):
                self._plan(one)
            else:
                self._begin(one, begun.get((one.series_instance_uid, one.revision), 0))
        return bool(waiting)

    def _begin(self, one: WaitingSeries, looked: int) -> None:
        """Let models begin with what has come of a series; those that do not take it are asked again.

        `looked` is the number of images that it had the last time.
        """
        if one.images >= max(_BEGIN_IMAGES, 2 * looked):
            looked = one.images
            jobs, _ = self._decide(one, arriving=True)
            with self._journal.write() as connection:
                begun = series.begin(connection, one, jobs)
            if begun:
                ring(self._config.run_directory, "infer")
        self._begun[one.series_instance_uid, one.revision] = looked

    def _complete(self, one: WaitingSeries) -> bool:
        settings = self._config.completeness
        evidence = completeness(
            self._arrival(one),
            boot_seconds(),
            quiet_s=settings.quiet_for(one.modality),
            maximum_wait_s=settings.maximum_wait_s,
        )
        if evidence is None:
            return False
        with self._journal.write() as connection:
            return series.complete(connection, one, evidence)

    def _arrival(self, one: WaitingSeries) -> Arrival:
        with self._journal.read() as connection:
            latest = instances.latest_facts(connection, one.series_instance_uid)
            requested = commitments.names_series(connection, one.series_instance_uid)
        announced = Facts.from_json(latest).images_in_acquisition
        return Arrival(one.images, announced, one.first_s, one.last_s, requested)

    def _plan(self, one: WaitingSeries) -> None:
        jobs, skips = self._decide(one)
        with self._journal.write() as connection:
            if not series.plan(connection, one, jobs, skips):
                return  # an image came in meanwhile: the series is open again
        decision = "planned" if jobs else "skipped"
        metrics.SERIES_DECIDED.labels(decision=decision).inc()
        for skip in skips:
            metrics.MODEL_SKIPS.labels(model=skip.model, reason=skip.reason).inc()
        _log.info(
            f"series_{decision}",
            extra={
                "series": hashed(one.series_instance_uid),
                "revision": one.revision,
                "images": one.images,
                "models": [job.model for job in jobs],
                "skips": {skip.model: skip.reason for skip in skips},
            },
        )
        if jobs:
            ring(self._config.run_directory, "infer")

    def _decide(self, one: WaitingSeries, *, arriving: bool = False) -> tuple[list[NewJob], list[Skip]]:
        """The answer of every pipeline, so that a missing flag is never taken for a negative one.

        While images are `arriving`, some may be parts of one object that only all of them show.
        """
        with self._journal.read() as connection:
            rows = instances.of_series(connection, one.series_instance_uid)
            source = instances.calling_ae_title(connection, one.series_instance_uid)
            are_all_kept = instances.are_all_kept(connection, one.series_instance_uid)
        facts = [Facts.from_json(row["facts"]) for row in rows]
        if arriving and any(fact.sop_class_uid in MULTI_FRAME for fact in facts):
            return [], []
        geometry = check_series(facts)
        routine = source not in self._config.inference.stat
        jobs, skips = [], []
        for package in self._packages:
            manifest = package.manifest
            if one.changed_content:
                detail = "an image arrived twice with different content; a person has to decide"
                skips.append(Skip(manifest.id, "changed_content", detail))
                continue
            if not are_all_kept:
                detail = "earlier images of the series have left the spool: there is only a part of it"
                skips.append(Skip(manifest.id, "purged", detail))
                continue
            problem = refusal(manifest.accepts, package.pipeline.match, facts, geometry)
            if problem is not None:
                skips.append(Skip(manifest.id, problem.reason, problem.detail))
            else:
                urgency = _URGENCY[manifest.task.kind] + routine
                jobs.append(NewJob(manifest.id, manifest.weights.sha256, urgency, source))
        return jobs, skips


def serve(config: Config, process: Process) -> None:
    """Plan until the process is told to stop.

    Raises:
        Misconfigured: a model package is missing or damaged.
        TryAgain: the journal or the spool cannot be opened.
    """
    storage = Storage(config)
    planner = Planner(config, storage, load_packages(config))
    retention = Retention(config, storage)
    process.ready()
    while not process.stopping.is_set():
        look_soon = False
        # Each for itself: a spool that cannot be written must not keep models from their work.
        for look in (planner.look, retention.look):
            try:
                look_soon |= look()
            except TryAgain:
                _log.exception("journal_unavailable")
        process.alive()
        process.wait(_TICK_S if look_soon else _LOOK_S)
