"""Train `head-ct-triage` on simulated slices, calibrate it on others, and write its ONNX file.

    python -m tools.train.head_ct_triage --out build/model.onnx
    python -m tools.train.head_ct_triage --members build/one.npz build/other.npz --out build/model.onnx

A run that was stopped goes on with `--resume`, and ends as it would have. Its checkpoints, or those of
several runs, are joined to one model with `--members`. Prints the operating point for `model.yaml`.
Neither the held-out phantoms (`tools.simulate.head_series`) nor any real image takes part.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor
from torch.nn import functional

from appliance.models.tasks.triage import inputs_of
from tools.train import checkpoint
from tools.train.head_ct_triage_net import Channels, Ensemble, Network, Triage
from tools.train.head_ct_triage_run import Run, batch_of
from tools.train.head_ct_triage_samples import Operating, Source, Training

MODEL_ID, VERSION = "head-ct-triage", "0.2.0"
OPSET = 17
INTENDED_USE = (
    "Points out head CT series that may show a large or moderate parenchymal or ventricular haemorrhage. "
    "Research only, not for diagnosis."
)


def train(how: Training, file: Path, every: int, until: int, *, resume: bool) -> None:
    """Train up to a step, noting in `file` every so many where the run stands; `resume` goes on from there.

    Raises:
        FileNotFoundError, ValueError: `resume`, and the file is not there or is of another configuration.
    """
    run = Run(how)
    if resume:
        run.restore(checkpoint.read(file, asdict(how)))
        _say(f"going on after step {run.step}")
    begun, losses = time.monotonic(), []
    while run.step < until:
        losses.append(run.advance())
        if run.step % every == 0 or run.step == until:
            checkpoint.write(file, run.checkpoint())
            seconds, mean = time.monotonic() - begun, sum(losses) / len(losses)
            _say(checkpoint.progress_line(run.step, until, len(losses), seconds, mean))
            begun, losses = time.monotonic(), []


@dataclass(frozen=True)
class Member:
    """A network of the ensemble: the running average of the weights of a run at a step."""

    how: Training
    step: int
    network: Network


def member(file: Path) -> Member:
    """The member that a checkpoint holds."""
    saved = checkpoint.read(file)
    network = Network().eval()
    network.load_state_dict(
        {name: torch.from_numpy(values) for name, values in saved.part("averaged.").items()}
    )
    return Member(Training(**saved.configuration), saved.step, network)


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


def calibrate(channels: Channels, network: Ensemble, how: Training, operating: Operating) -> Calibration:
    """Fit slope and shift (Platt), the feature statistics and the threshold on slices of another seed."""
    source = Source(how, how.seed + 1_000_003)
    logits, features, labels, certain = [], [], [], []
    with torch.no_grad():
        for _ in range(operating.slices // how.batch):
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
    threshold = float(torch.quantile(probability[label == 0], operating.specificity))
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


def export(
    graph: Triage, members: list[Member], operating: Operating, calibration: Calibration, path: Path
) -> None:
    """Write the graph as ONNX, with the metadata that says where it came from."""
    head = inputs_of([Source(members[0].how, 0).sample().head])
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
    runs = [{"training": asdict(part.how), "step": part.step} for part in members]
    configuration = json.dumps({"members": runs, "operating": asdict(operating)}, sort_keys=True)
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


def write(members: list[Member], operating: Operating, path: Path) -> None:
    """Calibrate the members as one model, write it, and print what `model.yaml` needs."""
    channels, network = Channels().eval(), Ensemble([part.network for part in members]).eval()
    calibration = calibrate(channels, network, members[0].how, operating)
    graph = Triage(
        channels, network, calibration.slope, calibration.shift, calibration.centre, calibration.precision
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    export(graph, members, operating, calibration, path)
    count = sum(parameter.numel() for parameter in network.parameters())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    _say(f"{path}: {count} parameters, {path.stat().st_size} bytes")
    _say(f"sha256: {digest}")
    _say(f"threshold: {calibration.threshold:.4f}  # {operating.specificity:.0%} specificity and")
    _say(f"#   {calibration.sensitivity:.1%} sensitivity on simulated slices")
    _say(f"out_of_distribution: {calibration.out_of_distribution:.3f}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="write the ONNX file")
    parser.add_argument("--members", type=Path, nargs="+", help="checkpoints to join instead of training")
    parser.add_argument("--steps", type=int, default=Training.steps)
    parser.add_argument("--until", type=int, help="stop at this step; the schedule stays that of --steps")
    parser.add_argument("--seed", type=int, default=Training.seed)
    parser.add_argument("--specificity", type=float, default=Operating.specificity)
    parser.add_argument("--checkpoint", type=Path, default=Path("build/head-ct-triage-training.npz"))
    parser.add_argument("--every", type=int, default=50, help="steps from one checkpoint to the next")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files: list[Path] = arguments.members or [arguments.checkpoint]
    if not arguments.members:
        how = Training(steps=arguments.steps, seed=arguments.seed)
        train(
            how, arguments.checkpoint, arguments.every, arguments.until or how.steps, resume=arguments.resume
        )
    if arguments.out:
        write([member(file) for file in files], Operating(specificity=arguments.specificity), arguments.out)


if __name__ == "__main__":
    main()
