"""Tests a model on its golden inputs, in a process of its own, and its engine on the GPU as well."""

from __future__ import annotations

from appliance.config.schema import Config
from appliance.domain.errors import ApplianceError
from appliance.models.tasks.outputs import output_shapes
from appliance.runtime.base import Tensors
from appliance.runtime.cores import usable_cores
from appliance.runtime.golden import read_golden
from appliance.runtime.trial import Trial, try_out
from appliance.services.inference.engines import compare_again
from appliance.services.packages import Package


def problem_of(config: Config, package: Package) -> str | None:
    """What is wrong with the model, or None if it answers every golden input as its task needs.

    Each step has the time that one has in a job. An engine of it that differs from ONNX Runtime is refused,
    which leaves the model to ONNX Runtime.
    """
    manifest = package.manifest
    try:
        golden, cases = None, list[Tensors]()
        if manifest.engine is not None:
            golden = package.weights.parent / manifest.engine.golden.file
            cases = read_golden(golden, manifest.engine.golden.sha256)
        trial = Trial(
            graph=str(package.weights),
            graph_sha256=manifest.weights.sha256,
            golden=None if golden is None else str(golden),
            golden_sha256="" if manifest.engine is None else manifest.engine.golden.sha256,
            shapes=[output_shapes(manifest, case) for case in cases],
            threads=config.inference.threads or usable_cores(),
        )
        try_out(trial, limit_s=(1 + len(cases)) * config.inference.step_s)
        compare_again(config, package)
    except ApplianceError as error:
        return str(error)
    return None
