"""Waiting until an appliance has nothing left to do, by what its monitor says."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.support.processes import wait_until
from tests.support.running import RunningAppliance


def metric(appliance: RunningAppliance, name: str, *labels: str) -> int:
    """The sum over the samples of a metric that have one of the labels, such as `state="open"`."""
    found = re.findall(rf"^{name}{{(.*)}} ([\d.e+]+)$", appliance.get("/metrics"), re.MULTILINE)
    return sum(int(float(value)) for have, value in found if any(label in have for label in labels or ("",)))


def received(appliance: RunningAppliance) -> int:
    """How many objects the running receiver has put into the journal, or set aside."""
    return metric(appliance, "appliance_instances_received_total")


def waiting_deliveries(appliance: RunningAppliance) -> int:
    """Deliveries that are pending or being sent."""
    return metric(appliance, "appliance_outbox_deliveries", 'state="pending"', 'state="sending"')


def unfinished(appliance: RunningAppliance) -> int:
    """Series that nothing was decided about, jobs that have not ended, deliveries that wait."""
    undecided = metric(appliance, "appliance_series", 'state="open"', 'state="complete"')
    jobs = metric(appliance, "appliance_jobs", 'state="queued"', 'state="running"')
    return undecided + jobs + waiting_deliveries(appliance)


def take_in(appliance: RunningAppliance, count: int, send: Callable[[], None]) -> None:
    """Call `send`, which sends `count` objects, and wait until they are journaled."""
    before = received(appliance)
    send()
    wait_until(lambda: received(appliance) >= before + count, 60, f"{count} objects are in the journal")


def finish(appliance: RunningAppliance, *, seconds: float = 180.0) -> None:
    """Wait until everything is decided, analysed and delivered."""
    # Twice, since something may move from one gauge to another between two looks.
    wait_until(
        lambda: unfinished(appliance) == 0 and unfinished(appliance) == 0, seconds, "everything is done"
    )
