"""The graph of `ct-denoise`: noise estimate, U-Net, and the bounds on what it may change.

Everything from HU in to HU out happens inside the graph, so that no runtime can apply the network
without its bounds. Most of it works on blocks of 2 x 2 pixels, held as 4 channels of a grid of half the
size: the cost of a slice lies in the number of places, not in what is done at each.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

HU_RANGE = (-1024.0, 3071.0)
BOUND_SIGMAS = 3.0
"""The residual never exceeds this many local noise standard deviations."""
DC_WINDOW = 15
"""The mean of the residual over this many blocks is removed, so that local mean HU is preserved."""
REACH = 6
NEIGHBOURS = tuple(
    (row, column)
    for row in range(-REACH, REACH + 1)
    for column in range(-REACH, REACH + 1)
    if 0 < max(abs(row), abs(column)) <= 3 or (row % 2 == column % 2 == 0 and (row, column) != (0, 0))
)
"""The pixels, relative to a pixel, that its non-local mean is made of: all near ones, every other far one."""
NON_LOCAL_START, NON_LOCAL_RATE = 1.75, 0.25
"""Start and rate of the bold weights; the cautious ones are their fourth power."""
GATE_HU = (0.25, 1.0)
"""Local noise at which the correction starts and at which it is complete."""
FEATURES = 24
TRUST_HU = (5.0, 15.0)
MOST_TRUST = 0.7
"""The learned correction counts for nothing below the first level of noise, for this much above the second.

Chosen on the development family: there, less of it was better than all of it, and none at little noise.
"""


def to_blocks(image: Tensor) -> Tensor:
    """Blocks of 2 x 2 pixels as channels, row by row: (b, 1, h, w) -> (b, 4, h / 2, w / 2)."""
    return torch.cat([image[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)], dim=1)


def to_pixels(blocks: Tensor) -> Tensor:
    """The inverse of `to_blocks`: (b, 4, h, w) -> (b, 1, 2 * h, 2 * w)."""
    return functional.pixel_shuffle(blocks, 2)


def box_mean(image: Tensor, width: int) -> Tensor:
    """The mean over a square window of odd `width`, the image being mirrored at its border. (b, c, h, w)."""
    padded = functional.pad(image, (width // 2,) * 4, mode="reflect")
    return _running_sum(_running_sum(padded, width, 2), width, 3) / width**2


def _running_sum(image: Tensor, width: int, dim: int) -> Tensor:
    """Sums of `width` successive values; by doubling, because pooling costs `width` additions for each."""
    if width <= 3:
        return functools.reduce(
            torch.add, (_inner(image, first, width - 1 - first, dim) for first in range(width))
        )
    half = width // 2
    sums = _running_sum(image, half, dim)
    total = _inner(sums, 0, width - half, dim) + _inner(sums, half, width - 2 * half, dim)
    return total if width % 2 == 0 else total + _inner(image, width - 1, 0, dim)


def _inner(image: Tensor, first: int, last: int, dim: int) -> Tensor:
    """The image without its `first` and its `last` rows (`dim` 2) or columns (`dim` 3)."""
    kept = slice(first, -last if last else None)
    return image[:, :, kept] if dim == 2 else image[:, :, :, kept]


def detail_of(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks minus the mean of 10 x 10 pixels around them, and that mean: (b, 4, h, w), (b, 1, h, w)."""
    smooth = box_mean(torch.mean(blocks, dim=1, keepdim=True), 5)
    return blocks - smooth, smooth


def noise_level(image: Tensor) -> Tensor:
    """A robust first guess of the slice's noise in HU: (b, 1, h, w) -> (b, 1, 1, 1).

    The root mean square of fine detail in windows of 6 x 6 pixels, averaged over those inside the
    object that have no more of it than the others, so that edges and fine structure do not count.
    """
    detail, smooth = detail_of(to_blocks(image))
    local = torch.sqrt(box_mean(torch.mean(detail * detail, dim=1, keepdim=True), 3))
    counted = ((smooth > -950.0) & (smooth < 2000.0)).to(image.dtype)
    level = _mean_where(local, counted)
    for _ in range(12):
        level = _mean_where(local, counted * (local < 1.3 * level).to(image.dtype))
    return torch.clamp(level, 0.5, 300.0)


def _mean_where(values: Tensor, weights: Tensor) -> Tensor:
    total = torch.sum(values * weights, dim=(1, 2, 3), keepdim=True)
    return total / (torch.sum(weights, dim=(1, 2, 3), keepdim=True) + 1.0)


def non_local_residuals(image: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(cautious residual, share, bold residual, share) for blocks; shares are (b, 1, h / 2, w / 2).

    A residual is a block minus its non-local mean (Buades, Coll, Morel 2005) in units of `level`, the
    share that of the neighbours that count. The weight of a neighbour is exp(-rate * (d - start)), at
    most 1, where d is the mean squared difference of patches of 6 x 6 pixels: one for a whole block.
    Far neighbours are sparse: in the correlated noise of CT, every second one says as much.
    """
    margin = REACH // 2 + 1  # blocks: a neighbour and the border of its patch
    unit = math.sqrt(NON_LOCAL_RATE) / 6.0  # the sum over a patch is then rate * d
    pad = (2 * margin, 2 * margin + 1)
    padded = functional.pad(image * (unit / level), pad + pad, mode="reflect")
    starts = {
        (row, column): to_blocks(_inner(_inner(padded, row, 1 - row, 2), column, 1 - column, 3))
        for row in (0, 1)
        for column in (0, 1)
    }
    wide, own = (_moved(starts[0, 0], 0, 0, around) for around in (margin - 1, margin))
    bold, bold_sum, cautious, cautious_sum = 1.0, own, 1.0, own  # a block counts fully for itself
    for row, column in NEIGHBOURS:
        (rows, row_start), (columns, column_start) = divmod(row, 2), divmod(column, 2)
        start = starts[row_start, column_start]
        difference = wide - _moved(start, rows, columns, margin - 1)
        squared = difference * difference
        of_block = (squared[:, 0:1] + squared[:, 1:2]) + (squared[:, 2:3] + squared[:, 3:4])
        distance = _running_sum(_running_sum(of_block, 3, 2), 3, 3)
        weight = torch.exp(torch.clamp(NON_LOCAL_RATE * NON_LOCAL_START - distance, max=0.0))
        neighbour = _moved(start, rows, columns, margin)
        bold, bold_sum = bold + weight, bold_sum + weight * neighbour
        weight = weight * weight
        weight = weight * weight
        cautious, cautious_sum = cautious + weight, cautious_sum + weight * neighbour
    count = len(NEIGHBOURS) + 1
    return (
        (own - cautious_sum / cautious) / unit,
        cautious / count,
        (own - bold_sum / bold) / unit,
        bold / count,
    )


def _moved(blocks: Tensor, rows: int, columns: int, cut: int) -> Tensor:
    """The blocks `rows` further down and `columns` further right, without `cut` of them on each side."""
    return _inner(_inner(blocks, cut + rows, cut - rows, 2), cut + columns, cut - columns, 3)


def features(image: Tensor, level: Tensor) -> Tensor:
    """What the U-Net sees: detail in units of the noise, and HU. (b, FEATURES, h / 2, w / 2).

    Detail comes in two ranges: a narrow one resolves the noise on flat tissue, a wide one still shows it
    beside bone, where the narrow one saturates. The last 10 channels are those of `non_local_residuals`.
    """
    blocks = to_blocks(image)
    mean = torch.mean(blocks, dim=1, keepdim=True)
    detail = detail_of(blocks)[0] / level
    cautious, cautious_share, bold, bold_share = non_local_residuals(image, level)
    return torch.cat(
        [
            torch.clamp(detail, -6.0, 6.0) / 3.0,
            torch.clamp(detail, -60.0, 60.0) / 12.0,
            torch.clamp((blocks - 40.0) / 200.0, -1.5, 1.5),
            torch.clamp(mean / 1000.0, -1.1, 2.0),
            (torch.log(level) / 4.0).expand_as(mean),
            cautious_share,
            bold_share,
            torch.clamp(cautious, -6.0, 6.0),
            torch.clamp(bold, -6.0, 6.0),
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
    """Three scales of 32, 48 and 96 channels, the first being that of the blocks; additive skips."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(FEATURES, 32, 3, padding=1)
        self.first = Block(32)
        self.down_1 = nn.Conv2d(32, 48, 2, 2)
        self.second = Block(48)
        self.down_2 = nn.Conv2d(48, 96, 3, 2, padding=1)
        self.third = Block(96)
        self.up_2 = nn.Conv2d(96, 192, 1)
        self.fourth = Block(48)
        self.up_1 = nn.Conv2d(48, 128, 1)
        self.fifth = Block(32)
        self.leave = nn.Conv2d(32 + FEATURES, 7, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            if isinstance(module, Block):
                module.outer.weight.data.mul_(0.2)
        nn.init.zeros_(self.leave.weight)

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`features` -> mixture, correction, and the log of sigma / level, for each block.

        The noise, in units of the level, is a mixture of the two non-local residuals and a correction.
        """
        fine = self.first(torch.relu(self.enter(seen)))
        middle = self.second(torch.relu(self.down_1(fine)))
        coarse = self.third(torch.relu(self.down_2(middle)))
        risen = functional.pixel_shuffle(self.up_2(coarse), 2)
        middle = self.fourth(risen[:, :, : middle.shape[2], : middle.shape[3]] + middle)
        fine = self.fifth(functional.pixel_shuffle(self.up_1(middle), 2) + fine)
        answer = self.leave(torch.cat([fine, seen], dim=1))
        cautious, bold = torch.sigmoid(answer[:, 5:6]), torch.sigmoid(answer[:, 6:7])
        mixture = cautious * seen[:, 16:20] + bold * seen[:, 20:24]
        return mixture, answer[:, 0:4], answer[:, 4:5]


def bounded_residual(noise: Tensor, log_sigma: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """The noise as (residual, local noise) of the blocks in HU, bounded and free of a local mean."""
    residual = level * noise
    sigma = level * torch.exp(torch.clamp(log_sigma, -4.0, 1.5))
    bound = BOUND_SIGMAS * sigma.detach()
    residual = residual - box_mean(torch.mean(residual, dim=1, keepdim=True), DC_WINDOW)
    return torch.minimum(torch.maximum(residual, -bound), bound), sigma


def trust(level: Tensor) -> Tensor:
    """How much of the learned correction counts at a noise of `level` HU."""
    low, high = (math.log(bound) for bound in TRUST_HU)
    return MOST_TRUST * torch.clamp((torch.log(level) - low) / (high - low), 0.0, 1.0)


class Denoiser(nn.Module):
    """The exported graph: `x` (b, 1, h, w) in HU and `strength` (b, 1) -> `y`, `sigma_map` in HU."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
        """y = x - strength * gate(noise) * bounded residual; nothing changes where there is no noise."""
        seen = torch.clamp(x, *HU_RANGE)
        level = noise_level(seen)
        mixture, correction, log_sigma = self.network(features(seen, level))
        residual, sigma = bounded_residual(mixture + trust(level) * correction, log_sigma, level)
        low, high = GATE_HU
        gate = torch.clamp((box_mean(sigma, DC_WINDOW) - low) / (high - low), 0.0, 1.0)
        amount = torch.clamp(strength, 0.0, 1.0)[:, :, None, None]
        return x - amount * to_pixels(gate * residual), to_pixels(torch.cat([sigma] * 4, dim=1))
