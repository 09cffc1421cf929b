"""Train `ct-denoise` on simulated scans and write its ONNX file.

    python -m tools.simulate.ct_library --out build/ct-denoise.npz
    python -m tools.train.ct_denoise --library build/ct-denoise.npz --out build/ct-denoise.onnx \\
        --resume build/ct-denoise.checkpoint

The target keeps a part of the very same noise: a noise-free target teaches a network to invent smooth
tissue. No adversarial and no perceptual loss. The learning rate is constant until the last part of
the steps (`--decay`), so that a run that is resumed before it may be given another number of steps.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import sys
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from tools.simulate.ct_library import Library, load
from tools.train.ct_denoise_net import (
    HU_RANGE,
    Denoiser,
    UNet,
    bounded_residual,
    box_mean,
    features,
    noise_level,
    to_blocks,
)

MODEL_ID, VERSION = "ct-denoise", "0.2.0"
OPSET = 17
REPORT_STEPS, CHECKPOINT_STEPS = 50, 200


@dataclass(frozen=True)
class Training:
    """What defines a training run; its SHA-256 is written into the model file."""

    steps: int = 8000
    slices: int = 3
    windows: int = 2
    """Patches from each slice."""
    patch: int = 96
    border: int = 4
    """Blocks at the border of a patch that do not count: there, the U-Net sees too little."""
    learning_rate: float = 2e-3
    decay: float = 0.3
    """The part of the steps, at their end, over which the learning rate falls to 0."""
    bone_choices: int = 3
    """Half of the patches are the one with most bone of this many: bone is rare and hard."""
    kept_noise: float = 0.05
    noise_hu: tuple[float, float] = (1.0, 120.0)
    error_power: float = 0.76
    """Errors count in units of noise to this power, about what remains: so all doses weigh the same."""
    knee: float = 2.0
    """Errors well below this many such units count squared, larger ones linearly."""
    outside_weight: float = 0.2
    """What a pixel outside the body counts."""
    sigma_weight: float = 0.05
    average: float = 0.998
    seed: int = 1
    library_sha256: tuple[str, ...] = ()
    start_sha256: str = ""
    """The checkpoint whose averaged weights the run began with, if any."""


@dataclass(frozen=True)
class Batch:
    """Patches as blocks: what the network sees, the noise and its local deviation in HU, weight and unit."""

    seen: Tensor
    level: Tensor
    noise: Tensor
    sigma: Tensor
    weight: Tensor
    unit: Tensor


_Image = NDArray[np.float32]


def noisy_slice(library: Library, rng: np.random.Generator, how: Training) -> tuple[_Image, float]:
    """A scan at a random dose: (noisy, noise, body) as (3, h, w) in HU, and the noise of the whole body.

    Two realisations of the noise, mixed at a random angle, are a third one of the same statistics.
    """
    index, angle = int(rng.integers(len(library.clean))), rng.uniform(0.0, 2.0 * np.pi)
    field = library.noise[index, 0] * np.float32(np.cos(angle))
    field += library.noise[index, 1] * np.float32(np.sin(angle))
    wanted = float(np.exp(rng.uniform(*np.log(how.noise_hu))))
    in_library = max(float(field[::3, ::3][library.body[index, ::3, ::3]].std()), 0.1)
    factor = float(np.clip(wanted / in_library, 0.02, 4.0))
    clean = library.clean[index]
    noisy = np.round(clean + np.float32(factor) * field)  # stored as integers
    if rng.uniform() < 0.5:  # most scanners store nothing below -1024
        noisy, clean = np.maximum(noisy, -1024.0), np.maximum(clean, -1024.0)
    images = np.rot90(np.stack([noisy, noisy - clean, library.body[index]]), int(rng.integers(4)), (1, 2))
    if rng.uniform() < 0.5:
        images = images[:, :, ::-1]
    return np.ascontiguousarray(images, np.float32), max(in_library * factor, 1.0)


def windows_of(images: _Image, rng: np.random.Generator, how: Training) -> list[Tensor]:
    """Patches of a slice, each (3, patch, patch)."""
    _, rows, columns = images.shape
    chosen = []
    for _ in range(how.windows):
        places = []
        for _ in range(int(rng.choice([1, how.bone_choices]))):
            top = int(rng.integers(rows // 12, rows * 11 // 12 - how.patch))
            left = int(rng.integers(columns // 12, columns * 11 // 12 - how.patch))
            places.append(images[:, top : top + how.patch, left : left + how.patch])
        most = max(places, key=lambda place: float((place[0] - place[1] > 200.0)[::4, ::4].mean()))
        chosen.append(torch.from_numpy(np.ascontiguousarray(most)))
    return chosen


@torch.no_grad()
def draw(library: Library, how: Training, rng: np.random.Generator) -> Batch:
    """A training batch; the noise level that the network is told is that of the whole slice."""
    patches, levels, scales = [], [], []
    for _ in range(how.slices):
        images, scale = noisy_slice(library, rng, how)
        level = noise_level(torch.clamp(torch.from_numpy(images[:1])[None], *HU_RANGE))
        patches += windows_of(images, rng, how)
        levels += [level] * how.windows
        scales += [scale] * how.windows
    stacked, level = torch.stack(patches), torch.cat(levels)
    noise = to_blocks(stacked[:, 1:2])
    sigma = torch.sqrt(box_mean(torch.mean(noise**2, dim=1, keepdim=True), 7) + 0.1)
    weight = how.outside_weight + (1.0 - how.outside_weight) * to_blocks(stacked[:, 2:])
    unit = torch.tensor(scales)[:, None, None, None] ** how.error_power
    return Batch(features(torch.clamp(stacked[:, :1], *HU_RANGE), level), level, noise, sigma, weight, unit)


def loss_of(network: UNet, batch: Batch, how: Training) -> tuple[Tensor, Tensor]:
    """The training loss, and the root mean square of the remaining noise in units of it, in the body."""
    mixture, correction, log_sigma = network(batch.seen)
    residual, sigma = bounded_residual(mixture + correction, log_sigma, batch.level)
    inner = slice(how.border, -how.border)
    error = ((batch.noise * (1.0 - how.kept_noise) - residual) / batch.unit)[:, :, inner, inner]
    weight = batch.weight[:, :, inner, inner]
    each = torch.sqrt(error**2 + how.knee**2) - how.knee
    fidelity = how.knee * (weight * each).sum() / weight.sum()
    estimate = torch.abs(torch.log(sigma / batch.sigma)).mean()
    left = ((weight > 0.5) * ((batch.noise - residual) / batch.unit)[:, :, inner, inner] ** 2).mean()
    return fidelity + how.sigma_weight * estimate, left.detach()


@dataclass
class State:
    """A training run between two steps."""

    network: UNet
    averaged: UNet
    optimiser: torch.optim.Optimizer
    rng: np.random.Generator
    step: int = 0

    def save(self, path: Path, how: Training) -> None:
        """Write everything that the next step depends on."""
        part = path.with_name(path.name + ".part")
        torch.save(
            {
                "how": asdict(how),
                "step": self.step,
                "network": self.network.state_dict(),
                "averaged": self.averaged.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "rng": self.rng.bit_generator.state,
            },
            part,
        )
        part.replace(path)

    def restore(self, path: Path, how: Training) -> None:
        """Go on where `save` was called; only the number of steps may have changed.

        Raises:
            ValueError: the checkpoint is one of another configuration.
        """
        stored: dict[str, Any] = torch.load(path, weights_only=True)
        if asdict(replace(how, steps=0)) != {**stored["how"], "steps": 0}:
            raise ValueError(f"{path} was written with another configuration: {stored['how']}")
        self.step = stored["step"]
        self.network.load_state_dict(stored["network"])
        self.averaged.load_state_dict(stored["averaged"])
        self.optimiser.load_state_dict(stored["optimiser"])
        self.rng.bit_generator.state = stored["rng"]


def begin(how: Training, start: Path | None = None) -> State:
    """A run before its first step, with the averaged weights of the checkpoint `start` if it is given."""
    torch.manual_seed(how.seed)
    network = UNet()
    if start is not None:
        network.load_state_dict(torch.load(start, weights_only=True)["averaged"])
    optimiser = torch.optim.AdamW(network.parameters(), how.learning_rate, weight_decay=1e-4)
    return State(network, copy.deepcopy(network), optimiser, np.random.default_rng(how.seed))


def train(library: Library, how: Training, checkpoint: Path | None, start: Path | None = None) -> UNet:
    """Train with AdamW and a running average of the weights, from `checkpoint` on if it exists."""
    state = begin(how, start)
    if checkpoint is not None and checkpoint.exists():
        state.restore(checkpoint, how)
    begun, first, recent = time.monotonic(), state.step, [0.0, 0.0]
    while state.step < how.steps:
        loss, left = advance(state, library, how)
        recent = [recent[0] + loss, recent[1] + left]
        if state.step % REPORT_STEPS == 0:
            seconds = (time.monotonic() - begun) / (state.step - first)
            sys.stdout.write(
                f"{state.step} of {how.steps}: loss {recent[0] / REPORT_STEPS:.4f} "
                f"left {recent[1] / REPORT_STEPS:.3f}, {seconds:.2f} s per step, "
                f"{(how.steps - state.step) * seconds / 60:.0f} min to go\n"
            )
            sys.stdout.flush()
            recent = [0.0, 0.0]
        if checkpoint is not None and (state.step % CHECKPOINT_STEPS == 0 or state.step == how.steps):
            state.save(checkpoint, how)
    return state.averaged


def advance(state: State, library: Library, how: Training) -> tuple[float, float]:
    """One step: its loss, and the mean square of what remains."""
    falling = (how.steps - state.step) / (how.decay * how.steps)
    rate = how.learning_rate * min(1.0, (state.step + 1) / 100, falling)
    state.optimiser.param_groups[0]["lr"] = rate
    loss, left = loss_of(state.network, draw(library, how, state.rng), how)
    state.optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), 1.0)
    state.optimiser.step()
    state.step += 1
    decay = min(how.average, state.step / (state.step + 9))
    with torch.no_grad():
        for mean, value in zip(state.averaged.parameters(), state.network.parameters(), strict=True):
            mean.lerp_(value, 1.0 - decay)
    return float(loss.detach()), float(left)


def export(network: UNet, how: Training, path: Path) -> None:
    """Write the graph with its bounds as ONNX, with the metadata that says where it came from."""
    size = torch.zeros(1, 1, 64, 64)
    with warnings.catch_warnings():
        # The exporter without this notice needs a package that the project does not otherwise use.
        warnings.simplefilter("ignore", DeprecationWarning)
        # It computes slices with steps when the graph runs, as is meant: their shapes are not constant.
        warnings.filterwarnings("ignore", "Constant folding", UserWarning)
        torch.onnx.export(
            Denoiser(network).eval(),
            (size, torch.ones(1, 1)),
            str(path),
            opset_version=OPSET,
            dynamo=False,
            input_names=["x", "strength"],
            output_names=["y", "sigma_map"],
            dynamic_axes={
                "x": {0: "batch", 2: "rows", 3: "columns"},
                "strength": {0: "batch"},
                "y": {0: "batch", 2: "rows", 3: "columns"},
                "sigma_map": {0: "batch", 2: "rows", 3: "columns"},
            },
        )
    model = onnx.load(str(path))
    configuration = json.dumps(asdict(how), sort_keys=True)
    properties = {
        "model_id": MODEL_ID,
        "version": VERSION,
        "training_config": configuration,
        "training_config_sha256": hashlib.sha256(configuration.encode()).hexdigest(),
        "intended_use": "Noise reduction of CT slices in HU. Research only, not for diagnosis.",
    }
    onnx.helper.set_model_props(model, properties)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", type=Path, nargs="+", required=True)
    parser.add_argument("--resume", type=Path, help="a checkpoint: written now and then, read if it exists")
    parser.add_argument("--start", type=Path, help="a checkpoint of another run whose weights to go on from")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=Training.steps)
    parser.add_argument("--learning-rate", type=float, default=Training.learning_rate)
    parser.add_argument("--decay", type=float, default=Training.decay)
    parser.add_argument("--seed", type=int, default=Training.seed)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    library = load(arguments.library)
    how = Training(
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        decay=arguments.decay,
        seed=arguments.seed,
        library_sha256=tuple(_sha256(path) for path in arguments.library),
        start_sha256=_sha256(arguments.start) if arguments.start else "",
    )
    network = train(library, how, arguments.resume, arguments.start)
    export(network, how, arguments.out)
    count = sum(parameter.numel() for parameter in network.parameters())
    sys.stdout.write(f"{arguments.out}: {count} parameters, {arguments.out.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
