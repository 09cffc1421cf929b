"""What is made for destinations, and the gate that each object passes; what does not conform is set aside."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from appliance.config.schema import Config
from appliance.domain.errors import GiveUp
from appliance.domain.recipients import stand_ins
from appliance.domain.types import Artifact
from appliance.journal import series
from appliance.journal.database import Journal
from appliance.observe import metrics
from appliance.results import Numbering, Order, Produced
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


def examine(
    produced: Produced, sources: Sources, quarantine: Spool, *, model: str, job_id: int
) -> bytes | Withheld:
    """The Part-10 file of a result object that conforms; one that does not goes into quarantine.

    Beside it lies its report, as JSON, without any value of the object. `model` and `job_id` say whose it is.

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
            "model": model,
            "job": job_id,
            "sop_class_uid": produced.sop_class_uid,
            "violations": [asdict(one) for one in violations],
        }
        quarantine.path(key).with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    metrics.RESULTS_WITHHELD.labels(model=model, kind=produced.kind).inc()
    _log.error(
        "result_withheld",
        extra={
            "kind": produced.kind,
            "model": model,
            "job": job_id,
            "key": key,
            "violations": [f"{one.where}: {one.problem}" for one in violations],
        },
    )
    return Withheld(produced.kind, produced.sop_instance_uid, key, tuple(violations))


def order_of(config: Config, destinations: Sequence[str], kinds: frozenset[str], journal: Journal) -> Order:
    """What is to be made of an outcome whose pipeline makes `kinds` of it, for what destinations take."""
    takes = takes_of(config, destinations)
    taken = frozenset(kind for each in takes.values() for kind in each)
    return Order(kinds & taken, stand_ins(kinds, takes), numbering(journal))


def takes_of(config: Config, destinations: Sequence[str]) -> dict[str, Sequence[str]]:
    """The kinds of result objects that each of the destinations takes which are sent objects."""
    stores = config.dicom_destinations
    return {name: stores[name].takes for name in destinations if name in stores}


def numbering(journal: Journal) -> Numbering:
    """Gives a result series its number in the study, the same for ever."""

    def number(study_uid: str, series_uid: str, wanted: int) -> int:
        with journal.write() as connection:
            return series.number_result_series(connection, study_uid, series_uid, wanted)

    return number


def spooled(produced: Produced, content: bytes, results: Spool) -> Artifact:
    """Write the Part-10 file `content` of a result object to the spool.

    Raises:
        TryAgain: the spool cannot be written.
    """
    return Artifact(
        kind=produced.kind,
        sop_instance_uid=produced.sop_instance_uid,
        sop_class_uid=produced.sop_class_uid,
        transfer_syntax_uid=produced.transfer_syntax_uid,
        study_instance_uid=produced.study_instance_uid,
        series_instance_uid=produced.series_instance_uid,
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        spool_key=results.put((memoryview(content)[PREAMBLE_BYTES:],)),
        urgent=produced.urgent,
        key_sop_instance_uids=produced.key_sop_instance_uids,
        stands_for=produced.stands_for,
        instead_only=produced.instead_only,
    )


def sentence(withheld: Sequence[Withheld]) -> str:
    """What the journal keeps of it, for people: how many of each kind, and what is wrong with the first."""
    first = {one.kind: one.violations[0] for one in reversed(withheld)}
    count = Counter(one.kind for one in withheld)
    return "; ".join(
        f"{count[kind]} {kind} not sent: {one.where}: {one.problem}" for kind, one in first.items()
    )
