"""What a graph has to return, by the task of its model."""

from __future__ import annotations

from appliance.models.manifest import EnhanceTask, Manifest, TriageTask
from appliance.models.tasks import enhance, triage
from appliance.runtime.base import Shape, Tensors


def output_shapes(manifest: Manifest, inputs: Tensors) -> dict[str, Shape]:
    """The shape of every output that the task reads, for these inputs.

    Raises:
        KeyError: these are not the inputs of such a task.
    """
    match manifest.task:
        case EnhanceTask():
            return enhance.output_shapes(inputs)
        case TriageTask():
            return triage.output_shapes(inputs)
