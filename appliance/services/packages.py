"""The model packages that the configuration names, checked against what it asks of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from appliance.config.schema import Config, Pipeline
from appliance.domain.errors import Misconfigured
from appliance.models.manifest import Manifest, load_manifest


@dataclass(frozen=True)
class Package:
    """One model package and the pipeline that uses it."""

    manifest: Manifest
    pipeline: Pipeline
    weights: Path


def load_packages(config: Config) -> list[Package]:
    """The package of each pipeline, in the order of the configuration.

    Raises:
        Misconfigured: with a sentence for every package that is missing or damaged and for every
            pipeline that asks its model for what it does not have.
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
        packages.append(Package(manifest, pipeline, folder / manifest.weights.file))
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
