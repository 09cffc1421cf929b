"""What models do, one module for each kind of task.

To add a kind: a section class in `models/manifest.py`, a module here, a case in each function, and one in
`services/inference/analysis.py`, which runs them.
"""

from __future__ import annotations

from appliance.config.schema import Pipeline
from appliance.dicom.outcome import Code, Subject
from appliance.models.manifest import EnhanceTask, Manifest, TriageTask


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
