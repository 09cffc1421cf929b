"""Runs the models, in a process of its own: whatever a model does, receiving and forwarding go on.

An attempt counts from the moment a job is claimed, so a series that kills this process uses up its attempts
and is reported as not analysed instead of killing it for ever.

A step speaks to the watchdog outside when it ends, from the thread that does it and from no other: one that
hangs is silent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from appliance.config.schema import Config
from appliance.domain.errors import ApplianceError, TryAgain
from appliance.domain.policy import backoff_s
from appliance.domain.types import Job
from appliance.journal import jobs
from appliance.observe import metrics
from appliance.observe.process import Process
from appliance.runtime.base import DeviceFault
from appliance.services.inference.analysis import Analyst
from appliance.services.inference.health import ModelHealth
from appliance.services.inference.recording import Recorder
from appliance.services.inference.runners import ModelRunners
from appliance.services.inference.step import Step
from appliance.services.packages import Package, load_packages
from appliance.services.storage import Storage

_LOOK_S = 2.0
_RETRY_MINIMUM_S, _RETRY_MAXIMUM_S = 1.0, 60.0

_log = logging.getLogger(__name__)


class Stopping(Exception):
    """The process is to stop while a model runs."""


class Inference:
    """The loaded models and what it takes to run jobs with them, step by step."""

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
        self._packages = {package.manifest.id: package for package in packages}
        self._runners = ModelRunners(config, packages, health, process.alive)
        self._analyst = Analyst(config, storage, packages, self._runners, self._progress)
        self._recorder = Recorder(config, storage, self._progress)
        self._served: dict[str, float] = {}

    def close(self) -> None:
        """Release the models, and the GPU if one is in use."""
        self._runners.close()

    def run_next(self) -> bool:
        """Run the next step of the job whose turn it is; False if there is none.

        Raises:
            Stopping: the process is to stop; the job was put back.
            TryAgain: the journal or the spool cannot be written, or the GPU is lost; the job is run again
                after a restart.
        """
        self._runners.refresh()
        with self._storage.journal.read() as connection:
            if not jobs.is_ready(connection):
                return False
        with self._storage.journal.write() as connection:
            job = jobs.claim(connection, self._served)
        if job is None:
            return False
        started = self._served[job.source] = time.monotonic()
        step: Step | None = None
        try:
            step = self._analyst.step(job)
            package = self._packages.get(job.model)
            if package is None:
                self._recorder.record(job, step, (), job.model_sha256, started)
            else:
                sha256 = package.manifest.weights.sha256
                self._recorder.record(job, step, package.pipeline.destinations, sha256, started)
        except Stopping:
            with self._storage.journal.write() as connection:
                jobs.put_back(connection, job)
            raise
        except DeviceFault as error:
            self._failed(job, error, of_model=True)
            raise
        except Exception as error:  # noqa: BLE001 - the boundary of a job: any fault in it is its own
            # Not the model's fault: no disk or journal (TryAgain), or images of which no result can be made.
            self._failed(job, error, of_model=step is None and not isinstance(error, TryAgain))
        else:
            self._health.judge(job.model, step.outcome, step.reason)
        return True

    def _progress(self) -> None:
        self._process.alive()
        if self._process.stopping.is_set():
            raise Stopping

    def _failed(self, job: Job, error: Exception, *, of_model: bool) -> None:
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
            if of_model:
                told = isinstance(error, ApplianceError)
                self._health.failed(job.model, str(error) if told else type(error).__name__)


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
