"""The loaded models as the inference process has them."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.config.schema import Config
from appliance.services.inference.health import ModelHealth
from appliance.services.inference.runners import ModelRunners
from appliance.services.packages import Package, load_packages
from tests.journal_samples import open_journal


def model_runners(config: Config, packages: Sequence[Package] | None = None) -> ModelRunners:
    """The models of the configuration, or of `packages`. The end of the test closes the journal."""
    chosen = load_packages(config) if packages is None else packages
    health = ModelHealth(config, open_journal(config.storage.path), chosen)
    return ModelRunners(config, chosen, health, lambda: None)
