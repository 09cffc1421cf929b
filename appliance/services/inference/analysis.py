"""What the models say of a series, step by step: the images that came so far, or all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from appliance.config.schema import Config
from appliance.dicom.geometry import check_series
from appliance.dicom.header import Facts
from appliance.dicom.outcome import Findings, Identity, NotAnalysed
from appliance.dicom.unusable import Unusable
from appliance.dicom.volume import Volume, load_headers, load_volume
from appliance.domain.types import EarlyFlag, Job
from appliance.journal import health, instances, jobs, series
from appliance.journal.clock import boot_seconds
from appliance.journal.series import Arrived
from appliance.models import tasks
from appliance.models.catalog import refusal, stack_refusal
from appliance.models.manifest import EnhanceTask, TriageTask
from appliance.models.tasks import triage
from appliance.results import Order, is_urgent, write, write_unanalysed
from appliance.results.notification import notification
from appliance.services.inference.enhancing import Enhancer
from appliance.services.inference.health import OUT_OF_SERVICE
from appliance.services.inference.origin import identity_of
from appliance.services.inference.outgoing import order_of
from appliance.services.inference.runners import ModelRunner, ModelRunners
from appliance.services.inference.step import UNTIL_COMPLETE, Step, ended, resting, word
from appliance.services.packages import Package
from appliance.services.storage import Storage

_GROWTH = 1.5
"""By how much a series that still arrives has to grow before a triage model looks at it again."""
_EARLY_KINDS = frozenset({"sr", "message"})
"""What tells of a finding before the series is complete; the rest is made of all images."""


@dataclass(frozen=True)
class _Case:
    """A triage job with what it takes to run it."""

    job: Job
    package: Package
    task: TriageTask
    settings: dict[str, float]
    arrived: Arrived
    paths: Sequence[Path]
    facts: Sequence[Facts]


class Analyst:
    """Runs the steps of jobs on the loaded models; `progress` is called after each batch."""

    def __init__(
        self,
        config: Config,
        storage: Storage,
        packages: Sequence[Package],
        runners: ModelRunners,
        progress: Callable[[], None],
    ) -> None:
        self._config = config
        self._storage = storage
        self._packages = {package.manifest.id: package for package in packages}
        self._runners = runners
        self._progress = progress
        self._enhancer = Enhancer(config, storage, runners, progress)

    def step(self, job: Job) -> Step:
        """Look at what there is of the series of a job.

        Raises:
            TryAgain, GiveUp: as the journal, the runners and the writers do.
        """
        package = self._packages.get(job.model)
        if package is None:
            return ended(NotAnalysed("not_configured", "the model is no longer configured"))
        settings = tasks.parameters(package.manifest, package.pipeline)
        with self._storage.journal.read() as connection:
            arrived = series.arrived(connection, job)
            refused = jobs.refusal(connection, job)
            model = health.find(connection, job.model)
        if not arrived.current:
            return ended(NotAnalysed("superseded", "more images arrived; a later job has them all"))
        waited_s = boot_seconds() - job.since_s
        deadline_s = package.pipeline.deadline_for(package.manifest.task.kind)
        problem: NotAnalysed | None = None
        if refused is not None:
            problem = NotAnalysed(*refused)
        elif not model.in_service:
            if arrived.open:  # it may be back before the series is complete
                return resting(UNTIL_COMPLETE)
            problem = NotAnalysed(OUT_OF_SERVICE, f"the model is out of service: {model.why}")
        elif not arrived.open and deadline_s is not None and waited_s > deadline_s:
            detail = f"waited {waited_s:.0f} s for its turn, {deadline_s:g} s are allowed"
            problem = NotAnalysed("overloaded", detail)
        match package.manifest.task:
            case EnhanceTask() as task:
                if problem is not None:
                    return ended(problem)
                return self._enhancer.step(job, package, task, settings, arrived)
            case TriageTask() as task:
                case = self._case(job, package, task, settings, arrived)
                if problem is not None:
                    return self._unanalysed(problem, case)
                return self._early_look(case) if arrived.open else self._verdict(case)

    def _case(
        self, job: Job, package: Package, task: TriageTask, settings: dict[str, float], arrived: Arrived
    ) -> _Case:
        (uid, _revision) = job.series[0]
        with self._storage.journal.read() as connection:
            rows = instances.of_series(connection, uid)
        paths = [self._storage.originals.path(row["spool_key"]) for row in rows]
        facts = [Facts.from_json(row["facts"]) for row in rows]
        return _Case(job, package, task, settings, arrived, paths, facts)

    def _verdict(self, case: _Case) -> Step:
        """The answer on all images."""
        job, package = case.job, case.package
        try:
            volume = load_volume(case.paths)
        except Unusable as error:
            return self._unanalysed(NotAnalysed(error.reason, str(error)), case)
        problem = stack_refusal(package.manifest.accepts, volume.geometry) if volume.geometry.gap_mm else None
        if problem is not None:  # known only now of frames
            return self._unanalysed(NotAnalysed(problem.reason, problem.detail), case)
        self._progress()
        runner = self._runners.for_job(job.model)
        outcome = self._look(volume, case, runner)
        if isinstance(outcome, NotAnalysed):
            return self._unanalysed(outcome, case)
        if job.flag is not None:
            outcome = _not_below(outcome, job.flag, volume)
        identity = identity_of(job, package, case.settings, self._config, self._storage, runner.ran)
        return self._told(outcome, volume, identity, package, package.pipeline.results.kinds(word(outcome)))

    def _early_look(self, case: _Case) -> Step:
        """Whether the images that came so far show a finding that nobody should wait for."""
        package = case.package
        kinds = package.pipeline.results.kinds("positive") & _EARLY_KINDS
        if case.job.flag is not None or not kinds:
            return resting(UNTIL_COMPLETE)
        again = resting(max(case.arrived.images + 1, round(case.arrived.images * _GROWTH)))
        geometry = check_series(case.facts)
        if refusal(package.manifest.accepts, package.pipeline.match, case.facts, geometry) is not None:
            return again
        try:
            volume = load_volume(case.paths)
        except Unusable:  # of which people are told once the series is complete
            return again
        self._progress()
        runner = self._runners.for_job(case.job.model)
        outcome = self._look(volume, case, runner)
        if isinstance(outcome, NotAnalysed) or not is_urgent(outcome):
            return again
        identity = identity_of(case.job, package, case.settings, self._config, self._storage, runner.ran)
        step = self._told(outcome, volume, replace(identity, early=True), package, kinds)
        flag = EarlyFlag(float(outcome.score), str(volume.sources[outcome.key_slice].SOPInstanceUID))
        return replace(step, outcome=None, images_due=UNTIL_COMPLETE, flag=flag)

    def _look(self, volume: Volume, case: _Case, runner: ModelRunner) -> Findings | NotAnalysed:
        threshold = case.settings["threshold"]
        return triage.run(volume, case.package.manifest, case.task, threshold, runner, self._progress)

    def _told(
        self, outcome: Findings, volume: Volume, identity: Identity, package: Package, kinds: frozenset[str]
    ) -> Step:
        order = self._order(package, kinds)
        told = notification(outcome, volume, identity, order.kinds)
        produced = write(outcome, volume, identity, order)
        return Step(word(outcome), sources=volume.sources, produced=produced, told=told, kinds=kinds)

    def _unanalysed(self, outcome: NotAnalysed, case: _Case) -> Step:
        """The end of a job without an answer, and what tells people so."""
        package = case.package
        subject, kinds = tasks.subject(package.manifest), package.pipeline.results.kinds("not_analysed")
        if subject is None or not kinds:
            return ended(outcome)
        try:
            headers = load_headers(case.paths)
        except Unusable:  # nothing can be said in DICOM of images that cannot be read
            return ended(outcome)
        identity = identity_of(case.job, package, case.settings, self._config, self._storage)
        produced = write_unanalysed(outcome, subject, headers, identity, self._order(package, kinds))
        return replace(ended(outcome), sources=headers, produced=produced)

    def _order(self, package: Package, kinds: frozenset[str]) -> Order:
        return order_of(self._config, package.pipeline.destinations, kinds, self._storage.journal)


def _not_below(outcome: Findings, flag: EarlyFlag, volume: Volume) -> Findings:
    """What was told early stands: further images can only raise the score of a series."""
    if outcome.score >= flag.score:
        return outcome
    keys = [str(source.SOPInstanceUID) for source in volume.sources]
    key = keys.index(flag.key_sop_instance_uid)
    return replace(outcome, positive=True, score=flag.score, key_slice=key)
