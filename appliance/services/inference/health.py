"""Takes models that fail out of service, not the appliance, and tests them until they answer again.

What counts is a fault of its own in a series that it was given: a crash or a hang in all attempts, an error,
an answer that is not finite or of another shape. Images that it does not know are none.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from appliance.config.schema import Config
from appliance.domain.errors import ApplianceError, GiveUp
from appliance.journal import health
from appliance.journal.database import Journal
from appliance.observe import metrics
from appliance.runtime.answers import NON_FINITE, WRONG_SHAPE
from appliance.services.inference.retest import problem_of
from appliance.services.packages import Package

OUT_OF_SERVICE = "model_out_of_service"
"""The reason in the journal of a series that a model out of service was to get."""
_FAULTS = (NON_FINITE, WRONG_SHAPE)
_ANSWERS = ("enhanced", "positive", "negative")

_log = logging.getLogger(__name__)


class ModelHealth:
    """What the inference process knows of its models beyond one job; the journal remembers it."""

    def __init__(self, config: Config, journal: Journal, packages: Sequence[Package]) -> None:
        """Make the health of these models known. One whose weights are damaged is out of service.

        Raises:
            TryAgain: the journal cannot be written.
        """
        self._settings = config.inference
        self._config = config
        self._journal = journal
        self._packages = {package.manifest.id: package for package in packages}
        self._test: threading.Thread | None = None
        weights = {model: package.manifest.weights.sha256 for model, package in self._packages.items()}
        with journal.write() as connection:
            health.register(connection, weights)
        for model, package in self._packages.items():
            metrics.start_model_at_zero(model)
            if package.damage is not None and self.is_in_service(model):
                self.take_out(model, package.damage)

    def is_in_service(self, model: str) -> bool:
        """Whether the model is given series."""
        with self._journal.read() as connection:
            return health.find(connection, model).in_service

    def judge(self, model: str, outcome: str | None, reason: str | None) -> None:
        """Note what came of a job of the model, in words of the journal.

        Raises:
            TryAgain: the journal cannot be written.
        """
        if outcome == "not_analysed" and reason in _FAULTS:
            self.failed(model, str(reason))
        elif outcome in _ANSWERS:
            with self._journal.read() as connection:
                failures = health.find(connection, model).failures
            if failures:
                with self._journal.write() as connection:
                    health.answered(connection, model)

    def failed(self, model: str, why: str) -> None:
        """Count a series that the model failed; enough of them in a row take it out of service.

        Raises:
            TryAgain: the journal cannot be written.
        """
        with self._journal.write() as connection:
            out = health.failed(
                connection,
                model,
                why,
                failures_in_a_row=self._settings.failures_in_a_row,
                retest_s=self._settings.retest_s,
            )
        if out:
            _tell_out(model, why)

    def take_out(self, model: str, why: str) -> None:
        """Take the model out of service at once.

        Raises:
            TryAgain: the journal cannot be written.
        """
        with self._journal.write() as connection:
            health.take_out(connection, model, why, retest_s=self._settings.retest_s)
        _tell_out(model, why)

    @contextmanager
    def loading(self, model: str) -> Iterator[None]:
        """Within, the model is loaded. One that kills the process there each time is not loaded any more.

        Raises:
            GiveUp: it cannot be loaded, and is out of service.
            TryAgain: the journal cannot be written.
        """
        with self._journal.write() as connection:
            died = health.load_begins(connection, model)
        try:
            if died >= self._settings.failures_in_a_row:
                raise GiveUp(f"the inference process died {died} times in a row while it loaded the model")
            yield
        except GiveUp as error:
            if self.is_in_service(model):
                self.take_out(model, str(error))
            raise
        finally:
            with self._journal.write() as connection:
                health.load_ended(connection, model)

    def look(self) -> None:
        """Begin the test that is due, if there is one and none runs.

        Raises:
            TryAgain: the journal cannot be read.
        """
        if self._test is not None and self._test.is_alive():
            return
        with self._journal.read() as connection:
            model = health.due(connection)
        if model is not None:
            # It waits for a process of its own, and does not speak for this one to the watchdog.
            self._test = threading.Thread(target=self._retest, args=(model,), name="retest", daemon=True)
            self._test.start()

    def _retest(self, model: str) -> None:
        problem = problem_of(self._config, self._packages[model])
        try:
            with self._journal.write() as connection:
                health.tested(connection, model, problem, retest_s=self._settings.retest_s)
        except ApplianceError as error:  # it is still due
            _log.error("model_retest_lost", extra={"model": model, "reason": str(error)})
            return
        finally:
            self._journal.close()  # this thread's connection
        metrics.MODEL_RETESTS.labels(model, "passed" if problem is None else "failed").inc()
        level = logging.WARNING if problem is None else logging.ERROR
        _log.log(level, "model_retested", extra={"model": model, "problem": problem})


def _tell_out(model: str, why: str) -> None:
    metrics.MODELS_TAKEN_OUT.labels(model).inc()
    _log.error("model_out_of_service", extra={"model": model, "reason": why})
