"""The UNet of `voc`."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d


class UNet(nn.Module):
    """(B, 3, H, W) → (B, classes, H, W), for any H and W.

    Ronneberger et al. 2015, with batch norm and 'same' padding.
    """

    def __init__(self, classes: int, width: int, depth: int = 4) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.contract, self.upsample, self.expand = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for narrow, wide in pairwise([3, *widths]):
            self.contract.append(_double(narrow, wide))
        for narrow, wide in pairwise(widths):
            self.upsample.append(nn.ConvTranspose2d(wide, narrow, 2, stride=2))
        for narrow in widths[:-1]:
            self.expand.append(_double(2 * narrow, narrow))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level, block in enumerate(self.contract):
            if level:
                x = max_pool2d(x, 2, ceil_mode=True)
            x = block(x)
            skips.append(x)
        for level in reversed(range(len(self.expand))):
            skip = skips[level]
            x = self.upsample[level](x)
            x = x[..., : skip.shape[-2], : skip.shape[-1]]  # pooling rounds odd sizes up
            x = self.expand[level](torch.cat([skip, x], dim=1))
        return self.head(x)


def _double(narrow: int, wide: int) -> nn.Sequential:
    """Two convolutions, each with batch norm and relu."""
    layers: list[nn.Module] = []
    for channels in (narrow, wide):
        layers.append(nn.Conv2d(channels, wide, 3, padding=1, bias=False))
        layers.append(nn.BatchNorm2d(wide))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
