"""What models do, one module for each kind of task.

To add a kind: a section class in `models/manifest.py`, a module here, and a case in each function.
"""

from __future__ import annotations

from collections.abc import Callable

from appliance.config.schema import Pipeline
from appliance.dicom.outcome import Code, Outcome, Subject
from appliance.dicom.volume import Volume
from appliance.models.manifest import EnhanceTask, Manifest, TriageTask
from appliance.models.tasks import enhance, triage
from appliance.runtime.base import Runner


def parameters(manifest: Manifest, pipeline: Pipeline) -> dict[str, float]:
    """What a pipeline sets its model to: the package's own values unless the configuration overrides them."""
    match manifest.task:
        case EnhanceTask(strength=own):
            return {"strength": own if pipeline.strength is None else pipeline.strength}
        case TriageTask(threshold=own):
            return {"threshold": own if pipeline.threshold is None else pipeline.threshold}


def subject(manifest: Manifest) -> Subject | None:
    """What the model looks for, or None if it looks for nothing."""
    match manifest.task:
        case EnhanceTask():
            return None
        case TriageTask(finding=finding, site=site):
            return Subject(
                Code(finding.value, finding.scheme, finding.meaning),
                Code(site.value, site.scheme, site.meaning),
            )


def run(
    volume: Volume,
    manifest: Manifest,
    settings: dict[str, float],
    runner: Runner,
    progress: Callable[[], None],
) -> Outcome:
    """Run one model on one series with the settings that `parameters` gave.

    `progress` is called after each batch; what it raises ends the run.
    """
    match manifest.task:
        case EnhanceTask() as task:
            return enhance.run(volume, manifest, task, settings["strength"], runner, progress)
        case TriageTask() as task:
            return triage.run(volume, manifest, task, settings["threshold"], runner, progress)
