"""The model packages that the configuration names, checked against what it asks of them.

Weights that are missing or not those of the manifest concern their model alone: it is out of service.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from appliance.config.schema import Config, Pipeline
from appliance.domain.errors import Misconfigured
from appliance.models.manifest import Manifest, damage, load_manifest


@dataclass(frozen=True)
class Package:
    """One model package and the pipeline that uses it. `damage` says why its weights cannot be used."""

    manifest: Manifest
    pipeline: Pipeline
    weights: Path
    damage: str | None = None


def load_packages(config: Config) -> list[Package]:
    """The package of each pipeline, in the order of the configuration.

    Raises:
        Misconfigured: with a sentence for every package without a sound manifest and for every pipeline
            that asks its model for what it does not have.
    """
    packages, problems = [], []
    for number, pipeline in enumerate(config.pipelines):
        if pipeline.model in [earlier.model for earlier in config.pipelines[:number]]:
            problems.append(f"pipelines.{number}.model: {pipeline.model} has a pipeline already")
            continue
        folder = config.engines.path / pipeline.model
        try:
            manifest = load_manifest(folder)
        except Misconfigured as error:
            problems += error.problems
            continue
        weights = folder / manifest.weights.file
        packages.append(Package(manifest, pipeline, weights, damage(manifest, folder)))
        problems += _overrides(number, pipeline, manifest)
        if manifest.task.kind != "triage":
            problems += [
                f"pipelines.{number}.destinations: {manifest.id} finds nothing that {name} could be told of"
                for name in pipeline.destinations
                if name in config.message_destinations
            ]
    if problems:
        raise Misconfigured(problems)
    return packages


def _overrides(number: int, pipeline: Pipeline, manifest: Manifest) -> list[str]:
    asked = {"strength": pipeline.strength, "threshold": pipeline.threshold}
    fitting = {"enhance": "strength", "triage": "threshold"}[manifest.task.kind]
    return [
        f"pipelines.{number}.{name}: {manifest.id} is of the kind {manifest.task.kind} and has no {name}"
        for name, value in asked.items()
        if value is not None and name != fitting
    ]
