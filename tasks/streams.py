"""Splits of text as streams of tokens, and windows of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipbench.tasks.encoders import Encoder

IGNORED = -100
"""The target of a place that is not predicted."""


class Windows(NamedTuple):
    """What `forward` takes: N windows of so many tokens, and what is to be predicted at each place."""

    inputs: Tensor
    """(N, length)"""

    targets: Tensor
    """The next token, or IGNORED. (N, length)"""

    amounts: Tensor
    """How many tokens are predicted in each, and how many bytes they stand for. (N, 2)"""


class Stream(NamedTuple):
    """A split: a boundary before each document, and its tokens. The boundary is not predicted."""

    tokens: NDArray
    """(n,)"""

    sizes: NDArray
    """The bytes that each stands for; 0 of a boundary. (n,)"""

    boundary: int
    documents: int
    bytes: int

    @property
    def predicted(self) -> int:
        """Tokens."""
        return len(self.tokens) - self.documents

    def windows(self, starts: NDArray[np.int64], length: int, known: NDArray[np.int64] | int = 0) -> Windows:
        """From each of `starts`; the first `known` targets of each are not predicted again. Places behind the
        end hold the boundary.
        """
        places = starts[:, None] + np.arange(length + 1)
        inside = places < len(self.tokens)
        places = places.clip(max=len(self.tokens) - 1)
        tokens = np.where(inside, self.tokens[places], self.boundary).astype(np.int64)
        targets, sizes = tokens[:, 1:], self.sizes[places[:, 1:]]
        new = np.arange(length) >= np.broadcast_to(known, len(starts))[:, None]
        counts = new & (targets != self.boundary)
        amounts = np.stack([counts.sum(1), np.where(counts, sizes, 0).sum(1)], 1)
        found = (tokens[:, :-1].copy(), np.where(counts, targets, IGNORED), amounts.astype(np.int64))
        return Windows(*map(torch.from_numpy, found))


def stream_of(documents: Sequence[bytes], encoder: Encoder) -> Stream:
    """Of a few documents, in memory."""
    tokens, sizes = [], []
    for ids, counts in encoder(documents):
        tokens.append(np.concatenate([[encoder.boundary], ids]))
        sizes.append(np.concatenate([[0], counts]))
    of_tokens, of_sizes = encoder.types
    return Stream(
        np.concatenate(tokens).astype(of_tokens),
        np.concatenate(sizes).astype(of_sizes),
        encoder.boundary,
        len(documents),
        sum(map(len, documents)),
    )
