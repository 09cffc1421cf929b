"""Every setting: its type, default, limits and meaning. The documentation is written from this file."""

from __future__ import annotations

import random
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from appliance.config.commitment import Commitment
from appliance.config.destinations import Destination, DicomDestination, MessageDestination
from appliance.config.section import Section
from appliance.config.tls import ListenerTLS
from appliance.config.triton import Triton
from appliance.config.values import (
    DEFAULT_QUIET_S,
    AETitle,
    Host,
    Name,
    Network,
    PathSetting,
    Port,
    QuietSeconds,
    Seconds,
    TimeZone,
    stable_serial,
)
from appliance.domain.commitment import Duty
from appliance.domain.policy import backoff_s


class Station(Section):
    """Who the appliance is."""

    ae_title: AETitle = Field(
        description="Application Entity title of the appliance: scanners call it and the PACS sees it."
    )
    other_ae_titles: list[AETitle] = Field(
        default=[],
        description="Further titles that scanners may call, for rules on the called title.",
    )
    timezone: TimeZone = Field(
        default="",
        description="Time zone of the dates and times in result objects, for example Europe/Berlin. "
        "Empty: the zone of the machine.",
    )
    device_serial: Annotated[str, Field(min_length=1, max_length=64)] = Field(
        default_factory=stable_serial,
        description="Device Serial Number (0018,1000) in result objects. "
        "Left out: a number derived from the identity of the machine, the same after every start.",
    )


class Accept(Section):
    """One rule of who may send. A peer is accepted when one rule fits both its title and its address."""

    ae_title: Annotated[str, Field(min_length=1, max_length=16)] = Field(
        default="*", description='Calling AE title; "*" fits every title.'
    )
    networks: Annotated[list[Network], Field(min_length=1)] = Field(
        description="Networks in CIDR form from which the peer may call."
    )


class Listener(Section):
    """Where and from whom images are received."""

    host: Host = Field(default="0.0.0.0", description="Address to listen on; 0.0.0.0 is every IPv4 address.")
    port: Port = Field(default=11112, description="TCP port for DICOM.")
    accept: list[Accept] = Field(
        default_factory=lambda: [
            Accept(ae_title="*", networks=[ip_network("127.0.0.0/8"), ip_network("::1/128")])
        ],
        description="Rules of who may send. Left out: only this machine.",
    )
    processes: Annotated[int, Field(ge=1, le=32)] = Field(
        default=1, description="Processes that receive on the same port; throughput grows with the cores."
    )
    maximum_associations: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=64, description="Associations served at the same time; one more is rejected for the moment."
    )
    maximum_associations_per_peer: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=64, description="Of these, the most for one calling AE title at one address."
    )
    maximum_pdu: Annotated[int, Field(ge=4096, le=1048576)] = Field(
        default=131072, description="Largest PDU in bytes that a peer may send (PS3.8 Annex D.1)."
    )
    network_timeout_s: Seconds = Field(
        default=600.0,
        description="Seconds without a message after which an association is aborted. "
        "Ultrasound and some CT keep one open between images.",
    )
    tls: ListenerTLS | None = Field(default=None, description="A second port with TLS. Left out: no TLS.")


class Storage(Section):
    """Where images, results and the journal are kept. A local disk, not a network file system."""

    path: PathSetting = Field(
        description="Folder of spool and journal, relative to the folder of the configuration file."
    )
    durability: Literal["fsync", "os"] = Field(
        default="fsync",
        description="When an image is acknowledged: `fsync`, once it survives a power cut; `os`, once it "
        "survives the death of a process, but not of the machine.",
    )
    minimum_free_mb: Annotated[int, Field(ge=0)] = Field(
        default=1024,
        description="Below this free space (MiB) images are refused with the status Out of Resources.",
    )
    keep_originals_h: Annotated[float, Field(ge=0.0, le=87600.0)] = Field(
        default=24.0,
        description="Hours for which an original stays in the spool after nobody needs it any more: every "
        "required destination has it, and no series, job, delivery or scanner waits for it.",
    )
    keep_results_h: Annotated[float, Field(ge=0.0, le=87600.0)] = Field(
        default=168.0, description="The same for a result."
    )


class Match(Section):
    """Narrows what the model takes. An empty list means any."""

    modality: list[str] = Field(default=[], description="Modality (0008,0060) is one of these.")
    body_part: list[str] = Field(default=[], description="Body Part Examined (0018,0015) is one of these.")
    station_name: list[str] = Field(default=[], description="Station Name (0008,1010) is one of these.")


Told = Literal["positive", "negative", "not_analysed"]


class ResultObjects(Section):
    """Which outcomes of a triage model each kind of result object tells."""

    sr: list[Told] = Field(default=["positive", "negative"], description="Structured Report.")
    sc: list[Told] = Field(
        default=["positive"], description="Secondary Capture: a card for people to look at."
    )
    seg: list[Literal["positive"]] = Field(
        default=["positive"],
        description="Segmentation of the finding, where the model draws one, for destinations whose `takes` "
        "names it.",
    )
    ko: list[Literal["positive"]] = Field(
        default=[], description="Key Object Selection that points to the key image."
    )
    message: list[Literal["positive", "negative"]] = Field(
        default=["positive"],
        description="Messages to HL7, UPS and webhook destinations, of positives if they are urgent (ACR "
        "category 1 or 2). UPS destinations are told of positives only. Whoever was told of a positive "
        "is told as well when more images make it a negative.",
    )

    def kinds(self, outcome: str) -> frozenset[str]:
        """The kinds of result objects that tell `outcome`, a word of the journal."""
        if outcome == "enhanced":
            return frozenset({"enhanced"})
        return frozenset(kind for kind, outcomes in self if outcome in outcomes)


Runtime = Literal["auto", "tensorrt", "tensorrt_rtx", "onnxruntime", "triton"]


class DerivedImages(Section):
    """How enhanced images present themselves."""

    equipment: Literal["appliance", "scanner"] = Field(
        default="appliance",
        description="Whose manufacturer, model, serial number and station name they carry: this appliance's, "
        "which made them, or the scanner's, for a PACS that routes by these. Who did what is in Contributing "
        "Equipment either way.",
    )
    image_type: Literal["SECONDARY", "PRIMARY"] = Field(
        default="SECONDARY",
        description="Second value of Image Type; PRIMARY for viewers that leave out secondary images. "
        "Multi-frame CT and MR are always PRIMARY, as the standard has it.",
    )


class Cards(Section):
    """How cards present themselves."""

    design: Literal["dark", "light"] = Field(
        default="dark",
        description="The page that they are drawn on: `dark`, for reading rooms, or `light`.",
    )


_DEADLINES_S = {"enhance": 3600.0}


class Pipeline(Section):
    """One model and where its results go."""

    model: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")] = Field(
        description="Id of the model package: its folder's name in `engines.path`."
    )
    destinations: Annotated[list[str], Field(min_length=1)] = Field(
        description="Names of the destinations that get the results."
    )
    match: Match = Field(default_factory=Match, description="Narrows which series the model gets.")
    strength: Annotated[float, Field(ge=0.0, le=1.0)] | None = Field(
        default=None, description="Strength of an enhancement model instead of the package's own."
    )
    threshold: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(
        default=None, description="Operating point of a triage model instead of the package's own."
    )
    derived: DerivedImages = Field(
        default_factory=DerivedImages, description="How enhanced images present themselves."
    )
    cards: Cards = Field(default_factory=Cards, description="How cards present themselves.")
    results: ResultObjects = Field(
        default_factory=ResultObjects,
        description="Which result objects tell which outcome of a triage model.",
    )
    runtime: Runtime | None = Field(
        default=None, description="What runs the model. Left out: `inference.runtime`."
    )
    deadline_s: Annotated[float, Field(ge=1.0, le=604800.0)] | None = Field(
        default=None,
        description="Longest wait in seconds for its turn of a complete series, which then is not analysed "
        "(`overloaded`). Left out: 3600 for enhancement, none for triage.",
    )

    def deadline_for(self, kind: str) -> float | None:
        """The deadline in seconds, None if there is none, for a model of this kind of task."""
        return _DEADLINES_S.get(kind) if self.deadline_s is None else self.deadline_s


class Engines(Section):
    """Where the model packages are."""

    path: PathSetting = Field(
        default_factory=lambda: Path(__file__).resolve().parents[2] / "engines",
        description="Folder with one folder for each model package. "
        "Left out: `engines` beside the installed program.",
    )


class Completeness(Section):
    """When a series counts as complete."""

    quiet_s: QuietSeconds = Field(
        default=DEFAULT_QUIET_S,
        description="Seconds without a new image after which a series is complete, by modality; "
        "`default` is for every other one.",
    )
    maximum_wait_s: Annotated[float, Field(ge=1.0, le=86400.0)] = Field(
        default=600.0, description="Seconds after the first image at which a series is taken as it is."
    )

    def quiet_for(self, modality: str) -> float:
        """Seconds of quiet that complete a series of `modality`."""
        return self.quiet_s.get(modality, self.quiet_s["default"])


class Inference(Section):
    """How models are run."""

    threads: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0, description="Processor threads for a model; 0 is one for each core."
    )
    attempts: Annotated[int, Field(ge=1, le=100)] = Field(
        default=3, description="Times that a job is tried before it is reported as not analysed."
    )
    step_s: Annotated[float, Field(ge=5.0, le=86400.0)] = Field(
        default=60.0,
        description="Seconds that one step may take: loading a model, reading an image, one batch through a "
        "model, writing a result. Then the inference process is killed and started anew.",
    )
    failures_in_a_row: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=3,
        description="Series in a row at which a model fails (a crash, an error, an answer that is not finite "
        "or of another shape) before it is out of service: its series are then reported as not analysed.",
    )
    retest_s: Annotated[float, Field(ge=1.0, le=86400.0)] = Field(
        default=600.0,
        description="Seconds between tests of a model that is out of service, on the golden inputs of its "
        "package; the first that succeeds puts it back.",
    )
    runtime: Runtime = Field(
        default="auto",
        description="What runs the models. `auto`: the first that the machine can use of tensorrt, "
        "tensorrt_rtx and onnxruntime. Where an engine is missing or refused, ONNX Runtime runs the model, "
        "and `appliance models` says why. `triton`: the server in `inference.triton`, and ONNX Runtime while "
        "that is away or not verified to have the same model.",
    )
    triton: Triton | None = Field(
        default=None,
        description="The server for models whose runtime is `triton`. Left out: none may have it.",
    )
    stat: list[str] = Field(
        default=[],
        description="Calling AE titles of scanners whose series come first, such as that of the emergency "
        "department.",
    )
    gpu_memory_mb: Annotated[int, Field(ge=64, le=1048576)] = Field(
        default=6144, description="Most GPU memory (MiB) that the engine of one model may take."
    )
    gpu_step_s: Annotated[float, Field(ge=0.1, le=3600.0)] = Field(
        default=20.0,
        description="Seconds that one batch may take on the GPU; then the inference process is restarted.",
    )
    engine_build_s: Annotated[float, Field(ge=1.0, le=86400.0)] = Field(
        default=3600.0, description="Seconds that building an engine may take, and then its comparison."
    )


class DeliverySettings(Section):
    """How images and results are sent."""

    retry_minimum_s: Annotated[float, Field(ge=0.1, le=86400.0)] = Field(
        default=5.0, description="Seconds before the first retry; each further one waits longer."
    )
    retry_maximum_s: Annotated[float, Field(ge=0.1, le=86400.0)] = Field(
        default=600.0, description="Longest wait in seconds between two attempts."
    )
    dimse_timeout_s: Annotated[float, Field(ge=1.0, le=3600.0)] = Field(
        default=120.0, description="Seconds that a destination may take to answer one message."
    )
    associations: Annotated[int, Field(ge=1, le=4)] = Field(
        default=2,
        description="Associations at the same time to one destination. The originals of one study always "
        "leave over one, in order.",
    )

    def retry_after_s(self, attempts: int) -> float:
        """Seconds to wait after so many attempts that failed, a little different each time."""
        return backoff_s(
            attempts,
            minimum_s=self.retry_minimum_s,
            maximum_s=self.retry_maximum_s,
            random=random.random,
        )


class Monitor(Section):
    """The HTTP port with /metrics, /healthz and /readyz."""

    host: Host = Field(default="127.0.0.1", description="Address to listen on.")
    port: Port = Field(default=9464, description="TCP port.")


class Log(Section):
    """Messages on standard error, one JSON object a line, without patient data."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe messages that are written."
    )


class Config(Section):
    """The whole configuration of one appliance."""

    station: Station = Field(description="Who the appliance is.")
    listener: Listener = Field(default_factory=Listener, description="Where images are received.")
    storage: Storage = Field(description="Where images, results and the journal are kept.")
    destinations: dict[Name, Destination] = Field(
        default={}, description="Where images and results go, by name."
    )
    originals: list[str] | None = Field(
        default=None,
        description="Destinations that get the originals, each as far as its `only` lets it. "
        "Left out: all DICOM destinations.",
    )
    pipelines: list[Pipeline] = Field(default=[], description="The models in use and where their results go.")
    engines: Engines = Field(default_factory=Engines, description="Where the model packages are.")
    completeness: Completeness = Field(
        default_factory=Completeness, description="When a series counts as complete."
    )
    inference: Inference = Field(default_factory=Inference, description="How models are run.")
    delivery: DeliverySettings = Field(
        default_factory=DeliverySettings, description="How images and results are sent."
    )
    commitment: Commitment = Field(
        default_factory=Commitment,
        description="Storage commitment, asked of destinations and promised to scanners.",
    )
    monitor: Monitor = Field(default_factory=Monitor, description="The HTTP port for metrics and health.")
    log: Log = Field(default_factory=Log, description="Messages on standard error.")

    @property
    def called_ae_titles(self) -> tuple[str, ...]:
        """Every title under which the appliance may be called."""
        return (self.station.ae_title, *self.station.other_ae_titles)

    @property
    def originals_destinations(self) -> tuple[str, ...]:
        """Names of the destinations that get the originals, each as far as its rules let it."""
        if self.originals is not None:
            return tuple(self.originals)
        return tuple(self.dicom_destinations)

    @property
    def dicom_destinations(self) -> dict[str, DicomDestination]:
        """The destinations that are sent objects, by name."""
        return {
            name: settings
            for name, settings in self.destinations.items()
            if isinstance(settings, DicomDestination)
        }

    @property
    def message_destinations(self) -> dict[str, MessageDestination]:
        """The destinations that are told of findings, by name."""
        return {
            name: settings
            for name, settings in self.destinations.items()
            if isinstance(settings, MessageDestination)
        }

    @property
    def duties(self) -> dict[str, Duty]:
        """What retention and commitment expect of each destination, by name."""
        return {
            name: Duty(destination.required, destination.commitment)
            for name, destination in self.destinations.items()
        }

    @property
    def receivers(self) -> tuple[str, ...]:
        """Names of the processes that receive."""
        more = range(2, self.listener.processes + 1)
        return ("receive", *(f"receive-{number}" for number in more))

    @property
    def engine_directory(self) -> Path:
        """Folder of the engines that the appliance built."""
        return self.storage.path / "engines"

    @property
    def run_directory(self) -> Path:
        """Folder of the processes' sockets."""
        return self.storage.path / "run"

    @property
    def journal_path(self) -> Path:
        """The journal's database file."""
        return self.storage.path / "journal.sqlite"
