"""The gate that every result object passes before it is queued; what does not conform is set aside."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from appliance.domain.errors import GiveUp
from appliance.domain.types import Job
from appliance.observe import metrics
from appliance.results import Produced
from appliance.results.conformance import Sources, Violation, check
from appliance.spool.store import PREAMBLE_BYTES, Spool

WITHHELD = "withheld"
"""The reason in the journal of a job whose answer stands, but not all of whose results are sent."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Withheld:
    """A result object that is not sent, and why. `key` is its name in quarantine, if it could be written."""

    kind: str
    sop_instance_uid: str
    key: str | None
    violations: tuple[Violation, ...]


def examine(produced: Produced, sources: Sources, job: Job, quarantine: Spool) -> bytes | Withheld:
    """The Part-10 file of a result object that conforms; one that does not goes into quarantine.

    Beside it lies its report, as JSON, without any value of the object.

    Raises:
        TryAgain: the spool cannot be written.
    """
    violations = check(produced.dataset, sources)
    try:
        content = produced.encode()
    except GiveUp:
        violations.append(Violation("object", "cannot be written"))
        content = b""
    if not violations:
        return content
    key = quarantine.put((memoryview(content)[PREAMBLE_BYTES:],)) if content else None
    if key is not None:
        report = {
            "kind": produced.kind,
            "model": job.model,
            "job": job.id,
            "sop_class_uid": produced.sop_class_uid,
            "violations": [asdict(one) for one in violations],
        }
        quarantine.path(key).with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    metrics.RESULTS_WITHHELD.labels(model=job.model, kind=produced.kind).inc()
    _log.error(
        "result_withheld",
        extra={
            "kind": produced.kind,
            "model": job.model,
            "job": job.id,
            "key": key,
            "violations": [f"{one.where}: {one.problem}" for one in violations],
        },
    )
    return Withheld(produced.kind, produced.sop_instance_uid, key, tuple(violations))


def sentence(withheld: Sequence[Withheld]) -> str:
    """What the journal keeps of it, for people: how many of each kind, and what is wrong with the first."""
    first = {one.kind: one.violations[0] for one in reversed(withheld)}
    count = Counter(one.kind for one in withheld)
    return "; ".join(
        f"{count[kind]} {kind} not sent: {one.where}: {one.problem}" for kind, one in first.items()
    )
