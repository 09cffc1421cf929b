"""Runs the models, in a process of its own: whatever a model does, receiving and forwarding go on.

An attempt counts from the moment a job is claimed, so a series that kills this process uses up its attempts
and is reported as not analysed instead of killing it for ever.

A step speaks to the watchdog outside when it ends, from the thread that does it and from no other: one that
hangs is silent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom import Dataset

from appliance.config.schema import Config
from appliance.dicom.outcome import Enhanced, Findings, NotAnalysed, Outcome
from appliance.dicom.unusable import Unusable
from appliance.dicom.volume import load_headers, load_volume
from appliance.domain.errors import ApplianceError, TryAgain
from appliance.domain.policy import backoff_s
from appliance.domain.recipients import recipients, stand_ins
from appliance.domain.types import Artifact, Job
from appliance.journal import health as model_health
from appliance.journal import instances, jobs, series
from appliance.journal.messages import Message
from appliance.models import tasks
from appliance.models.catalog import stack_refusal
from appliance.observe import metrics
from appliance.observe.log import hashed
from appliance.observe.process import Process, ring
from appliance.results import Order, Produced, write, write_unanalysed
from appliance.results.conformance import sources_of
from appliance.results.notification import Notification, notification
from appliance.runtime.base import DeviceFault
from appliance.services.inference.health import OUT_OF_SERVICE, ModelHealth
from appliance.services.inference.messenger import Messenger
from appliance.services.inference.origin import identity_of
from appliance.services.inference.outgoing import WITHHELD, Withheld, examine, numbering, sentence, spooled
from appliance.services.inference.runners import ModelRunners
from appliance.services.packages import Package, load_packages
from appliance.services.routing import Source, results_to
from appliance.services.storage import Storage

_LOOK_S = 2.0
_RETRY_MINIMUM_S, _RETRY_MAXIMUM_S = 1.0, 60.0

_log = logging.getLogger(__name__)


class Stopping(Exception):
    """The process is to stop while a model runs."""


@dataclass(frozen=True)
class Answer:
    """What a model says of a series: the result objects that tell it, and what messages about it need.

    `sources` are the headers of the series; `kinds` are the kinds of results that the pipeline makes of such
    an outcome.
    """

    outcome: Outcome
    sources: Sequence[Dataset] = ()
    produced: Iterable[Produced] = ()
    told: Notification | None = None
    kinds: frozenset[str] = frozenset()


class Inference:
    """The loaded models and what it takes to run a job with them."""

    def __init__(
        self,
        config: Config,
        storage: Storage,
        process: Process,
        packages: Sequence[Package],
        health: ModelHealth,
    ) -> None:
        self._config = config
        self._storage = storage
        self._process = process
        self._health = health
        self._messenger = Messenger(config, storage)
        self._packages = {package.manifest.id: package for package in packages}
        self._runners = ModelRunners(config, packages, health, process.alive)

    def close(self) -> None:
        """Release the models, and the GPU if one is in use."""
        self._runners.close()

    def run_next(self) -> bool:
        """Run the job that is due next; False if there is none.

        Raises:
            Stopping: the process is to stop; the job was put back.
            TryAgain: the journal or the spool cannot be written, or the GPU is lost; the job is run again
                after a restart.
        """
        self._runners.refresh()
        with self._storage.journal.write() as connection:
            job = jobs.claim(connection)
        if job is None:
            return False
        started = time.monotonic()
        try:
            self._run(job, started)
        except Stopping:
            with self._storage.journal.write() as connection:
                jobs.put_back(connection, job)
            raise
        except DeviceFault as error:
            self._failed(job, error)
            raise
        except Exception as error:  # noqa: BLE001 - the boundary of a job: any fault in it is its own
            self._failed(job, error)
        return True

    def _run(self, job: Job, started: float) -> None:
        package = self._packages.get(job.model)
        if package is None:
            detail = "the model is no longer configured"
            answer = Answer(NotAnalysed("not_configured", detail))
            self._finish(job, answer, job.model_sha256, (), started)
            return
        settings = tasks.parameters(package.manifest, package.pipeline)
        answer = self._analyse(job, package, settings)
        sha256 = package.manifest.weights.sha256
        self._finish(job, answer, sha256, package.pipeline.destinations, started)

    def _analyse(self, job: Job, package: Package, settings: dict[str, float]) -> Answer:
        """What the model says of the series."""
        (uid, _revision) = job.series[0]
        with self._storage.journal.read() as connection:
            if not series.is_current(connection, job):
                return Answer(NotAnalysed("superseded", "more images arrived; a later job has them all"))
            rows = instances.of_series(connection, uid)
            model = model_health.find(connection, job.model)
        paths = [self._storage.originals.path(row["spool_key"]) for row in rows]
        if not model.in_service:
            out = NotAnalysed(OUT_OF_SERVICE, f"the model is out of service: {model.why}")
            return self._unanalysed(out, paths, job, package, settings)
        try:
            volume = load_volume(paths)
        except Unusable as error:
            unusable = NotAnalysed(error.reason, str(error))
            return self._unanalysed(unusable, paths, job, package, settings)
        problem = stack_refusal(package.manifest.accepts, volume.geometry) if volume.geometry.gap_mm else None
        if problem is not None:  # known only now of frames
            refused = NotAnalysed(problem.reason, problem.detail)
            return self._unanalysed(refused, paths, job, package, settings)
        self._progress()
        runner = self._runners.for_job(job.model)
        outcome = tasks.run(volume, package.manifest, settings, runner, self._progress)
        if isinstance(outcome, NotAnalysed):
            return self._unanalysed(outcome, paths, job, package, settings)
        kinds = package.pipeline.results.kinds(_word(outcome))
        identity = identity_of(job, package, settings, self._config, self._storage, runner.ran)
        order = self._order(package, kinds)
        told = notification(outcome, volume, identity, order.kinds) if isinstance(outcome, Findings) else None
        return Answer(outcome, volume.sources, write(outcome, volume, identity, order), told, kinds)

    def _order(self, package: Package, kinds: frozenset[str]) -> Order:
        takes = self._takes(package.pipeline.destinations)
        taken = frozenset(kind for each in takes.values() for kind in each)
        return Order(kinds & taken, stand_ins(kinds, takes), numbering(self._storage.journal))

    def _takes(self, destinations: Sequence[str]) -> dict[str, Sequence[str]]:
        stores = self._config.dicom_destinations
        return {name: stores[name].takes for name in destinations if name in stores}

    def _unanalysed(
        self,
        outcome: NotAnalysed,
        paths: Sequence[Path],
        job: Job,
        package: Package,
        settings: dict[str, float],
    ) -> Answer:
        subject, kinds = tasks.subject(package.manifest), package.pipeline.results.kinds("not_analysed")
        if subject is None or not kinds:
            return Answer(outcome)
        try:
            headers = load_headers(paths)
        except Unusable:  # nothing can be said in DICOM of images that cannot be read
            return Answer(outcome)
        identity = identity_of(job, package, settings, self._config, self._storage)
        order = self._order(package, kinds)
        return Answer(outcome, headers, write_unanalysed(outcome, subject, headers, identity, order))

    def _progress(self) -> None:
        self._process.alive()
        if self._process.stopping.is_set():
            raise Stopping

    def _spool_all(self, job: Job, answer: Answer, artifacts: list[Artifact]) -> list[Withheld]:
        """Add to `artifacts` what conforms, and of a derived series all or nothing; returns what does not."""
        withheld: list[Withheld] = []
        sources = sources_of(answer.sources)
        for produced in answer.produced:
            self._progress()
            examined = examine(produced, sources, self._storage.quarantine, model=job.model, job_id=job.id)
            if isinstance(examined, Withheld):
                withheld.append(examined)
            else:
                artifacts.append(spooled(produced, examined, self._storage.results))
        if any(one.kind == "enhanced" for one in withheld):
            for artifact in [one for one in artifacts if one.kind == "enhanced"]:
                artifacts.remove(artifact)
                self._storage.results.remove(artifact.spool_key)
        return withheld

    def _finish(
        self,
        job: Job,
        answer: Answer,
        model_sha256: str,
        destinations: Sequence[str],
        started: float,
    ) -> None:
        """Write result objects and messages, then end the job and fill the outbox in one transaction."""
        outcome = answer.outcome
        word = _word(outcome)
        reason, detail = (
            (outcome.reason, outcome.detail) if isinstance(outcome, NotAnalysed) else (None, None)
        )
        with self._storage.journal.read() as connection:
            source = Source(*instances.latest_source(connection, job.series[0][0]))
        allowed = results_to(self._config, destinations, source, job.model, word)
        takes = self._takes(allowed)
        artifacts: list[Artifact] = []
        told: list[Message] = []
        try:
            withheld = self._spool_all(job, answer, artifacts)
            if withheld:  # the answer stands, and whoever is told of it by message still is
                reason = reason or WITHHELD
                detail = "; ".join(filter(None, (detail, sentence(withheld))))
            if answer.told is not None:
                notice = _without(answer.told, withheld)
                told += self._messenger.messages(job, notice, allowed, answer.kinds)
            seconds = time.monotonic() - started
            result = jobs.Result(word, reason, detail, model_sha256, seconds)
            with self._storage.journal.write() as connection:
                superfluous = jobs.finish(connection, job, result, artifacts, takes, told)
        except BaseException:
            for artifact in [*artifacts, *(message.artifact for message in told)]:
                self._storage.results.remove(artifact.spool_key)
            raise
        for key in superfluous:
            self._storage.results.remove(key)
        self._tell_what_is_not_sent(job, artifacts, takes)
        metrics.JOBS_FINISHED.labels(model=job.model, outcome=word).inc()
        metrics.INFERENCE_SECONDS.labels(model=job.model).observe(seconds)
        if isinstance(outcome, NotAnalysed):
            metrics.MODEL_SKIPS.labels(model=job.model, reason=outcome.reason).inc()
        _log.info(
            "job_finished",
            extra={
                "model": job.model,
                "series": [hashed(uid) for uid, _ in job.series],
                "outcome": word,
                "reason": reason,
                "artifacts": len(artifacts),
                "withheld": len(withheld),
                "messages": len(told),
                "seconds": round(seconds, 3),
            },
        )
        ring(self._config.run_directory, "forward")
        self._health.judge(job.model, word, reason)

    def _tell_what_is_not_sent(
        self, job: Job, artifacts: Sequence[Artifact], takes: Mapping[str, Sequence[str]]
    ) -> None:
        """A destination that takes nothing of what was made gets nothing, but never without a word."""
        served = {name for artifact in artifacts for name in recipients(artifact, artifacts, takes)}
        for name in takes:
            if artifacts and name not in served:
                kinds = sorted({artifact.kind for artifact in artifacts})
                _log.warning(
                    "nothing_to_send", extra={"destination": name, "model": job.model, "kinds": kinds}
                )

    def _failed(self, job: Job, error: Exception) -> None:
        _log.exception("job_failed", extra={"model": job.model, "attempt": job.attempts})
        last = job.attempts >= self._config.inference.attempts
        with self._storage.journal.write() as connection:
            if last:
                detail = f"{job.attempts} attempts ended with {type(error).__name__}"
                jobs.give_up(connection, job.id, reason="error", detail=detail)
            else:
                delay_s = backoff_s(
                    job.attempts, minimum_s=_RETRY_MINIMUM_S, maximum_s=_RETRY_MAXIMUM_S, random=lambda: 0.0
                )
                jobs.retry(connection, job.id, delay_s=delay_s, detail=type(error).__name__)
        if last:
            metrics.JOBS_FINISHED.labels(model=job.model, outcome="failed").inc()
            if isinstance(error, DeviceFault) or not isinstance(error, TryAgain):  # no disk or journal
                told = isinstance(error, ApplianceError)
                self._health.failed(job.model, str(error) if told else type(error).__name__)


def _without(told: Notification, withheld: Sequence[Withheld]) -> Notification:
    """What is told, without pointing to a report that nobody gets."""
    if all(one.sop_instance_uid != told.uid for one in withheld):
        return told
    return replace(told, report_series_instance_uid=None)


def _word(outcome: Outcome) -> str:
    match outcome:
        case Enhanced():
            return "enhanced"
        case Findings(positive=positive):
            return "positive" if positive else "negative"
        case NotAnalysed():
            return "not_analysed"


def recover(config: Config, storage: Storage, health: ModelHealth) -> None:
    """Take back what a process that died was running, and remove what it had not finished writing."""
    with storage.journal.write() as connection:
        failed = jobs.release(connection, maximum_attempts=config.inference.attempts)
        finished = jobs.artifact_keys(connection)
    for job in failed:
        metrics.JOBS_FINISHED.labels(model=job.model, outcome="failed").inc()
        _log.error("job_given_up", extra={"model": job.model, "attempts": job.attempts})
        health.failed(job.model, f"the inference process died {job.attempts} times on it")
    for key in storage.results.abandoned_keys():
        if key not in finished:
            storage.results.remove(key)


def serve(config: Config, process: Process) -> None:
    """Run jobs until the process is told to stop; a job that runs then is put back.

    Raises:
        Misconfigured: a model package is missing or its manifest is wrong.
        TryAgain: the journal or the spool cannot be used; a restart takes the job back.
    """
    storage = Storage(config, "FULL")
    packages = load_packages(config)
    health = ModelHealth(config, storage.journal, packages)
    recover(config, storage, health)
    process.ready()  # a step from here on is the loading of a model, too
    inference = Inference(config, storage, process, packages, health)
    try:
        while not process.stopping.is_set():
            process.alive()
            health.look()
            if not inference.run_next():
                process.wait(_LOOK_S)
    except Stopping:
        return
    finally:
        inference.close()
