"""Writes down what a step of a job found: objects and messages to the spool, all else in one transaction."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from appliance.config.schema import Config
from appliance.domain.recipients import recipients
from appliance.domain.types import Artifact, Job
from appliance.journal import instances, jobs
from appliance.journal.messages import Message
from appliance.observe import metrics
from appliance.observe.log import hashed
from appliance.observe.process import ring
from appliance.results.conformance import sources_of
from appliance.results.notification import Notification
from appliance.services.inference.messenger import Messenger
from appliance.services.inference.outgoing import (
    WITHHELD,
    Withheld,
    examine,
    sentence,
    spooled,
    takes_of,
)
from appliance.services.inference.step import Step
from appliance.services.routing import Source, results_to
from appliance.services.storage import Storage

_log = logging.getLogger(__name__)


class Recorder:
    """Ends steps; `progress` is called after each result object."""

    def __init__(self, config: Config, storage: Storage, progress: Callable[[], None]) -> None:
        self._config = config
        self._storage = storage
        self._progress = progress
        self._messenger = Messenger(config, storage)

    def record(
        self, job: Job, step: Step, destinations: Sequence[str], model_sha256: str, started: float
    ) -> None:
        """Spool what the step made, then end it and fill the outbox of `destinations` in one transaction.

        `started` is when the step began, of the monotonic clock.

        Raises:
            TryAgain: the spool or the journal cannot be used; nothing is left in the spool.
            GiveUp: a result object cannot be made.
        """
        with self._storage.journal.read() as connection:
            source = Source(*instances.latest_source(connection, job.series[0][0]))
        word = step.outcome or ("positive" if step.flag is not None else "enhanced")
        allowed = results_to(self._config, destinations, source, job.model, word)
        takes = takes_of(self._config, allowed)
        artifacts: list[Artifact] = []
        told: list[Message] = []
        try:
            withheld = self._spool_all(job, step, artifacts)
            step = _without_withheld(step, withheld)
            if step.told is not None:
                notice = _without_report(step.told, withheld)
                told += self._messenger.messages(job, notice, allowed, step.kinds)
            made = jobs.Yield(
                time.monotonic() - started,
                artifacts,
                takes,
                told,
                step.images,
                step.pipeline_digest,
                step.flag,
            )
            with self._storage.journal.write() as connection:
                if step.outcome is None:
                    superfluous = jobs.rest(connection, job, made, images_due=step.images_due)
                else:
                    result = jobs.Result(step.outcome, step.reason, step.detail, model_sha256)
                    superfluous = jobs.finish(connection, job, result, made)
        except BaseException:
            for artifact in [*artifacts, *(message.artifact for message in told)]:
                self._storage.results.remove(artifact.spool_key)
            raise
        for key in superfluous:
            self._storage.results.remove(key)
        self._tell_what_is_not_sent(job, artifacts, takes)
        self._count(job, step, made)
        if artifacts or told:
            ring(self._config.run_directory, "forward")

    def _spool_all(self, job: Job, step: Step, artifacts: list[Artifact]) -> list[Withheld]:
        """Add to `artifacts` what conforms, and of derived images all or none; returns what does not."""
        withheld: list[Withheld] = []
        sources = sources_of(step.sources)
        for produced in step.produced:
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

    def _count(self, job: Job, step: Step, made: jobs.Yield) -> None:
        metrics.INFERENCE_SECONDS.labels(model=job.model).observe(made.seconds)
        if step.flag is not None:
            metrics.EARLY_FLAGS.labels(model=job.model).inc()
        if step.outcome is not None:
            metrics.JOBS_FINISHED.labels(model=job.model, outcome=step.outcome).inc()
        if step.outcome == "not_analysed":
            metrics.MODEL_SKIPS.labels(model=job.model, reason=step.reason or "").inc()
        _log.log(
            logging.INFO if step.outcome or made.artifacts or made.told else logging.DEBUG,
            "job_finished" if step.outcome else "job_step",
            extra={
                "model": job.model,
                "series": [hashed(uid) for uid, _ in job.series],
                "outcome": step.outcome,
                "reason": step.reason,
                "early_flag": step.flag is not None,
                "artifacts": len(made.artifacts),
                "messages": len(made.told),
                "seconds": round(made.seconds, 3),
            },
        )


def _without_withheld(step: Step, withheld: Sequence[Withheld]) -> Step:
    """The answer stands, and whoever is told of it by message still is; a derived series ends here."""
    if not withheld:
        return step
    detail = "; ".join(filter(None, (step.detail, sentence(withheld))))
    ends = any(one.kind == "enhanced" for one in withheld)
    return replace(
        step,
        outcome=step.outcome or ("enhanced" if ends else None),
        reason=step.reason or WITHHELD,
        detail=detail,
        images={} if ends else step.images,
    )


def _without_report(told: Notification, withheld: Sequence[Withheld]) -> Notification:
    """What is told, without pointing to a report that nobody gets."""
    if all(one.sop_instance_uid != told.uid for one in withheld):
        return told
    return replace(told, report_series_instance_uid=None)
