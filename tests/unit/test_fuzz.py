"""The parser's fuzzer, with few inputs; `tools/campaign fuzz` runs a million."""

from __future__ import annotations

import pytest

from appliance.observe.metrics import MISBEHAVIOURS
from tools.campaigns.fuzz import TAKEN, run


@pytest.mark.slow
@pytest.mark.parametrize("seed", [20261123])
def test_nothing_that_a_peer_sends_does_more_than_to_be_refused(seed: int) -> None:
    found = run(50_000, seed, lambda done: None)
    assert found.faults == ()
    assert found.growth_bytes < 8 * 2**20
    assert set(found.words) - {TAKEN} <= set(MISBEHAVIOURS)
    # It is worth something only if it gets everywhere.
    assert {TAKEN, "command_set", "context_id", "message_order", "pdv_length"} <= set(found.words)
