"""The files of Pascal VOC: which there are, what is in them, and where they come from.

torchvision is imported where it is used: the scenes of digits do without.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from clipbench.errors import UserError
from clipbench.task.loading import decode
from clipbench.tasks.pixels import drawn_flip
from clipbench.tasks.scenes import VOID

LAYOUT = (
    "Expected in DATA/VOCdevkit/VOC2012: JPEGImages/*.jpg, SegmentationClass/*.png "
    "(a class number per pixel, 255 for void) and ImageSets/Segmentation/{train,val}.txt "
    "(names without ending). Fetch the official data with `clipbench prepare task=voc scale=full` "
    "on a machine with a network, or give another folder with task.data=DATA."
)


class Scenes(Dataset):
    """(bytes of the image (3, size, size), classes of its pixels (size, size), whether to mirror both) of two
    files, transformed alike.
    """

    def __init__(
        self, files: list[tuple[str, str]], classes: int, transform: Callable[..., Any], flip: bool = False
    ) -> None:
        self.files, self.classes, self.transform, self.flip = files, classes, transform, flip

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """One image with its mask. UserError names what is wrong with the files."""
        from torchvision.tv_tensors import Mask

        path, mask_path = self.files[index]
        image = decode(path, "RGB")
        mask = read_mask(mask_path)
        if (image.height, image.width) != mask.shape:
            raise UserError(
                f"{path} is {image.height} × {image.width} pixels, but its mask {mask_path} "
                f"{tuple(mask.shape)}."
            )
        odd = mask[(mask >= self.classes) & (mask != VOID)]
        if len(odd):
            raise UserError(
                f"{mask_path} holds class {int(odd[0])}; the classes are 0 to {self.classes - 1}, and {VOID} "
                "for void. "
                "Mend the mask, or say how many classes there are with task.classes=N."
            )
        pixels, labels = self.transform(image, Mask(mask))
        flip = drawn_flip() if self.flip else torch.tensor(False)
        return pixels.as_subclass(Tensor), labels.as_subclass(Tensor), flip


class Histograms(Dataset):
    """Pixels of each label in a mask. (256,)"""

    def __init__(self, masks: list[str]) -> None:
        self.masks = masks

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> Tensor:
        return read_mask(self.masks[index]).flatten().bincount(minlength=256)


def read_mask(path: str) -> Tensor:
    """(height, width), uint8"""
    mask = decode(path)
    if mask.mode not in ("P", "L"):
        raise UserError(
            f"{path} is a mask of mode {mask.mode}; it must hold one class number per pixel (PNG, mode P or "
            "L)."
        )
    return torch.from_numpy(np.array(mask))


def listed(folder: Path, image_set: str) -> list[tuple[str, str]]:
    """(image, mask) of each name in the list `image_set`, "train" or "val".

    UserError where anything is missing.
    """
    from torchvision.datasets import VOCSegmentation

    try:
        voc = VOCSegmentation(folder, year="2012", image_set=image_set)
    except RuntimeError as error:
        raise UserError(f"There is no VOCdevkit/VOC2012 in {folder}. {LAYOUT}") from error
    except OSError as error:
        raise UserError(f"VOC in {folder} is not complete: {error}. {LAYOUT}") from error
    files = list(zip(voc.images, voc.masks, strict=True))
    missing: list[str] = []
    for pair in files:
        missing.extend(path for path in pair if not os.path.isfile(path))
    if missing:
        raise UserError(
            f"VOC in {folder} is not complete: {len(missing)} files are missing, {missing[0]} first. {LAYOUT}"
        )
    if len(files) < 2:
        raise UserError(
            f"ImageSets/Segmentation/{image_set}.txt in {folder} lists {len(files)} images. {LAYOUT}"
        )
    return files


def download(folder: Path) -> None:
    """Into a folder of its own and then moved, so that what looks complete is."""
    from torchvision.datasets import VOCSegmentation

    partial = folder / ".partial"
    try:
        partial.mkdir(parents=True, exist_ok=True)
        VOCSegmentation(partial, year="2012", image_set="train", download=True)
        os.replace(partial / "VOCdevkit", folder / "VOCdevkit")
        shutil.rmtree(partial)
    except (RuntimeError, OSError) as error:
        raise UserError(f"Cannot download VOC 2012 to {folder}: {error}. {LAYOUT}") from error


def training_transform(size: int) -> Callable[..., Any]:
    """A random part of the image, resized to size × size."""
    from torchvision.transforms import v2

    return v2.Compose([v2.RandomResizedCrop(size, scale=(0.25, 1.0)), v2.ToImage()])


def resizing(size: int) -> Callable[..., Any]:
    """The whole image, resized to size × size."""
    from torchvision.transforms import v2

    return v2.Compose([v2.Resize((size, size)), v2.ToImage()])
