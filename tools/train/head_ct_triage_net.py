"""The network of `head-ct-triage`, and the graph that is exported: channels, network, calibration, heat.

Everything after the alignment of the head happens in here, with operations that TensorRT knows. The heat
map is the evidence that the probability is pooled from, not an explanation made afterwards.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from appliance.models.tasks.head_alignment import GRID

CHANNELS = 6
_COARSE = 4
"""The widest blur works on blocks of this many pixels."""
_SHARPNESS = 4.0
"""How near pooling is to a maximum: the logit then hardly grows with the size of a bleed."""


def gaussian(sigma: float) -> Tensor:
    """A one-dimensional Gaussian kernel, three sigma to each side."""
    reach = max(1, math.ceil(3 * sigma))
    position = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (position / sigma) ** 2)
    return kernel / kernel.sum()


class Channels(nn.Module):
    """From an aligned slice in HU to what the network sees: six channels of (GRID, GRID)."""

    def __init__(self) -> None:
        super().__init__()
        for name, sigma in (("fine", 1.0), ("medium", 1.5), ("broad", 9.0 / _COARSE)):
            self.register_buffer(name, gaussian(sigma))
        self.register_buffer("exchange", torch.flip(torch.eye(GRID), [1]))

    def _blur(self, image: Tensor, name: str) -> Tensor:
        kernel: Tensor = self.get_buffer(name)
        reach = int(kernel.shape[0]) // 2
        down = functional.conv2d(image, kernel.view(1, 1, -1, 1), padding=(reach, 0))
        return functional.conv2d(down, kernel.view(1, 1, 1, -1), padding=(0, reach))

    def _surroundings(self, image: Tensor) -> Tensor:
        coarse = self._blur(functional.avg_pool2d(image, _COARSE), "broad")
        return functional.interpolate(coarse, scale_factor=float(_COARSE), mode="bilinear")

    def forward(self, hu: Tensor, hull: Tensor, levels: Tensor) -> Tensor:
        """`hu` and `hull` (b, 1, h, w), `levels` (b, 4): low, high, median, spread in HU."""
        low, high, median, spread = (levels[:, index].view(-1, 1, 1, 1) for index in range(4))
        grey = (hu - low) / torch.clamp(high - low, min=1.0)
        above = torch.clamp((hu - median) / torch.clamp(high - median, min=12.0), -2.0, 1.3) * hull
        smooth = torch.clamp((self._blur(hu, "fine") - median) / (spread + 3.0) / 5.0, -2.0, 3.0) * hull
        calm = self._blur(torch.clamp(above, -1.0, 1.1), "medium")
        mirror = 1.5 * (calm - torch.matmul(calm, self.get_buffer("exchange")))
        bounded = torch.clamp(above, -0.8, 1.0)
        around = self._surroundings(bounded * hull) / (self._surroundings(hull) + 1e-3)
        return torch.cat([grey, above, smooth, mirror, (bounded - around) * hull, hull], dim=1)


def _convolution(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Network(nn.Module):
    """A small encoder and decoder that gives evidence for blood at half the resolution of the grid."""

    def __init__(self) -> None:
        super().__init__()
        self.at_half = nn.Sequential(_convolution(CHANNELS, 16, 2), _convolution(16, 16))
        self.at_quarter = nn.Sequential(_convolution(16, 32, 2), _convolution(32, 32))
        self.at_eighth = nn.Sequential(
            _convolution(32, 48, 2), _convolution(48, 48, 1, 2), _convolution(48, 48, 1, 3)
        )
        self.up_quarter = _convolution(80, 32)
        self.narrow = nn.Conv2d(32, 16, 1)
        self.up_half = _convolution(32, 16)
        self.evidence = nn.Conv2d(16, 1, 1)
        nn.init.constant_(self.evidence.bias, -3.0)  # type: ignore[arg-type]
        self.readout = nn.Parameter(torch.tensor([1.0, 0.0]))

    def forward(self, channels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Evidence (b, 1, h/2, w/2), logit (b, 1) and pooled deep features (b, 48)."""
        half = self.at_half(channels)
        quarter = self.at_quarter(half)
        deep = self.at_eighth(quarter)
        wide = functional.interpolate(deep, scale_factor=2.0, mode="bilinear")
        quarter = self.up_quarter(torch.cat([wide, quarter], dim=1))
        wide = functional.interpolate(self.narrow(quarter), scale_factor=2.0, mode="bilinear")
        evidence = self.evidence(self.up_half(torch.cat([wide, half], dim=1)))
        calm = functional.avg_pool2d(evidence, 3, 1, 1).flatten(1)
        top = calm.amax(dim=1, keepdim=True)
        pooled = top + torch.log(torch.exp(_SHARPNESS * (calm - top)).sum(dim=1, keepdim=True)) / _SHARPNESS
        return evidence, self.readout[0] * pooled + self.readout[1], deep.mean(dim=(2, 3))


class Ensemble(nn.Module):
    """Several networks as one: the means of evidence and logit, and the features of all side by side."""

    def __init__(self, members: list[Network]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, channels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Evidence (b, 1, h/2, w/2), logit (b, 1) and pooled deep features (b, 48 for each member)."""
        evidence, logit, features = zip(*(member(channels) for member in self.members), strict=True)
        share = 1.0 / len(self.members)
        return (
            share * sum(evidence[1:], evidence[0]),
            share * sum(logit[1:], logit[0]),
            torch.cat(features, 1),
        )


class Triage(nn.Module):
    """The exported graph: (hu, hull, levels) to (probability, heat, distance).

    `slope` and `shift` calibrate the logit; `centre` and `precision` describe the features of the
    calibration slices, from which `distance` is the Mahalanobis distance per degree of freedom.
    """

    def __init__(
        self,
        channels: Channels,
        network: Ensemble,
        slope: float,
        shift: float,
        centre: Tensor,
        precision: Tensor,
    ) -> None:
        super().__init__()
        self.channels, self.network = channels, network
        self.register_buffer("calibration", torch.tensor([slope, shift]))
        self.register_buffer("centre", centre)
        self.register_buffer("precision", precision)

    def forward(self, hu: Tensor, hull: Tensor, levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class; `heat` is (b, 1, GRID, GRID) in 0..1."""
        evidence, logit, features = self.network(self.channels(hu, hull, levels))
        slope, shift = self.get_buffer("calibration")[0], self.get_buffer("calibration")[1]
        heat = functional.interpolate(torch.sigmoid(evidence), scale_factor=2.0, mode="bilinear") * hull
        away = features - self.get_buffer("centre")
        squared = (torch.matmul(away, self.get_buffer("precision")) * away).mean(dim=1, keepdim=True)
        return torch.sigmoid(slope * logit + shift), heat, torch.sqrt(squared)
