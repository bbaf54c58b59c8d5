"""Scikit-learn's handwritten digits, in three fixed parts."""

from __future__ import annotations

import torch
from torch import Tensor

SIZES = {"train": 1197, "val": 300, "test": 300}


def digits() -> dict[str, tuple[Tensor, Tensor]]:
    """Grey images in [0, 1] and their labels, in three fixed random parts: {split: ((n, 8, 8), (n,))}."""
    from sklearn.datasets import load_digits

    flat, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(flat).float().view(-1, 8, 8) / 16
    labels = torch.from_numpy(labels)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1797))
    parts = {}
    for split, part in zip(SIZES, order.split(list(SIZES.values())), strict=True):
        parts[split] = (images[part], labels[part])
    return parts
