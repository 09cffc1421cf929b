"""The graph of `ct-denoise`: noise estimate, U-Net, and the bounds on what it may change.

Everything from HU in to HU out happens inside the graph, so that no runtime can apply the network
without its bounds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

HU_RANGE = (-1024.0, 3071.0)
BOUND_SIGMAS = 3.0
"""The residual never exceeds this many local noise standard deviations."""
DC_WINDOW = 31
"""The mean of the residual over this many pixels is removed, so that local mean HU is preserved."""
NEIGHBOURS = tuple(
    (row, column)
    for row in range(-6, 7)
    for column in range(-6, 7)
    if 0 < max(abs(row), abs(column)) <= 3 or (row % 2 == column % 2 == 0 and (row, column) != (0, 0))
)
"""The pixels, relative to a pixel, that its non-local mean is made of: all near ones, every other far one."""
NON_LOCAL_WEIGHTS = ((1.2, 1.0), (2.0, 0.25))
"""Start and rate of the cautious and of the bold weights."""
GATE_HU = (0.5, 2.0)
"""Local noise at which the correction starts and at which it is complete."""


def box_mean(image: Tensor, width: int) -> Tensor:
    """The mean over a square window of odd `width`; windows are cut at the border. (b, 1, h, w)."""
    half = width // 2
    rows = functional.avg_pool2d(image, (width, 1), 1, (half, 0), count_include_pad=False)
    return functional.avg_pool2d(rows, (1, width), 1, (0, half), count_include_pad=False)


def noise_level(image: Tensor) -> Tensor:
    """A robust first guess of the slice's noise in HU: (b, 1, h, w) -> (b, 1, 1, 1).

    The mean magnitude of fine detail inside the object, trimmed so that edges do not count.
    """
    smooth = box_mean(image, 5)
    detail = torch.abs(image - smooth)
    counted = ((smooth > -950.0) & (smooth < 2000.0)).to(image.dtype)
    level = _mean_where(detail, counted)
    for _ in range(8):
        level = _mean_where(detail, counted * (detail < 2.5 * level).to(image.dtype))
    return torch.clamp(1.6 * level, 0.5, 300.0)


def _mean_where(values: Tensor, weights: Tensor) -> Tensor:
    total = torch.sum(values * weights, dim=(1, 2, 3), keepdim=True)
    return total / (torch.sum(weights, dim=(1, 2, 3), keepdim=True) + 1.0)


def non_local_residuals(image: Tensor, level: Tensor) -> list[Tensor]:
    """For each of NON_LOCAL_WEIGHTS: (residual, share of neighbours that count), each (b, 1, h, w).

    The residual is the image minus its non-local mean (Buades, Coll, Morel 2005) in units of `level`.
    The weight of a neighbour is exp(-rate * (d - start)), at most 1, where d is the mean squared
    difference of patches of 5 x 5. Far neighbours are sparse: in the correlated noise of CT, every
    second one says as much.
    """
    reach = max(row for row, _ in NEIGHBOURS)
    scaled = image / level
    padded = functional.pad(scaled, (reach, reach, reach, reach), mode="reflect")
    shifted = [
        padded[:, :, reach + row : _end(row - reach), reach + column : _end(column - reach)]
        for row, column in NEIGHBOURS
    ]
    difference = scaled - torch.cat(shifted, dim=1)
    count = len(shifted)
    distance = functional.avg_pool2d(difference * difference, 5, 1, 2, count_include_pad=False)
    total = torch.ones(1, count, 1, 1)  # a convolution sums channels faster than a reduction does
    found = []
    for start, rate in NON_LOCAL_WEIGHTS:
        weight = torch.exp(torch.clamp(rate * start - rate * distance, max=0.0))
        norm = functional.conv2d(weight, total) + 1.0
        found += [functional.conv2d(weight * difference, total) / norm, norm / (count + 1)]
    return found


def _end(offset: int) -> int | None:
    return offset if offset < 0 else None


FEATURES = 11


def features(image: Tensor, level: Tensor) -> Tensor:
    """What the U-Net sees: detail in units of the noise, and two windows in HU. (b, FEATURES, h, w).

    Detail comes in several ranges: a narrow one resolves the noise on flat tissue, wide ones still
    show it beside bone, where the narrow one saturates.
    """
    local = box_mean(image, 9)
    wide = box_mean(image, 33)
    detail = (image - local) / level
    cautious, cautious_share, bold, bold_share = non_local_residuals(image, level)
    return torch.cat(
        [
            torch.clamp(detail, -6.0, 6.0) / 3.0,
            torch.clamp(detail, -60.0, 60.0) / 12.0,
            torch.clamp((image - box_mean(image, 3)) / level, -6.0, 6.0) / 2.0,
            torch.clamp((local - wide) / level, -6.0, 6.0) / 3.0,
            torch.clamp(cautious, -6.0, 6.0),
            torch.clamp(bold, -6.0, 6.0),
            torch.clamp((image - 40.0) / 200.0, -1.5, 1.5),
            torch.clamp(image / 1000.0, -1.1, 2.0),
            (torch.log(level) / 4.0).expand_as(image),
            cautious_share,
            bold_share,
        ],
        dim=1,
    )


class Block(nn.Module):
    """Two convolutions beside an identity path."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, channels, 3, padding=1)
        self.outer = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape in and out."""
        result: Tensor = x + self.outer(torch.relu(self.inner(x)))
        return result


class UNet(nn.Module):
    """Three scales of 16, 32 and 64 channels; additive skips; pixel-shuffle on the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(FEATURES, 16, 3, padding=1)
        self.first = Block(16)
        self.down_1 = nn.Conv2d(16, 32, 2, 2)
        self.second = Block(32)
        self.down_2 = nn.Conv2d(32, 64, 2, 2)
        self.third = Block(64)
        self.up_2 = nn.Conv2d(64, 128, 1)
        self.fourth = Block(32)
        self.up_1 = nn.Conv2d(32, 64, 1)
        self.fifth = Block(16)
        self.leave = nn.Conv2d(16 + FEATURES, 2, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            if isinstance(module, Block):
                module.outer.weight.data.mul_(0.2)
        nn.init.zeros_(self.leave.weight)

    def forward(self, seen: Tensor) -> Tensor:
        """(b, FEATURES, h, w) -> (b, 2, h, w): the noise in units of the level, log of sigma / level."""
        fine = self.first(torch.relu(self.enter(seen)))
        middle = self.second(torch.relu(self.down_1(fine)))
        coarse = self.third(torch.relu(self.down_2(middle)))
        middle = self.fourth(functional.pixel_shuffle(self.up_2(coarse), 2) + middle)
        fine = self.fifth(functional.pixel_shuffle(self.up_1(middle), 2) + fine)
        result: Tensor = self.leave(torch.cat([fine, seen], dim=1))
        return result


def bounded_residual(answer: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """The U-Net's answer as (residual in HU, local noise in HU), bounded and free of a local mean."""
    residual = level * answer[:, :1]
    sigma = level * torch.exp(torch.clamp(answer[:, 1:], -4.0, 1.5))
    bound = BOUND_SIGMAS * sigma.detach()
    residual = residual - box_mean(residual, DC_WINDOW)
    return torch.minimum(torch.maximum(residual, -bound), bound), sigma


class Denoiser(nn.Module):
    """The exported graph: `x` (b, 1, h, w) in HU and `strength` (b, 1) -> `y`, `sigma_map` in HU."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
        """y = x - strength * gate(noise) * bounded residual; nothing changes where there is no noise."""
        seen = torch.clamp(x, *HU_RANGE)
        level = noise_level(seen)
        residual, sigma = bounded_residual(self.network(features(seen, level)), level)
        low, high = GATE_HU
        gate = torch.clamp((box_mean(sigma, DC_WINDOW) - low) / (high - low), 0.0, 1.0)
        amount = torch.clamp(strength, 0.0, 1.0)[:, :, None, None]
        return x - amount * gate * residual, sigma
