"""Train `ct-denoise` on simulated scans and write its ONNX file.

    python -m tools.simulate.ct_library --out build/ct-denoise.npz
    python -m tools.train.ct_denoise --library build/ct-denoise.npz --out engines/ct-denoise/model.onnx

The target keeps a tenth of the very same noise: a noise-free target teaches a network to invent
smooth tissue. No adversarial and no perceptual loss.
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

from tools.simulate.ct_library import Library, load
from tools.train.ct_denoise_net import (
    HU_RANGE,
    Denoiser,
    UNet,
    bounded_residual,
    box_mean,
    features,
    noise_level,
)

MODEL_ID, VERSION = "ct-denoise", "0.1.0"
OPSET = 17


@dataclass(frozen=True)
class Training:
    """What defines a training run; its SHA-256 is written into the model file."""

    steps: int = 1500
    patches: int = 4
    patch: int = 80
    learning_rate: float = 2e-3
    bone_choices: int = 4
    """Half of the patches are the one with most bone of this many: bone is rare and hard."""
    kept_noise: float = 0.1
    noise_hu: tuple[float, float] = (1.0, 120.0)
    sigma_weight: float = 0.05
    gradient_weight: float = 0.03
    average: float = 0.998
    seed: int = 1
    knee: float = 0.5
    """Errors well below this many standard deviations of the noise count squared, larger ones linearly."""
    library_sha256: tuple[str, ...] = ()
    start_sha256: str = ""
    """The ONNX file whose weights the run began with, if any."""


@dataclass(frozen=True)
class Batch:
    """Patches: what the network sees, the noisy image and the noise-free one, in HU."""

    seen: Tensor
    level: Tensor
    noise: Tensor
    sigma: Tensor
    scale: Tensor


def noisy_image(library: Library, rng: np.random.Generator, how: Training) -> tuple[Tensor, Tensor, float]:
    """A patch at a random dose: (noisy, noise), each (1, h, w) in HU, and the noise of the whole body."""
    index = int(rng.integers(len(library.clean)))
    field = library.noise[index, int(rng.integers(library.noise.shape[1]))]
    wanted = float(np.exp(rng.uniform(*np.log(how.noise_hu))))
    in_library = max(float(field[::3, ::3][library.body[index, ::3, ::3]].std()), 0.1)
    factor = float(np.clip(wanted / in_library, 0.02, 4.0))
    rows, columns = field.shape
    windows = []
    for _ in range(int(rng.choice([1, how.bone_choices]))):
        top = int(rng.integers(rows // 10, rows * 9 // 10 - how.patch))
        left = int(rng.integers(columns // 10, columns * 9 // 10 - how.patch))
        windows.append((slice(top, top + how.patch), slice(left, left + how.patch)))
    window = max(windows, key=lambda place: float((library.clean[index][place][::4, ::4] > 200.0).mean()))
    clean = library.clean[index][window]
    noisy = np.round(clean + np.float32(factor) * field[window])  # stored as integers
    if rng.uniform() < 0.5:  # most scanners store nothing below -1024
        noisy, clean = np.maximum(noisy, -1024.0), np.maximum(clean, -1024.0)
    images = np.rot90(np.stack([noisy, noisy - clean]), int(rng.integers(4)), axes=(1, 2))
    if rng.uniform() < 0.5:
        images = images[:, :, ::-1]
    both = torch.from_numpy(np.ascontiguousarray(images, np.float32))
    return both[:1], both[1:], max(in_library * factor, 1.0)


def draw(library: Library, how: Training, rng: np.random.Generator) -> Batch:
    """A training batch: each patch from an image of its own."""
    patches = []
    for _ in range(how.patches):
        noisy, noise, scale = noisy_image(library, rng, how)
        patches.append((noisy, noise, torch.full((1, 1, 1), scale)))
    noisy, noise, scale = (torch.stack(column) for column in zip(*patches, strict=True))
    seen = torch.clamp(noisy, *HU_RANGE)
    level = noise_level(seen)
    sigma = torch.sqrt(box_mean(noise**2, 15) + 0.1)
    return Batch(features(seen, level), level, noise, sigma, scale)


def loss_of(network: UNet, batch: Batch, how: Training) -> tuple[Tensor, Tensor]:
    """The training loss, and the remaining noise as a fraction of the noise (mean over patches)."""
    residual, sigma = bounded_residual(network(batch.seen), batch.level)
    error = (batch.noise * (1.0 - how.kept_noise) - residual) / batch.scale
    fidelity = (torch.sqrt(error**2 + how.knee**2) - how.knee).mean() / how.knee
    steps = torch.diff(error, dim=2).abs().mean() + torch.diff(error, dim=3).abs().mean()
    estimate = torch.abs(torch.log(sigma / batch.sigma)).mean()
    left = ((batch.noise - residual) ** 2).mean((1, 2, 3)).sqrt() / (
        (batch.noise**2).mean((1, 2, 3)).sqrt() + 0.3
    )
    return fidelity + how.gradient_weight * steps + how.sigma_weight * estimate, left.mean().detach()


def load_weights(network: UNet, path: Path) -> None:
    """Take over the weights of an exported model; inputs that it does not have begin with the weight 0."""
    stored = {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(str(path)).graph.initializer}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            known = torch.from_numpy(stored[f"network.{name}"].copy())
            parameter.zero_()
            parameter[tuple(slice(length) for length in known.shape)] = known


def train(library: Library, how: Training, start: Path | None) -> UNet:
    """Train with AdamW, a cosine schedule and a running average of the weights."""
    torch.manual_seed(how.seed)
    rng = np.random.default_rng(how.seed)
    network = UNet()
    if start is not None:
        load_weights(network, start)
    averaged = copy.deepcopy(network)
    optimiser = torch.optim.AdamW(network.parameters(), how.learning_rate, weight_decay=1e-4)
    begun, recent = time.monotonic(), [0.0, 0.0]
    for step in range(how.steps):
        ramp = min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / how.steps))
        optimiser.param_groups[0]["lr"] = how.learning_rate * ramp + 1e-6
        loss, left = loss_of(network, draw(library, how, rng), how)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        decay = min(how.average, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, value in zip(averaged.parameters(), network.parameters(), strict=True):
                mean.lerp_(value, 1.0 - decay)
        recent = [recent[0] + float(loss.detach()), recent[1] + float(left)]
        if step % 100 == 99:
            seconds = time.monotonic() - begun
            sys.stdout.write(
                f"{step + 1} loss {recent[0] / 100:.4f} left {recent[1] / 100:.3f} {seconds:.0f} s\n"
            )
            sys.stdout.flush()
            recent = [0.0, 0.0]
    return averaged


def export(network: UNet, how: Training, path: Path) -> None:
    """Write the graph with its bounds as ONNX, with the metadata that says where it came from."""
    size = torch.zeros(1, 1, 64, 64)
    with warnings.catch_warnings():
        # The exporter without this notice needs a package that the project does not otherwise use.
        warnings.simplefilter("ignore", DeprecationWarning)
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", type=Path, nargs="+", required=True)
    parser.add_argument("--start", type=Path, help="an exported model to go on from")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=Training.steps)
    parser.add_argument("--learning-rate", type=float, default=Training.learning_rate)
    parser.add_argument("--seed", type=int, default=Training.seed)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    library = load(arguments.library)
    how = Training(
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
        library_sha256=tuple(_sha256(path) for path in arguments.library),
        start_sha256=_sha256(arguments.start) if arguments.start else "",
    )
    network = train(library, how, arguments.start)
    export(network, how, arguments.out)
    count = sum(parameter.numel() for parameter in network.parameters())
    sys.stdout.write(f"{arguments.out}: {count} parameters, {arguments.out.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
