"""The UNet of `voc`."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d


class UNet(nn.Module):
    """(B, 3, H, W) → (B, classes, H, W), for any H and W. Ronneberger et al. 2015, with batch norm and 'same' padding."""

    def __init__(self, classes: int, width: int, depth: int = 4) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.contract = nn.ModuleList(_double(a, b) for a, b in pairwise([3, *widths]))
        self.upsample = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.expand = nn.ModuleList(_double(2 * a, a) for a in widths[:-1])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level, block in enumerate(self.contract):
            x = block(max_pool2d(x, 2, ceil_mode=True) if level else x)
            skips.append(x)
        for skip, upsample, expand in zip(
            *(reversed(part) for part in (skips[:-1], self.upsample, self.expand)), strict=True
        ):
            # Pooling rounds odd sizes up, so a row and a column may be too many.
            x = upsample(x)[..., : skip.shape[-2], : skip.shape[-1]]
            x = expand(torch.cat([skip, x], dim=1))
        return self.head(x)


def _double(a: int, b: int) -> nn.Sequential:
    def convolve(a: int) -> list[nn.Module]:
        return [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]

    return nn.Sequential(*convolve(a), *convolve(b))
