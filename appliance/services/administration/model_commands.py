"""`appliance models retest`: what a person does about a model out of service."""

from __future__ import annotations

from contextlib import closing

from appliance.config.schema import Config
from appliance.domain.errors import Misconfigured
from appliance.journal import health
from appliance.journal.database import Journal
from appliance.services.inference.retest import problem_of
from appliance.services.packages import load_packages


def retest(config: Config, model: str) -> str | None:
    """What is wrong with a model, found by a test now; None puts it back into service if it is out.

    Raises:
        Misconfigured: no pipeline has the model.
        TryAgain: the journal cannot be written.
    """
    package = next((one for one in load_packages(config) if one.manifest.id == model), None)
    if package is None:
        raise Misconfigured([f"no pipeline has the model {model}"])
    problem = problem_of(config, package)
    if not config.journal_path.exists():  # never started: no model has failed yet
        return problem
    with closing(Journal(config.journal_path)) as journal, journal.write() as connection:
        if model in {one.model for one in health.all_models(connection)}:
            health.tested(connection, model, problem, retest_s=config.inference.retest_s)
    return problem
