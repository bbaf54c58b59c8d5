"""An n-gram, the baseline of `lm`: how well the last n - 1 tokens tell the next."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]


class Counts(NamedTuple):
    """Of the strings of k tokens, as numbers to the base of the vocabulary's size; sorted."""

    strings: Tokens
    counts: Tokens
    contexts: Tokens
    """Their first k - 1 tokens, each once."""

    totals: Tokens
    """How often each context was followed by a token, …"""

    kinds: Tokens
    """… and by how many different ones."""


class NGram:
    """p_k(w | h) = (c(hw) + t(h) p_{k-1}(w | h')) / (c(h) + t(h)) and p_0 = 1/vocabulary.

    h: the last k - 1 tokens; h' is h without its first. c counts in the training tokens, and t(h) is the
    number of different tokens after h.

    Witten and Bell 1991, IEEE Transactions on Information Theory 37(4), method C, interpolated.
    """

    def __init__(self, tokens: Tokens, order: int, vocabulary: int) -> None:
        """Of all strings in `tokens`. ValueError where a string of `order` tokens is no 63-bit number."""
        if vocabulary**order >= 2**63:
            raise ValueError(f"{vocabulary} tokens to the power of {order} are too many.")
        self.order, self.vocabulary = order, vocabulary
        self.orders = [_counts(_strings(tokens, k, vocabulary), vocabulary) for k in range(1, order + 1)]

    def nats(self, tokens: Tokens) -> NDArray[np.float64]:
        """-ln p of each token after the first order - 1 of them. (len(tokens) - order + 1,)"""
        kept = len(tokens) - self.order + 1
        p = np.full(kept, 1 / self.vocabulary)
        for k, known in enumerate(self.orders, 1):
            strings = _strings(tokens, k, self.vocabulary)[self.order - k :]
            seen = _found(known.strings, known.counts, strings)
            contexts = strings // self.vocabulary
            totals = _found(known.contexts, known.totals, contexts)
            kinds = _found(known.contexts, known.kinds, contexts)
            p = np.where(totals > 0, (seen + kinds * p) / np.maximum(totals + kinds, 1), p)
        return -np.log(p)


def _strings(tokens: Tokens, length: int, base: int) -> Tokens:
    """Each run of so many tokens as one number. (len(tokens) - length + 1,)"""
    kept = len(tokens) - length + 1
    found = np.zeros(kept, dtype=np.int64)
    for i in range(length):
        found = found * base + tokens[i : i + kept]
    return found


def _counts(strings: Tokens, base: int) -> Counts:
    each, counts = np.unique(strings, return_counts=True)
    contexts, start, kinds = np.unique(each // base, return_index=True, return_counts=True)
    return Counts(each, counts, contexts, np.add.reduceat(counts, start), kinds)


def _found(keys: Tokens, values: Tokens, wanted: Tokens) -> Tokens:
    """The value of each key that is wanted, 0 where there is none."""
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
