"""The files of Pascal VOC: which there are, what is in them, and where they come from.

torchvision is imported where it is used: the scenes of digits do without.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from clipbench.errors import UserError
from clipbench.task.images import decode, header
from clipbench.task.prepared import one_at_a_time
from clipbench.tasks.scenes import VOID

if TYPE_CHECKING:
    from clipbench.tasks.crops import View

LAYOUT = (
    "Expected in DATA/VOCdevkit/VOC2012: JPEGImages/*.jpg, SegmentationClass/*.png "
    "(a class number per pixel, 255 for void) and ImageSets/Segmentation/{train,val}.txt "
    "(names without ending). Fetch the official data with `clipbench prepare task=voc scale=full` "
    "on a machine with a network, or give another folder with task.data=DATA."
)


class Scenes(Dataset):
    """(bytes of the image (3, size, size), classes of its pixels (size, size)) of two files, `look` saying
    what is seen of both.
    """

    def __init__(self, files: list[tuple[str, str]], look: Callable[[Image.Image], View]) -> None:
        self.files, self.look = files, look

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One image with its mask. UserError names a file that does not decode."""
        path, mask_path = self.files[index]
        image = decode(path, "RGB")
        mask = read_mask(mask_path)
        view = self.look(image)
        return view.pixels(image), view.labels(mask)


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


def check_pair(pair: tuple[str, str]) -> None:
    """UserError where an image and its mask, by their heads, are not of one size or not to be decoded."""
    path, mask_path = pair
    size, mask_size = header(path), header(mask_path)
    if size != mask_size:
        raise UserError(
            f"{path} is {size[0]} × {size[1]} pixels, but its mask {mask_path} {mask_size}. Upright, both "
            "must have one size."
        )


def check_labels(files: list[tuple[str, str]], counts: Tensor, classes: int) -> None:
    """`counts`: pixels of each label in the mask of each file, (files, 256).

    UserError names the first mask with a label that is neither a class nor void.
    """
    labels = counts[:, classes:VOID]
    odd = labels.any(1).nonzero()
    if len(odd):
        first = int(odd[0])
        label = classes + int(labels[first].nonzero()[0])
        raise UserError(
            f"{files[first][1]} holds class {label}; the classes are 0 to {classes - 1}, and {VOID} "
            "for void. "
            "Mend the mask, or say how many classes there are with task.classes=N."
        )


def check_two_classes(folder: Path, found: list[int], has_void: bool) -> None:
    """UserError where the training masks hold fewer than two classes: there is nothing to tell apart."""
    if len(found) > 1:
        return
    advice = "At least two classes are needed, numbered from 0."
    if has_void:
        advice = (
            f"{VOID} is void: no pixel of it counts. If it is meant as the foreground, write the masks "
            f"with 1 in its place: 0 background, 1 foreground, {VOID} only where neither is right."
        )
    also = f" and {VOID}" if has_void else ""
    raise UserError(f"The training masks in {folder} hold only {found or 'no class'}{also}. {advice}")


def find_classes(files: list[tuple[str, str]], counts: Tensor, folder: Path) -> int:
    """How many there are. UserError names a mask where the labels are not 0, 1, 2, … without a gap."""
    labels = counts[:, :VOID].sum(0).nonzero().flatten().tolist()
    check_two_classes(folder, labels, bool(counts[:, VOID].any()))
    if labels != list(range(len(labels))):
        odd = next(label for i, label in enumerate(labels) if label != i)
        first = files[int(counts[:, odd].nonzero()[0])][1]
        raise UserError(
            f"The masks in {folder} hold the classes {labels}, which are not 0, 1, 2, … without a "
            f"gap: {first} has {odd}. Allowed are class numbers from 0, and {VOID} for void: write another "
            "number that means void as that. If they are right, say how many classes there are with "
            "task.classes=N."
        )
    return len(labels)


def listed(folder: Path, image_set: str) -> list[tuple[str, str]]:
    """(image, mask) of each name in the list `image_set`, "train" or "val".

    UserError where anything is missing.
    """
    root = folder / "VOCdevkit" / "VOC2012"
    if not root.is_dir():
        raise UserError(f"There is no VOCdevkit/VOC2012 in {folder}. {LAYOUT}")
    try:
        text = list_path(folder, image_set).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"VOC in {folder} is not complete: {error}. {LAYOUT}") from error
    names = [line.strip() for line in text.splitlines() if line.strip()]
    files = []
    for name in names:
        image, mask = root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClass" / f"{name}.png"
        files.append((str(image), str(mask)))
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


def list_path(folder: Path, image_set: str) -> Path:
    """Where the names of an image set lie."""
    return folder / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / f"{image_set}.txt"


def download(folder: Path) -> None:
    """Into a folder of its own and then moved, so that what looks complete is; by one process at a time."""
    from torchvision.datasets import VOCSegmentation

    target = folder / "VOCdevkit"
    partial = folder / f".partial-{secrets.token_hex(4)}"
    with one_at_a_time(target):
        if target.exists():
            return
        try:
            partial.mkdir(parents=True, exist_ok=True)
            VOCSegmentation(partial, year="2012", image_set="train", download=True)
            os.replace(partial / "VOCdevkit", target)
        except (RuntimeError, OSError) as error:
            raise UserError(f"Cannot download VOC 2012 to {folder}: {error}. {LAYOUT}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def random_part(size: int) -> Callable[[Image.Image], View]:
    """At least a quarter of the image, resized to size × size; half of them mirrored."""
    from clipbench.tasks.crops import random_view

    return partial(random_view, size=size, least=0.25)


def whole(size: int) -> Callable[[Image.Image], View]:
    """The whole image, resized to size × size."""
    from clipbench.tasks.crops import whole_view

    return partial(whole_view, size=size)
