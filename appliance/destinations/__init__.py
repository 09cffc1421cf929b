"""Where results and originals go: one module for each kind of destination.

To add a kind: a section class in `config/destinations.py`, a module here, a line in `DESTINATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from appliance.config.schema import Config
from appliance.destinations.base import Destination
from appliance.destinations.dicom import DicomStore
from appliance.destinations.hl7 import Hl7Listener
from appliance.destinations.ups import WorklistManager
from appliance.destinations.webhook import Webhook

DESTINATIONS: Mapping[str, Callable[[Config, str], Destination]] = {
    "dicom": DicomStore,
    "hl7": Hl7Listener,
    "ups": WorklistManager,
    "webhook": Webhook,
}
"""By kind: makes a destination of a configuration and of its name there."""
