"""A training run of `head-ct-triage`, step by step: what it needs in memory, and what it keeps on disk."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from appliance.models.tasks.triage import inputs_of
from tools.train.checkpoint import Checkpoint
from tools.train.head_ct_triage_net import Channels, Network
from tools.train.head_ct_triage_samples import Sample, Source, Training


@dataclass(frozen=True)
class Batch:
    """What the network sees (b, CHANNELS, h, w), blood at half resolution, and labels (b, 1)."""

    channels: Tensor
    blood: Tensor
    bleeds: Tensor
    visible: Tensor
    certain: Tensor

    def pick(self, rows: Tensor) -> Batch:
        """Some of the samples."""
        return Batch(self.channels[rows].float(), *(getattr(self, name)[rows] for name in _LABELS))

    def put(self, rows: Tensor, other: Batch) -> None:
        """Replace samples."""
        self.channels[rows] = other.channels.to(self.channels.dtype)
        for name in _LABELS:
            getattr(self, name)[rows] = getattr(other, name)

    def halved(self) -> Batch:
        """The same with channels in half precision, to keep many."""
        return Batch(self.channels.half(), *(getattr(self, name) for name in _LABELS))

    def joined(self, other: Batch) -> Batch:
        """The samples of both."""
        both = (torch.cat([getattr(self, name), getattr(other, name)]) for name in ("channels", *_LABELS))
        return Batch(*both)


_LABELS = ("blood", "bleeds", "visible", "certain")


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
        visible=torch.tensor([[float(sample.visible)] for sample in samples]),
        certain=torch.tensor([[float(sample.certain)] for sample in samples]),
    )


def loss_of(evidence: Tensor, logit: Tensor, batch: Batch) -> Tensor:
    """Pixel-wise and overlap loss on visible blood, softened classification loss on certain labels."""
    blood, shown = batch.blood, batch.visible[:, 0]
    pixels = functional.binary_cross_entropy_with_logits(
        evidence, blood, pos_weight=torch.tensor(3.0), reduction="none"
    ).mean(dim=(1, 2, 3))
    found = torch.sigmoid(evidence)
    both = (found * blood).sum(dim=(1, 2, 3))
    overlap = (2 * both + 5) / ((found + blood).sum(dim=(1, 2, 3)) + 5)
    label = batch.bleeds * 0.96 + 0.02
    whole = functional.binary_cross_entropy_with_logits(logit, label, reduction="none")
    return ((5 * pixels + 0.5 * (1 - overlap)) * shown).mean() + (whole * batch.certain).mean()


class Run:
    """AdamW, a cosine schedule, a running average of the weights, and a pool of recent samples."""

    def __init__(self, how: Training) -> None:
        torch.manual_seed(how.seed)
        self._how, self.step = how, 0
        self._source, self._rng = Source(how, how.seed), np.random.default_rng(how.seed)
        self.channels, self._network = Channels(), Network()
        self.averaged = copy.deepcopy(self._network).eval()
        self._optimiser = torch.optim.AdamW(
            self._network.parameters(), how.learning_rate, weight_decay=how.weight_decay
        )
        self._pool = self._draw(how.batch).halved()

    def advance(self) -> float:
        """Take a step and return its loss."""
        how, step = self._how, self.step
        self._pool = _refresh(self._pool, self._draw(how.fresh_per_step), how.pool, self._rng)
        rows = self._rng.choice(len(self._pool.bleeds), how.batch, replace=False)
        batch = self._pool.pick(torch.from_numpy(rows))
        ramp = min(1.0, (step + 1) / 60) * (0.5 + 0.5 * math.cos(math.pi * step / how.steps))
        self._optimiser.param_groups[0]["lr"] = how.learning_rate * (ramp + 0.005)
        evidence, logit, _ = self._network(batch.channels)
        loss = loss_of(evidence, logit, batch)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), 5.0)
        self._optimiser.step()
        _average(self.averaged, self._network, min(how.average, (step + 1) / (step + 10)))
        self.step = step + 1
        return float(loss.detach())

    def checkpoint(self) -> Checkpoint:
        """Where the run stands."""
        slices, drawing = self._source.state()
        moments = {
            f"optimiser.{index}.{name}": value.numpy()
            for index, state in self._optimiser.state_dict()["state"].items()
            for name, value in state.items()
        }
        networks = {
            f"{name}.{key}": value.numpy()
            for name, network in (("network", self._network), ("averaged", self.averaged))
            for key, value in network.state_dict().items()
        }
        pool = {f"pool.{field.name}": getattr(self._pool, field.name).numpy() for field in fields(Batch)}
        picking = dict(self._rng.bit_generator.state)
        return Checkpoint(
            configuration=asdict(self._how),
            step=self.step,
            arrays={"slices": slices, **networks, **moments, **pool},
            facts={"drawing": drawing, "picking": picking},
        )

    def restore(self, saved: Checkpoint) -> None:
        """Go on where the run whose `checkpoint` this was would have."""
        self.step = saved.step
        self._source.restore(saved.arrays["slices"], saved.facts["drawing"])
        self._rng.bit_generator.state = saved.facts["picking"]
        for name, network in (("network.", self._network), ("averaged.", self.averaged)):
            network.load_state_dict(_tensors(saved.part(name)))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _tensors(saved.part("optimiser.")).items():
            index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = value
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self._pool = Batch(**_tensors(saved.part("pool.")))

    def _draw(self, count: int) -> Batch:
        return batch_of([self._source.sample() for _ in range(count)], self.channels)


def _tensors(arrays: dict[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in arrays.items()}


def _refresh(pool: Batch, fresh: Batch, size: int, rng: np.random.Generator) -> Batch:
    """Add samples to the pool, or replace some once it is full."""
    count = len(fresh.bleeds)
    if len(pool.bleeds) + count > size:
        pool.put(torch.from_numpy(rng.choice(len(pool.bleeds), count, replace=False)), fresh)
        return pool
    return pool.joined(fresh.halved())


def _average(averaged: Network, network: Network, decay: float) -> None:
    with torch.no_grad():
        for mean, value in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
            if mean.dtype.is_floating_point:
                mean.lerp_(value, 1.0 - decay)
            else:
                mean.copy_(value)
