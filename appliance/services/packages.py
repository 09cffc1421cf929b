"""The model packages that the configuration names, checked against what it asks of them."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.config.schema import Config, Pipeline
from appliance.domain.errors import Misconfigured
from appliance.models.manifest import Manifest, load_manifest


@dataclass(frozen=True)
class Package:
    """One model package and the pipelines, by number from 0, that use it."""

    manifest: Manifest
    pipelines: tuple[int, ...]


def load_packages(config: Config, *, unused: bool = False) -> list[Package]:
    """The packages of all pipelines; with `unused`, also the others in `engines.path`.

    Raises:
        Misconfigured: with a sentence for every package that is missing or damaged and for every
            pipeline that asks its model for what it does not have.
    """
    users: dict[str, list[int]] = {}
    for number, pipeline in enumerate(config.pipelines):
        users.setdefault(pipeline.model, []).append(number)
    if unused:
        for manifest_path in sorted(config.engines.path.glob("*/model.yaml")):
            users.setdefault(manifest_path.parent.name, [])
    packages, problems = [], []
    for model, numbers in users.items():
        try:
            manifest = load_manifest(config.engines.path / model)
        except Misconfigured as error:
            problems += error.problems
            continue
        packages.append(Package(manifest, tuple(numbers)))
        for number in numbers:
            problems += _overrides(number, config.pipelines[number], manifest)
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
