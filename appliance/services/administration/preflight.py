"""What can be known to be wrong before anything is started."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from appliance.config.schema import Config
from appliance.destinations import DESTINATIONS
from appliance.domain.errors import Misconfigured
from appliance.results.messages import message_writer
from appliance.runtime.triton_client import client_installed
from appliance.services.packages import load_packages


def check(config: Config) -> list[str]:
    """Look at all that the configuration refers to: model packages, certificates, secrets, templates.

    Returns a sentence for each model that cannot be run, which keeps nothing else from working.

    Raises:
        Misconfigured: with a sentence for every mistake.
    """
    problems: list[str] = []
    for look in _looks(config):
        try:
            look()
        except Misconfigured as error:
            problems += error.problems
    if problems:
        raise Misconfigured(problems)
    return [
        *(package.damage for package in load_packages(config) if package.damage),
        *_without_client(config),
    ]


def _without_client(config: Config) -> Iterator[str]:
    asked = [config.inference.runtime, *(pipeline.runtime for pipeline in config.pipelines)]
    if "triton" in asked and not client_installed():
        yield "inference.triton: the extra `triton` is not installed, so that ONNX Runtime runs all models"


def _looks(config: Config) -> Iterator[Callable[[], object]]:
    yield partial(load_packages, config)
    for name, settings in config.destinations.items():
        yield partial(DESTINATIONS[settings.kind], config, name)
    for name in config.message_destinations:
        yield partial(message_writer, config, name)
