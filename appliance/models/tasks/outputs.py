"""What a graph has to return, by the task of its model."""

from __future__ import annotations

from appliance.models.manifest import EnhanceTask, Manifest, TriageTask
from appliance.runtime.base import Shape, Tensors


def output_shapes(manifest: Manifest, inputs: Tensors) -> dict[str, Shape]:
    """The shape of every output that the task reads, for these inputs; see `enhance.run` and `triage.run`.

    Raises:
        KeyError: these are not the inputs of such a task.
    """
    match manifest.task:
        case EnhanceTask():
            shape = inputs["x"].shape
            return {"y": shape, "sigma_map": shape}
        case TriageTask():
            heat = inputs["hu"].shape
            return {"probability": (heat[0], 1), "heat": heat, "distance": (heat[0], 1)}
