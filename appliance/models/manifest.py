"""`model.yaml`: what a model package declares about itself.

A package is a folder `engines/<id>/` with `model.yaml`, the weights that it names, and `CARD.md`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from appliance.domain.errors import Misconfigured

Range = tuple[float, float]

_ACR_CATEGORIES = frozenset(("RADLEX", value) for value in ("RID49480", "RID49481", "RID49482"))


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CodeEntry(_Part):
    """A coded concept (PS3.3 section 8.8)."""

    value: str
    scheme: str
    meaning: str


class PrivateEntry(_Part):
    """A private element (PS3.5 section 7.8): creator, odd group, low byte of the element number."""

    creator: str
    group: Annotated[int, Field(ge=0x0009, le=0xFFFF)]
    element: Annotated[int, Field(ge=0x00, le=0xFF)]


class Weights(_Part):
    """A file of the package, such as the weights, and the SHA-256 that it must have."""

    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Contract(_Part):
    """Which series the model takes. An empty list means "any"; a range includes both ends."""

    modality: list[str]
    sop_classes: list[str]
    image_type_forbidden: list[str] = ["DERIVED", "LOCALIZER", "SECONDARY"]
    body_parts: list[str] = []
    slices: tuple[int, int] = (1, 5000)
    rows: tuple[int, int] = (32, 4096)
    columns: tuple[int, int] = (32, 4096)
    pixel_spacing_mm: Range = (0.01, 10.0)
    slice_spacing_mm: Range = (0.01, 100.0)
    uniform_slices: bool = False
    """Refuse a series with missing slices or uneven gaps."""
    gantry_tilt_degrees: float = 90.0
    """The largest angle between slice normal and slice displacement."""


class EnhanceTask(_Part):
    """Same grid in, same grid out; the graph bounds its own residual."""

    kind: Literal["enhance"]
    strength: Annotated[float, Field(ge=0.0, le=1.0)]
    prefix: str
    codes: list[CodeEntry]
    trained_noise: Range = (0.0, 1e9)
    """Noise, in the units of the voxels, that the model was trained on; outside it, nothing is analysed."""
    private_elements: list[PrivateEntry] = []
    """Private elements that stay true of the enhanced images, and so are kept; all others are dropped."""


class TriageTask(_Part):
    """A finding, its operating point and how urgent it is."""

    kind: Literal["triage"]
    preparation: str
    """How slices become the graph's input: a name of `models.tasks.triage.PREPARATIONS`."""
    threshold: Annotated[float, Field(gt=0.0, lt=1.0)]
    calibrated: bool
    finding: CodeEntry
    site: CodeEntry
    urgency: CodeEntry
    """How soon somebody has to act on a positive: the ACR category, on which messages and order depend."""
    out_of_distribution: float
    """A slice whose distance output exceeds this is not scored."""

    @field_validator("urgency")
    @classmethod
    def _is_acr_category(cls, urgency: CodeEntry) -> CodeEntry:
        if (urgency.scheme, urgency.value) not in _ACR_CATEGORIES:
            raise ValueError("is none of the ACR categories RID49480, RID49481 and RID49482 of RADLEX")
        return urgency


Task = Annotated[EnhanceTask | TriageTask, Field(discriminator="kind")]


class ShapeRange(_Part):
    """Shapes of one input; axis 0 is the batch. The engine is fastest at `usual`."""

    smallest: tuple[PositiveInt, ...]
    usual: tuple[PositiveInt, ...]
    largest: tuple[PositiveInt, ...]

    @model_validator(mode="after")
    def _ascending(self) -> ShapeRange:
        shapes = (self.smallest, self.usual, self.largest)
        if len({len(shape) for shape in shapes}) != 1:
            raise ValueError("smallest, usual and largest need the same number of axes")
        if any(not low <= middle <= high for low, middle, high in zip(*shapes, strict=True)):
            raise ValueError("smallest, usual and largest have to ascend in every axis")
        return self


class EngineRules(_Part):
    """What an engine of the graph is built for, and how near ONNX Runtime it has to stay."""

    profiles: Annotated[list[dict[str, ShapeRange]], Field(min_length=1)]
    """One engine serves all of these; an image that none takes runs on ONNX Runtime."""
    golden: Weights
    """Inputs on which the parity gate compares: arrays named `<case>.<input>` in an .npz file."""
    parity: Annotated[dict[str, Annotated[float, Field(gt=0.0)]], Field(min_length=1)]
    """The largest absolute difference from ONNX Runtime, for every output of the graph."""


class Manifest(_Part):
    """The whole of `model.yaml`."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    title: str
    manufacturer: str
    intended_use: str
    weights: Weights
    accepts: Contract
    task: Task
    engine: EngineRules | None = None
    """Left out: the model runs on ONNX Runtime only."""


def load_manifest(folder: Path) -> Manifest:
    """Read `folder/model.yaml`.

    Raises:
        Misconfigured: the manifest is missing or wrong.
    """
    path = folder / "model.yaml"
    try:
        manifest = Manifest.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise Misconfigured([f"model {folder.name}: {path} is missing"]) from None
    except yaml.YAMLError as error:
        raise Misconfigured([f"model {folder.name}: {path} is not valid YAML: {error}"]) from error
    except ValidationError as error:
        raise Misconfigured(
            [
                f"model {folder.name}: {path}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}"
                for problem in error.errors()
            ]
        ) from error
    if manifest.id != folder.name:
        raise Misconfigured([f"model {folder.name}: {path} declares the id {manifest.id!r}"])
    return manifest


def damage(manifest: Manifest, folder: Path) -> str | None:
    """Why the weights in `folder` are not those that the manifest names; None if they are."""
    weights = folder / manifest.weights.file
    try:
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    except OSError as error:
        return f"model {manifest.id}: {weights} cannot be read: {error.strerror}"
    if digest == manifest.weights.sha256:
        return None
    return (
        f"model {manifest.id}: {weights} has the SHA-256 {digest}, but model.yaml names "
        f"{manifest.weights.sha256}: restore the released file"
    )
