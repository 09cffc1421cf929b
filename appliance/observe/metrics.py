"""Every metric of the appliance.

Labels hold names from the configuration and words from a fixed list, never anything out of a data set.
None has a label `process` of its own: the monitor adds it (exposition.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

disable_created_metrics()  # type: ignore[no-untyped-call]

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

RECEIVED_OUTCOMES = (
    "stored",  # new, on stable storage
    "duplicate",  # the same object again
    "changed_duplicate",  # the same SOP Instance UID with other content
    "quarantined",  # unreadable; the bytes are kept
    "loop",  # made by this appliance and sent back to it
    "failed",  # refused, the scanner keeps it: no space, or a fault of ours
)
ASSOCIATION_RESULTS = (
    ("accepted", "none"),
    ("rejected", "called_ae_title"),
    ("rejected", "calling_ae_title"),
    ("rejected", "network"),
    ("rejected", "limit"),
    ("rejected", "resources"),
)
MISBEHAVIOURS = (
    "command_set",  # no command set, or one with lengths that lie
    "connection_flood",  # too many connections from one address
    "context_id",  # a presentation context that was not accepted
    "data_set_length",  # too long a data set for what is no C-STORE
    "message_order",  # fragments of different messages mixed
    "pdu_content",  # a PDU that cannot be decoded
    "pdu_length",  # longer than was negotiated
    "pdu_order",  # a PDU that has no place here, as data before an association
    "pdu_type",  # there is no such PDU
    "pdv_length",  # does not fit into its PDU
    "silent",  # a connection that asks for no association
    "slow",  # stalled, or a byte at a time
    "tls_handshake",  # failed or never finished
    "unread",  # does not read the responses that it is sent
)
SERIES_DECISIONS = ("planned", "skipped")
JOB_OUTCOMES = (
    "positive",
    "negative",
    "enhanced",
    "not_analysed",  # a sentence says why; never to be read as negative
    "failed",  # every attempt failed
)
RETEST_RESULTS = ("passed", "failed")
DELIVERY_KINDS = ("original", "result")
DELIVERY_RESULTS = ("stored", "postponed", "refused")
DELIVERY_STATUSES = (
    "0111",  # another object has the UID
    "0117",  # an invalid object
    "0122",  # the SOP class is not supported
    "0124",  # not authorised
    "A7xx",  # out of resources
    "A9xx",  # the data set does not fit its SOP class
    "Cxxx",  # cannot understand
    "other",
    "none",  # no answer, or none that the network gave
)
CIRCUIT_STATES = ("closed", "half_open", "open")
TRITON_STATES = (
    "closed",  # the server runs the model
    "half_open",  # it is there, and is being compared with ONNX Runtime
    "open",  # it is away
    "refused",  # it has another model, or none that can be compared: a person has to look
)
TRITON_FALLBACKS_FOR = (
    "circuit",  # the circuit was not closed
    "unreachable",  # there was no connection
    "deadline",  # the server took too long
    "failed",  # it answered with an error of its own
    "answer",  # it answered nonsense, or with another version of the model
    "refused",  # it does not take such a batch
)
COMMITMENT_ANSWERS = (
    "accepted",  # the destination will report
    "unreachable",  # it cannot be asked
    "refused",  # it does not want to be asked: a person has to look
    "failed",  # it could not take the request now, or nobody knows whether it has
)
COMMITMENT_REASONS = (
    "0110",  # processing failure, or not named in the report
    "0112",  # the destination does not have it: it is sent again
    "0119",  # the destination has it under another SOP class
    "0122",  # the destination does not commit that SOP class
    "0131",  # the destination knows the transaction already
    "0213",  # the destination had no room: it is sent again
    "other",
)
RESTART_REASONS = ("exit", "signal", "hang")
WORKERS = ("receive", "plan", "infer", "forward", "monitor")

INSTANCES_RECEIVED = Counter(
    "appliance_instances_received_total",
    "SOP instances that came over C-STORE, by what became of them.",
    ["outcome"],
    registry=REGISTRY,
)
UNROUTED = Counter(
    "appliance_originals_unrouted_total",
    "SOP instances that no destination gets: they stay on this machine.",
    registry=REGISTRY,
)
RECEIVED_BYTES = Counter(
    "appliance_received_bytes_total", "Bytes of the data sets that came over C-STORE.", registry=REGISTRY
)
ASSOCIATIONS = Counter(
    "appliance_associations_total",
    "Association requests, by answer and reason.",
    ["result", "reason"],
    registry=REGISTRY,
)
MISBEHAVIOUR = Counter(
    "appliance_peer_misbehaviour_total",
    "Connections and associations that were cut off, by what the peer did.",
    ["what"],
    registry=REGISTRY,
)
RECEIVE_SECONDS = Histogram(
    "appliance_receive_seconds",
    "Seconds from the whole data set to the C-STORE response.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
    registry=REGISTRY,
)
SERIES_DECIDED = Counter(
    "appliance_series_decided_total",
    "Decisions about complete series.",
    ["decision"],
    registry=REGISTRY,
)
MODEL_SKIPS = Counter(
    "appliance_model_skips_total",
    "Series that a model did not take, by reason.",
    ["model", "reason"],
    registry=REGISTRY,
)
JOBS_FINISHED = Counter(
    "appliance_jobs_finished_total", "Finished jobs, by outcome.", ["model", "outcome"], registry=REGISTRY
)
RESULTS_WITHHELD = Counter(
    "appliance_results_withheld_total",
    "Result objects that were set aside instead of being sent, because they do not conform.",
    ["model", "kind"],
    registry=REGISTRY,
)
ENGINE_FALLBACKS = Counter(
    "appliance_engine_fallbacks_total",
    "Batches that ONNX Runtime ran because the engine of the model could not.",
    ["model", "reason"],
    registry=REGISTRY,
)
ENGINES_JUDGED = Counter(
    "appliance_engines_judged_total",
    "Engines that were built and compared with ONNX Runtime, by what came of it.",
    ["model", "result"],
    registry=REGISTRY,
)
EARLY_FLAGS = Counter(
    "appliance_early_flags_total",
    "Findings that were told of before their series was complete.",
    ["model"],
    registry=REGISTRY,
)
TRITON_STATE = Gauge(
    "appliance_triton_circuit_state",
    "1 for the state of the circuit to the Triton server, for each model that is to run there.",
    ["model", "state"],
    registry=REGISTRY,
)
TRITON_FALLBACKS = Counter(
    "appliance_triton_fallbacks_total",
    "Batches that ONNX Runtime ran because the Triton server did not.",
    ["model", "reason"],
    registry=REGISTRY,
)
TRITON_COMPARED = Counter(
    "appliance_triton_comparisons_total",
    "Times that the model on the Triton server was compared with ONNX Runtime, by what came of it.",
    ["model", "result"],
    registry=REGISTRY,
)
MODELS_TAKEN_OUT = Counter(
    "appliance_models_taken_out_total",
    "Times that a model was taken out of service because it failed.",
    ["model"],
    registry=REGISTRY,
)
MODEL_RETESTS = Counter(
    "appliance_model_retests_total",
    "Tests of a model out of service, by result.",
    ["model", "result"],
    registry=REGISTRY,
)
INFERENCE_SECONDS = Histogram(
    "appliance_inference_seconds",
    "Seconds from the claim of a job to the results of one step of it in the journal.",
    ["model"],
    buckets=(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0, 300.0),
    registry=REGISTRY,
)
DELIVERIES = Counter(
    "appliance_deliveries_total",
    "Attempts to deliver an object, by result.",
    ["destination", "kind", "result"],
    registry=REGISTRY,
)
SENT_BYTES = Counter(
    "appliance_sent_bytes_total",
    "Bytes of the files that a destination took.",
    ["destination", "kind"],
    registry=REGISTRY,
)
DELIVERY_FAILURES = Counter(
    "appliance_delivery_failures_total",
    "Attempts to deliver an object that failed, by DIMSE status.",
    ["destination", "status"],
    registry=REGISTRY,
)
UNREACHABLE = Counter(
    "appliance_destination_failures_total",
    "Times that a destination as a whole could not be sent to.",
    ["destination"],
    registry=REGISTRY,
)
DELIVERY_SECONDS = Histogram(
    "appliance_delivery_seconds",
    "Seconds of one C-STORE to a destination.",
    ["destination"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0),
    registry=REGISTRY,
)
TRANSCODINGS = Counter(
    "appliance_transcodings_total",
    "Objects that a destination takes in another transfer syntax only, by result.",
    ["destination", "result"],
    registry=REGISTRY,
)
MESSAGES_WITHHELD = Counter(
    "appliance_messages_withheld_total",
    "Messages about findings that were not sent, by why.",
    ["destination", "reason"],
    registry=REGISTRY,
)
COMMITMENT_REQUESTS = Counter(
    "appliance_commitment_requests_total",
    "Times that a destination was asked to commit objects, by how it took the request.",
    ["destination", "answer"],
    registry=REGISTRY,
)
COMMITTED = Counter(
    "appliance_committed_total",
    "Objects that a destination has committed.",
    ["destination"],
    registry=REGISTRY,
)
COMMITMENT_FAILURES = Counter(
    "appliance_commitment_failures_total",
    "Objects that a destination did not commit when it was asked, by Failure Reason (0008,1197).",
    ["destination", "reason"],
    registry=REGISTRY,
)
COMMITMENT_REPORTS = Counter(
    "appliance_commitment_reports_total",
    "Attempts to tell a scanner what became of its images: all committed, some failed, or not told.",
    ["result"],
    registry=REGISTRY,
)
PURGED_FILES = Counter(
    "appliance_purged_files_total", "Files that have left the spool.", ["spool"], registry=REGISTRY
)
PURGED_BYTES = Counter(
    "appliance_purged_bytes_total",
    "Bytes of the files that have left the spool.",
    ["spool"],
    registry=REGISTRY,
)
WORKER_RESTARTS = Counter(
    "appliance_worker_restarts_total",
    "Times that a process of the appliance was started again, by why it had ended.",
    ["worker", "reason"],
    registry=REGISTRY,
)


@dataclass(frozen=True)
class MonitorGauge:
    """A gauge that the monitor fills at each scrape, from the journal or the disk."""

    name: str
    documentation: str
    labels: tuple[str, ...]

    def family(self, values: Mapping[tuple[str, ...], float]) -> Metric:
        """The metric with one sample for each combination of label values."""
        family = GaugeMetricFamily(self.name, self.documentation, labels=self.labels)
        for labels, value in values.items():
            family.add_metric(labels, value)
        return family


SERIES = MonitorGauge("appliance_series", "Series in the journal, by state.", ("state",))
JOBS = MonitorGauge("appliance_jobs", "Jobs in the journal, by model and state.", ("model", "state"))
MODEL_IN_SERVICE = MonitorGauge(
    "appliance_model_in_service",
    "1 for a model that is given series, 0 for one that is out of service because it failed.",
    ("model",),
)
OUTBOX = MonitorGauge(
    "appliance_outbox_deliveries",
    "Deliveries in the journal, by destination, kind (originals or results) and state.",
    ("destination", "kind", "state"),
)
OLDEST_WAITING = MonitorGauge(
    "appliance_outbox_oldest_waiting_seconds",
    "Seconds that the oldest file waiting for the destination has waited.",
    ("destination",),
)
CIRCUIT = MonitorGauge(
    "appliance_destination_circuit_state",
    "1 for the state of the destination's circuit: closed while it is sent to, open while it is away.",
    ("destination", "state"),
)
MESSAGES_OLDEST = MonitorGauge(
    "appliance_messages_oldest_unacknowledged_seconds",
    "Seconds for which the oldest message to the destination has not been acknowledged; 0 without any.",
    ("destination",),
)
MESSAGES_OVERDUE = MonitorGauge(
    "appliance_messages_overdue",
    "Messages to the destination that have not been acknowledged within `alarm_after_minutes`.",
    ("destination",),
)
COMMITMENTS = MonitorGauge(
    "appliance_commitments",
    "Storage commitment, by role (scp: asked of us by scanners; scu: asked by us of destinations) and state.",
    ("role", "state"),
)
COMMITMENT_OLDEST = MonitorGauge(
    "appliance_commitment_oldest_waiting_seconds",
    "Seconds that the oldest commitment in a state that is to be left has been in it.",
    ("role", "state"),
)
UNCOMMITTED = MonitorGauge(
    "appliance_uncommitted_deliveries",
    "Stored objects that a destination is to commit: waiting to be asked about, asked, or given up.",
    ("destination", "state"),
)
SPOOL_FILES = MonitorGauge(
    "appliance_spool_files",
    "Files in the spool, by who needed them when they were last looked at.",
    ("spool", "kept_for"),
)
SPOOL_BYTES = MonitorGauge("appliance_spool_bytes", "The bytes of these files.", ("spool", "kept_for"))
SPOOL_OLDEST = MonitorGauge(
    "appliance_spool_oldest_seconds", "Seconds that the oldest file in the spool has been there.", ()
)
STORAGE_USABLE = MonitorGauge(
    "appliance_storage_usable_bytes",
    "Bytes that images and results may still take before new images are refused.",
    (),
)
STORAGE_FULL = MonitorGauge(
    "appliance_storage_full_seconds",
    "Seconds until new images are refused if the disk fills as in the last hour; +Inf if it does not fill.",
    (),
)


def delivery_status(status: int | None) -> str:
    """The word of `DELIVERY_STATUSES` for a DIMSE status (PS3.4 table B.2-1, PS3.7 annex C)."""
    if status is None:
        return "none"
    digits = f"{status:04X}"
    for word in (digits, f"{digits[:2]}xx", f"{digits[0]}xxx"):
        if word in DELIVERY_STATUSES:
            return word
    return "other"


def commitment_reason(reason: int) -> str:
    """The word of `COMMITMENT_REASONS` for a Failure Reason (PS3.3 C.14.1.1)."""
    word = f"{reason:04X}"
    return word if word in COMMITMENT_REASONS else "other"


def start_destination_at_zero(destination: str) -> None:
    """As `_start_at_zero`, for what has the label of a destination."""
    UNREACHABLE.labels(destination)
    for kind in DELIVERY_KINDS:
        SENT_BYTES.labels(destination, kind)
        for result in DELIVERY_RESULTS:
            DELIVERIES.labels(destination, kind, result)
    for status in DELIVERY_STATUSES:
        DELIVERY_FAILURES.labels(destination, status)


def start_triton_at_zero(model: str) -> None:
    """As `_start_at_zero`, for a model that is to run on a Triton server."""
    for state in TRITON_STATES:
        TRITON_STATE.labels(model, state)
    for reason in TRITON_FALLBACKS_FOR:
        TRITON_FALLBACKS.labels(model, reason)
    for result in ("passed", "refused", "failed"):
        TRITON_COMPARED.labels(model, result)


def start_model_at_zero(model: str) -> None:
    """As `_start_at_zero`, for what has the label of a model."""
    MODELS_TAKEN_OUT.labels(model)
    for result in RETEST_RESULTS:
        MODEL_RETESTS.labels(model, result)


def _start_at_zero() -> None:
    """A counter that is absent until its first event hides that event from `rate()`."""
    for outcome in RECEIVED_OUTCOMES:
        INSTANCES_RECEIVED.labels(outcome)
    for result, reason in ASSOCIATION_RESULTS:
        ASSOCIATIONS.labels(result, reason)
    for decision in SERIES_DECISIONS:
        SERIES_DECIDED.labels(decision)
    for what in MISBEHAVIOURS:
        MISBEHAVIOUR.labels(what)
    for report in ("committed", "failures", "not_told"):
        COMMITMENT_REPORTS.labels(report)


_start_at_zero()
