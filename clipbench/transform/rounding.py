"""Weights on a uniform grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from clipbench.transform.transform import Source, Transform

MOST_BITS = 16
"""float32 has 24 digits: beyond 16 the grid's own arithmetic would be rounded."""


@dataclass(frozen=True)
class Round(Transform):
    """Every matrix and kernel rounded to a uniform grid of 2^bits values a row (round to nearest).

    A row w, one output's weights, lies between lo = min(w, 0) and hi = max(w, 0). With the step
    s = (hi − lo)/(2^bits − 1) and the zero point z = round(−lo/s):

        w ← s · (clamp(round(w/s) + z, 0, 2^bits − 1) − z)

    so that 0 stays 0 and no weight moves by more than s. Vectors (biases, the weights of normalisation) and
    buffers stay as they are. Halves go to the even neighbour, as in torch. Source: the affine quantizer of
    Jacob et al., https://arxiv.org/abs/1712.05877, at one scale and zero point for each row.
    """

    place: ClassVar[str] = "weight"

    bits: int = 8

    def __post_init__(self) -> None:
        is_whole = isinstance(self.bits, int) and not isinstance(self.bits, bool)
        if not is_whole or not 1 <= self.bits <= MOST_BITS:
            raise ValueError(f"bits must be a whole number from 1 to {MOST_BITS}, got {self.bits!r}.")

    @torch.no_grad()
    def apply(self, model: nn.Module, source: Source) -> Iterator[str]:
        """The model's weights, rounded in place. One condition."""
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.copy_(rounded(weight, self.bits))
        yield ""


def rounded(weight: Tensor, bits: int) -> Tensor:
    """`weight` on the grid of `Round`, its first dimension the rows; in its own dtype. Same shape.

    A row of zeros stays; one that is not finite becomes NaN.
    """
    rows = weight.detach().flatten(1).float()
    low = rows.amin(1, keepdim=True).clamp(max=0)
    high = rows.amax(1, keepdim=True).clamp(min=0)
    most = 2**bits - 1
    step = (high - low) / most
    step = torch.where(step == 0, 1.0, step)
    zero = torch.round(-low / step)
    levels = torch.clamp(torch.round(rows / step) + zero, 0, most)
    return ((levels - zero) * step).reshape(weight.shape).to(weight.dtype)
