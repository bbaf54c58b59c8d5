"""In which order examples come, and which are held out."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def shuffled(n: int, batch_size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Index batches without end: a fresh permutation of range(n) every epoch, the incomplete last batch
    dropped. (batch_size,)
    """
    size = min(batch_size, n)
    while True:
        order = torch.randperm(n, generator=rng)
        for start in range(0, n - size + 1, size):
            yield order[start : start + size]


def holdout(n: int, share: float = 0.1) -> tuple[Tensor, Tensor]:
    """(remaining, held out): the same random `share` of range(n) on every machine, whatever the run's seed.
    Both sorted.
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed(20060421))
    cut = max(1, round(n * share))
    return order[cut:].sort().values, order[:cut].sort().values
