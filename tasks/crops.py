"""What a task sees of an image, as bytes in a tensor: a part of it, resized there.

torch resizes bytes twice as fast as Pillow, and alike but for rounding: at most one level of 255.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import center_crop

RATIO = [3 / 4, 4 / 3]  # of a part's width to its height


class View(NamedTuple):
    """A part of an image and its mask, in pixels, resized to size × size."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool
    size: int

    def pixels(self, image: Image.Image) -> Tensor:
        """(3, size, size), uint8"""
        box = (self.left, self.top, self.left + self.width, self.top + self.height)
        found = resized(image.crop(box), (self.size, self.size))
        return found.flip(-1) if self.mirrored else found

    def labels(self, mask: Tensor) -> Tensor:
        """(size, size) of a mask (height, width), each the nearest of the part's."""
        part = mask[self.top : self.top + self.height, self.left : self.left + self.width]
        found = interpolate(part[None, None], self.size)[0, 0]
        return found.flip(-1) if self.mirrored else found


def random_view(image: Image.Image, size: int, least: float) -> View:
    """A part of at least the share `least`, mirrored with probability ½.

    What torchvision's RandomResizedCrop and RandomHorizontalFlip draw of torch's global generator.
    """
    top, left, height, width = RandomResizedCrop.get_params(image, [least, 1.0], RATIO)
    return View(top, left, height, width, mirrored=bool(torch.rand(()) < 0.5), size=size)


def whole_view(image: Image.Image, size: int) -> View:
    return View(0, 0, image.height, image.width, mirrored=False, size=size)


def random_part(image: Image.Image, size: int, least: float) -> Tensor:
    """The pixels of a `random_view`. (3, size, size), uint8"""
    return random_view(image, size, least).pixels(image)


def centre(image: Image.Image, size: int) -> Tensor:
    """The middle of the image, its shorter side resized to 8/7 of `size`. (3, size, size), uint8"""
    shorter = size * 256 // 224
    least = min(image.size)
    height, width = (shorter * side // least for side in (image.height, image.width))
    return center_crop(resized(image, (height, width)), [size])


def resized(image: Image.Image, shape: tuple[int, int]) -> Tensor:
    """An RGB image at another (height, width), smoothed where it shrinks. (3, height, width), uint8"""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return interpolate(pixels[None], shape, mode="bilinear", antialias=True)[0]
