"""Where each process finds the journal and the spools below `storage.path`."""

from __future__ import annotations

from typing import Literal

from appliance.config.schema import Config
from appliance.domain.types import Delivery
from appliance.journal.database import Journal
from appliance.spool.store import Spool


class Storage:
    """The journal and the spools of one process: originals, results, and what could not be taken."""

    def __init__(self, config: Config, durability: Literal["NORMAL", "FULL"] = "NORMAL") -> None:
        root = config.storage.path
        self.originals = Spool(root / "spool" / "originals", config.storage.durability)
        self.results = Spool(root / "spool" / "results", config.storage.durability)
        self.quarantine = Spool(root / "spool" / "quarantine", config.storage.durability)
        self.journal = Journal(config.journal_path, durability)

    def spool_of(self, delivery: Delivery) -> Spool:
        """The spool that holds the file of a delivery."""
        return self.originals if delivery.spool == "originals" else self.results
