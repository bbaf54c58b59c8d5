"""Scenes made of handwritten digits, with a class for every pixel: the mini data of `voc`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

DIGITS = 6
"""How many digits there are: 0 to 5, of the classes 1 to 6; class 0 is the clutter behind them."""

VOID = 255
"""A pixel's label where it has no class: neither trained on nor counted."""


def compose(grey: Tensor, labels: Tensor, count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """`count` scenes: digit d is of class d + 1, its blurred edge void.

    (count, 3, size, size), (count, size, size)

    A digit's hue is its class's only roughly (neighbours overlap), so that shape counts too.
    """
    rng = np.random.default_rng(seed)  # numpy's draws are the same on every machine
    images = torch.empty(count, 3, size, size)
    masks = torch.zeros(count, size, size, dtype=torch.long)
    for image, mask in zip(images, masks, strict=True):
        clutter = rng.uniform(-0.8, 0.8, (1, 8, 8)) + rng.uniform(-0.4, 0.4, (3, 8, 8))
        image.copy_(_scaled(torch.from_numpy(clutter), size))
        for _ in range(rng.integers(2, 5)):
            _add_digit(image, mask, grey, labels, rng)
        image += torch.from_numpy(rng.normal(0, 0.2, image.shape))
    return images, masks


def _add_digit(image: Tensor, mask: Tensor, grey: Tensor, labels: Tensor, rng: np.random.Generator) -> None:
    """One of the digits, of random size and tint, somewhere in the scene and its mask."""
    size = image.shape[-1]
    which = rng.integers(len(labels))
    side = int(rng.integers(size * 3 // 8, size * 3 // 4))
    ink = _scaled(grey[which][None], side)
    label = int(labels[which])
    top, left = rng.integers(0, size - side + 1, 2)
    place = (..., slice(top, top + side), slice(left, left + side))
    hue = 2 * np.pi * (label / DIGITS + rng.normal(0, 0.05) + np.arange(3) / 3)
    tint = rng.uniform(0.8, 1.6) * np.cos(hue)
    image[place] = torch.lerp(image[place], torch.from_numpy(tint).float().view(3, 1, 1), ink)
    edge = torch.where(ink[0] > 0.25, VOID, mask[place])
    mask[place] = torch.where(ink[0] > 0.5, label + 1, edge)


def _scaled(image: Tensor, side: int) -> Tensor:
    return interpolate(image[None].float(), side, mode="bilinear")[0]
