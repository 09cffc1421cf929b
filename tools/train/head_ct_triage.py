"""Train `head-ct-triage` on simulated slices, calibrate it on others, and write its ONNX file.

    python -m tools.train.head_ct_triage --out engines/head-ct-triage/model.onnx

Prints the operating point for `model.yaml`. Neither the held-out phantoms (`tools.simulate.head_series`)
nor any real image takes part.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.nn import functional

from appliance.models.tasks.head_alignment import AlignedHead, align_head, to_grid
from appliance.models.tasks.triage import inputs_of
from tools.simulate.head_rendering import PIXEL_MM, render
from tools.simulate.head_shapes import Array
from tools.simulate.head_slices import HeadSlice, draw_slice
from tools.train.head_ct_triage_net import Channels, Network, Triage

MODEL_ID, VERSION = "head-ct-triage", "0.1.0"
OPSET = 17
INTENDED_USE = (
    "Points out head CT series that may show a large or moderate parenchymal or ventricular haemorrhage. "
    "Research only, not for diagnosis."
)


@dataclass(frozen=True)
class Training:
    """What defines a training run; its SHA-256 is written into the model file."""

    steps: int = 400
    batch: int = 24
    fresh_per_step: int = 8
    pool: int = 640
    slices: int = 256
    new_slice: float = 0.5
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    average: float = 0.995
    visible_pixels: int = 25
    visible_contrast: float = 0.1
    calibration_slices: int = 960
    specificity: float = 0.99
    seed: int = 1


@dataclass(frozen=True)
class Sample:
    """An aligned slice, where its blood is, and whether its label is certain enough to learn from."""

    head: AlignedHead
    blood: Array
    bleeds: bool
    certain: bool


class Source:
    """Draws samples; each anatomy is scanned about twice, each time as if by another scanner."""

    def __init__(self, how: Training, seed: int) -> None:
        self._how = how
        self._rng = np.random.default_rng([seed, 77])
        self._slices: list[HeadSlice] = []

    def sample(self) -> Sample:
        """A fresh scan of a slice."""
        while True:
            hu, blood = render(*self._anatomy(), self._rng)
            head = align_head(hu, (PIXEL_MM, PIXEL_MM))
            if head is not None:
                return self._label(head, to_grid(blood, head))

    def _anatomy(self) -> tuple[Array, Array]:
        if len(self._slices) < self._how.slices:
            self._slices.append(draw_slice(self._rng))
            chosen = self._slices[-1]
        else:
            index = int(self._rng.integers(len(self._slices)))
            if self._rng.random() < self._how.new_slice:
                self._slices[index] = draw_slice(self._rng)
            chosen = self._slices[index]
        return chosen.hu, chosen.blood

    def _label(self, head: AlignedHead, blood: Array) -> Sample:
        """A bleed that nobody could see must not be taught as one, nor as its absence."""
        area = int((blood > 0.5).sum())
        certain = True
        if area:
            contrast = float(head.hu[blood > 0.5].mean()) - head.levels.median
            reach = max(head.levels.high - head.levels.median, 12.0)
            visible = contrast / reach > self._how.visible_contrast
            certain = area >= self._how.visible_pixels and visible
        return Sample(head, blood, area > 0, certain)


@dataclass(frozen=True)
class Batch:
    """What the network sees (b, CHANNELS, h, w), blood at half resolution, labels and their certainty."""

    channels: Tensor
    blood: Tensor
    bleeds: Tensor
    certain: Tensor

    def pick(self, rows: Tensor) -> Batch:
        """Some of the samples."""
        return Batch(self.channels[rows].float(), self.blood[rows], self.bleeds[rows], self.certain[rows])

    def put(self, rows: Tensor, other: Batch) -> None:
        """Replace samples."""
        self.channels[rows] = other.channels.to(self.channels.dtype)
        self.blood[rows], self.bleeds[rows], self.certain[rows] = other.blood, other.bleeds, other.certain


def batch_of(samples: list[Sample], channels: Channels) -> Batch:
    """Stack samples as the network takes them."""
    heads = inputs_of([sample.head for sample in samples])
    blood = torch.from_numpy(np.stack([sample.blood for sample in samples])[:, None].astype(np.float32))
    with torch.no_grad():
        seen = channels(*(torch.from_numpy(heads[name]) for name in ("hu", "hull", "levels")))
    return Batch(
        channels=seen,
        blood=functional.avg_pool2d(blood, 2),
        bleeds=torch.tensor([[float(sample.bleeds)] for sample in samples]),
        certain=torch.tensor([[float(sample.certain)] for sample in samples]),
    )


def loss_of(evidence: Tensor, logit: Tensor, batch: Batch) -> Tensor:
    """Pixel-wise and overlap loss on the evidence, softened classification loss on certain labels."""
    blood, weight = batch.blood, batch.certain
    pixels = functional.binary_cross_entropy_with_logits(evidence, blood, pos_weight=torch.tensor(3.0))
    found = torch.sigmoid(evidence)
    both = (found * blood).sum(dim=(1, 2, 3))
    overlap = (2 * both + 5) / ((found + blood).sum(dim=(1, 2, 3)) + 5)
    label = batch.bleeds * 0.96 + 0.02
    whole = functional.binary_cross_entropy_with_logits(logit, label, reduction="none")
    return 5 * pixels + 0.5 * (1 - overlap).mean() + (whole * weight).mean()


def train(how: Training) -> tuple[Channels, Network]:
    """Train with AdamW, a cosine schedule and a running average of the weights."""
    torch.manual_seed(how.seed)
    source, rng = Source(how, how.seed), np.random.default_rng(how.seed)
    channels, network = Channels(), Network()
    averaged = copy.deepcopy(network)
    optimiser = torch.optim.AdamW(network.parameters(), how.learning_rate, weight_decay=how.weight_decay)
    pool = batch_of([source.sample() for _ in range(how.batch)], channels)
    pool = Batch(pool.channels.half(), pool.blood, pool.bleeds, pool.certain)
    begun, recent = time.monotonic(), 0.0
    for step in range(how.steps):
        fresh = batch_of([source.sample() for _ in range(how.fresh_per_step)], channels)
        pool = _refresh(pool, fresh, how.pool, rng)
        batch = pool.pick(torch.from_numpy(rng.choice(len(pool.bleeds), how.batch, replace=False)))
        ramp = min(1.0, (step + 1) / 60) * (0.5 + 0.5 * math.cos(math.pi * step / how.steps))
        optimiser.param_groups[0]["lr"] = how.learning_rate * (ramp + 0.005)
        evidence, logit, _ = network(batch.channels)
        loss = loss_of(evidence, logit, batch)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        _average(averaged, network, min(how.average, (step + 1) / (step + 10)))
        recent += float(loss.detach())
        if step % 50 == 49:
            _say(f"{step + 1} loss {recent / 50:.3f} {time.monotonic() - begun:.0f} s")
            recent = 0.0
    return channels.eval(), averaged.eval()


def _refresh(pool: Batch, fresh: Batch, size: int, rng: np.random.Generator) -> Batch:
    """Add samples to the pool, or replace some once it is full."""
    count = len(fresh.bleeds)
    if len(pool.bleeds) + count > size:
        pool.put(torch.from_numpy(rng.choice(len(pool.bleeds), count, replace=False)), fresh)
        return pool
    return Batch(
        torch.cat([pool.channels, fresh.channels.half()]),
        torch.cat([pool.blood, fresh.blood]),
        torch.cat([pool.bleeds, fresh.bleeds]),
        torch.cat([pool.certain, fresh.certain]),
    )


def _average(averaged: Network, network: Network, decay: float) -> None:
    with torch.no_grad():
        for mean, value in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
            if mean.dtype.is_floating_point:
                mean.lerp_(value, 1.0 - decay)
            else:
                mean.copy_(value)


@dataclass(frozen=True)
class Calibration:
    """What the calibration slices say: the graph's last steps and the operating point."""

    slope: float
    shift: float
    centre: Tensor
    precision: Tensor
    threshold: float
    sensitivity: float
    out_of_distribution: float


def calibrate(channels: Channels, network: Network, how: Training) -> Calibration:
    """Fit slope and shift (Platt), the feature statistics and the threshold on slices of another seed."""
    source = Source(how, how.seed + 1_000_003)
    logits, features, labels, certain = [], [], [], []
    with torch.no_grad():
        for _ in range(how.calibration_slices // how.batch):
            batch = batch_of([source.sample() for _ in range(how.batch)], channels)
            _, logit, feature = network(batch.channels)
            logits.append(logit)
            features.append(feature)
            labels.append(batch.bleeds)
            certain.append(batch.certain)
    keep = torch.cat(certain)[:, 0] > 0
    logit, label = torch.cat(logits)[keep, 0], torch.cat(labels)[keep, 0]
    slope, shift = _platt(logit, label)
    probability = torch.sigmoid(slope * logit + shift)
    threshold = float(torch.quantile(probability[label == 0], how.specificity))
    feature = torch.cat(features)
    centre = feature.mean(dim=0)
    covariance = torch.cov(feature.T)
    ridge = 0.05 * covariance.diagonal().mean() * torch.eye(len(covariance))
    precision = torch.linalg.inv(0.95 * covariance + ridge)
    away = feature - centre
    distance = torch.sqrt((away @ precision * away).mean(dim=1))
    return Calibration(
        slope=slope,
        shift=shift,
        centre=centre,
        precision=precision,
        threshold=threshold,
        sensitivity=float((probability[label == 1] >= threshold).float().mean()),
        out_of_distribution=2.0 * float(torch.quantile(distance, 0.999)),
    )


def _platt(logit: Tensor, label: Tensor) -> tuple[float, float]:
    parameters = torch.tensor([1.0, 0.0], requires_grad=True)
    optimiser = torch.optim.LBFGS([parameters], max_iter=100)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(parameters[0] * logit + parameters[1], label)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return float(parameters[0].detach()), float(parameters[1].detach())


def export(graph: Triage, how: Training, calibration: Calibration, path: Path) -> None:
    """Write the graph as ONNX, with the metadata that says where it came from."""
    head = inputs_of([Source(how, 0).sample().head])
    names = {name: {0: "batch"} for name in ("hu", "hull", "levels", "probability", "heat", "distance")}
    with warnings.catch_warnings():
        # The exporter without this notice needs a package that the project does not otherwise use.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            graph.eval(),
            tuple(torch.from_numpy(head[name]) for name in ("hu", "hull", "levels")),
            str(path),
            opset_version=OPSET,
            dynamo=False,
            input_names=["hu", "hull", "levels"],
            output_names=["probability", "heat", "distance"],
            dynamic_axes=names,
        )
    model = onnx.load(str(path))
    configuration = json.dumps(asdict(how), sort_keys=True)
    properties = {
        "model_id": MODEL_ID,
        "version": VERSION,
        "training_config": configuration,
        "training_config_sha256": hashlib.sha256(configuration.encode()).hexdigest(),
        "threshold": f"{calibration.threshold:.6f}",
        "out_of_distribution": f"{calibration.out_of_distribution:.6f}",
        "intended_use": INTENDED_USE,
    }
    onnx.helper.set_model_props(model, properties)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=Training.steps)
    parser.add_argument("--seed", type=int, default=Training.seed)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    how = Training(steps=arguments.steps, seed=arguments.seed)
    channels, network = train(how)
    calibration = calibrate(channels, network, how)
    graph = Triage(
        channels, network, calibration.slope, calibration.shift, calibration.centre, calibration.precision
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    export(graph, how, calibration, arguments.out)
    count = sum(parameter.numel() for parameter in network.parameters())
    digest = hashlib.sha256(arguments.out.read_bytes()).hexdigest()
    _say(f"{arguments.out}: {count} parameters, {arguments.out.stat().st_size} bytes")
    _say(f"sha256: {digest}")
    _say(f"threshold: {calibration.threshold:.4f}  # simulated slices: {how.specificity:.0%} specificity,")
    _say(f"#   {calibration.sensitivity:.1%} sensitivity")
    _say(f"out_of_distribution: {calibration.out_of_distribution:.3f}")


if __name__ == "__main__":
    main()
