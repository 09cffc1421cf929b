"""What a model found: the value that flows from a model task to the writers of result objects."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Code:
    """A coded concept (PS3.3 section 8.8): value, coding scheme designator, meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class PrivateElement:
    """A private element by its creator, its odd group and the low byte of its element number."""

    creator: str
    group: int
    element: int


@dataclass(frozen=True)
class Enhanced:
    """A series that is better to look at, its values in the same units and shown in the same window.

    `voxels` has the order of `Volume.voxels` and its shape, or that of a finer or coarser grid with the same
    slices, proportions and edges.
    `description` is the sentence of DerivationDescription (0008,2111); `prefix` starts the series
    description ("AI-DN"); `codes` go to DerivationCodeSequence (0008,9215) in this order.
    """

    voxels: NDArray[np.float32]
    description: str
    prefix: str
    codes: tuple[Code, ...]
    private: tuple[PrivateElement, ...] = ()
    """What the derived images keep of the private elements of their sources."""


@dataclass(frozen=True)
class Findings:
    """The answer of a triage model: positive or negative, with the evidence for it.

    `score` and `threshold` are 0..1 on the model's own scale; `calibrated` says whether the score may
    be called a probability. `heat` (0..1) and `mask` (True where the finding is), where present, have the
    shape of `Volume.voxels`; `key_slice` indexes the slice that shows the finding best.
    """

    positive: bool
    score: float
    threshold: float
    calibrated: bool
    finding: Code
    site: Code
    urgency: Code
    key_slice: int
    heat: NDArray[np.float32] | None
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Subject:
    """What a triage model looks for, and where in the body."""

    finding: Code
    site: Code


@dataclass(frozen=True)
class NotAnalysed:
    """The model gave no answer. Never to be read as "negative".

    `reason` is a short stable word (`out_of_distribution`, `truncated_pixel_data`) for metrics;
    `detail` is a sentence for people, without patient data.
    """

    reason: str
    detail: str


Outcome = Enhanced | Findings | NotAnalysed


@dataclass(frozen=True)
class ModelIdentity:
    """Which model computed a result: `sha256` is that of its weights file.

    `ran` names each runtime that took part, with its version and the SHA-256 of the file that it ran: the
    weights, or an engine that was built from them.
    """

    id: str
    version: str
    title: str
    manufacturer: str
    sha256: str
    ran: tuple[str, ...] = ()


@dataclass(frozen=True)
class StationIdentity:
    """Which appliance computed a result. `device_uid` is stable for one installation."""

    ae_title: str
    manufacturer: str
    product: str
    version: str
    serial: str
    device_uid: str


@dataclass(frozen=True)
class EarlierReport:
    """The report on the series with fewer images, which a new report takes the place of."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str


CardDesign = Literal["dark", "light"]
"""The page that a card is drawn on."""


@dataclass(frozen=True)
class Identity:
    """Everything that a result object says about its own origin.

    `pipeline_digest` changes whenever the weights or the parameters change, so that UIDs derived
    from it never name two different contents. `created` is the first-generation time, aware. `early`
    results are about the images that came so far, while the series arrives. `series_begun` is that of the
    first image of a derived series, which images that join it later share; None where this is the first.
    Derived images name the scanner as their equipment if `names_scanner`, and are PRIMARY in their image
    type if `primary`. `card_design` is the page that cards are drawn on; only their UIDs depend on it.
    """

    station: StationIdentity
    model: ModelIdentity
    pipeline_digest: str
    revision: int
    created: datetime
    parameters: dict[str, str] = field(default_factory=dict)
    series_begun: datetime | None = None
    earlier_report: EarlierReport | None = None
    names_scanner: bool = False
    primary: bool = False
    card_design: CardDesign = "dark"
    early: bool = False

    @property
    def edition(self) -> str:
        """Which of the answers about a series this is, as its UIDs tell them apart."""
        return f"{self.revision} early" if self.early else str(self.revision)
