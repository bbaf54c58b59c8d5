"""Semantic segmentation with a UNet: Pascal VOC 2012, any folder laid out like it, or scenes made of handwritten digits."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.data import Dataset
from torchmetrics import MetricCollection
from torchvision.datasets import VOCSegmentation
from torchvision.transforms import v2
from torchvision.tv_tensors import Mask

from clipbench.errors import UserError
from clipbench.task import Batch, Task, holdout, majority, shuffled
from clipbench.task.loading import decode, ordered_batches, random_batches, whole_number
from clipbench.tasks.counts import VOID, Accuracy, MeanIoU
from clipbench.tasks.imagenet import digits
from clipbench.tasks.pixels import coin, mirrored, normalised
from clipbench.tasks.unet import UNet

DIGITS = 6
LAYOUT = (
    "Expected in DATA/VOCdevkit/VOC2012: JPEGImages/*.jpg, SegmentationClass/*.png (a class number per pixel, 255 for void) "
    "and ImageSets/Segmentation/{train,val}.txt (names without ending). Fetch the official data with "
    "`clipbench prepare task=voc scale=full` on a machine with a network, or give another folder with task.data=DATA."
)


class Segmentation(Task):
    """A UNet. Batches are (images (B, 3, size, size), classes of the pixels (B, size, size))."""

    headline = "miou"
    drawn = ""
    width: int
    classes: int
    pixels: Tensor  # training pixels of each label (at least classes,)

    def model(self, rng: torch.Generator) -> nn.Module:
        return UNet(self.classes, self.width)

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        images, masks = batch
        return model(images), masks

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets, ignore_index=VOID)

    def metrics(self) -> MetricCollection:
        names = {"miou": MeanIoU, "accuracy": Accuracy}
        metrics = {name: metric(self.classes, validate_args=False) for name, metric in names.items()}
        return MetricCollection(metrics, compute_groups=[[*names]])  # one matrix for both

    def baseline(self) -> tuple[str, dict[str, float]]:
        masks = (self.finish(batch)[1] for batch in self.eval_batches("test"))
        winner = self.pixels[: self.classes].argmax()[None]
        return "majority class", majority(self.metrics(), winner, masks, self.classes, VOID)


class VOC(Segmentation):
    """VOC's folders. Validation is a fixed tenth of its train list, test is its val list; both resized to size × size."""

    def __init__(
        self,
        data: str,
        batch_size: int,
        size: int,
        width: int,
        classes: int | None = None,
        workers: int | None = None,
    ) -> None:
        self.folder, self.batch_size = Path(str(data)).expanduser(), batch_size
        self.width = whole_number("task.width", width)
        self.workers = None if workers is None else whole_number("task.workers", workers, least=0)
        if classes is not None:
            self.classes = whole_number("task.classes", classes, least=2, most=VOID)
        whole_number("task.size", size)
        self.cropped = v2.Compose([v2.RandomResizedCrop(size, scale=(0.25, 1.0)), v2.ToImage()])
        self.resized = v2.Compose([v2.Resize((size, size)), v2.ToImage()])

    @cached_property
    def files(self) -> dict[str, list[tuple[str, str]]]:
        """(image, mask) of each split."""
        train, test = (_listed(self.folder, name) for name in ("train", "val"))
        kept, val = ([train[i] for i in part] for part in holdout(len(train)))
        return {"train": kept, "val": val, "test": test}

    @cached_property
    def pixels(self) -> Tensor:  # type: ignore[override]
        """Of VOC's train list, by every label that a mask can hold. (256,)"""
        masks = [mask for split in ("train", "val") for _, mask in self.files[split]]
        return torch.cat(list(ordered_batches(Histograms(masks), 64, self.workers))).sum(0)

    @cached_property
    def classes(self) -> int:  # type: ignore[override]
        """Found in the masks of VOC's train list, unless given."""
        labels = self.pixels[:VOID].nonzero().flatten().tolist()
        if labels != list(range(len(labels))) or len(labels) < 2:
            raise UserError(
                f"The masks in {self.folder} hold the classes {labels}, which are not 0, 1, 2, … without a gap: "
                "is one of them damaged? If they are right, say how many classes there are with task.classes=N."
            )
        return len(labels)

    @cached_property
    def data(self) -> str:  # type: ignore[override]
        sizes = "/".join(str(len(files)) for files in self.files.values())
        return f"{self.folder}, {self.classes} classes, {sizes} images"

    @cached_property
    def steps_per_epoch(self) -> float:  # type: ignore[override]
        return max(1, len(self.files["train"]) // self.batch_size)

    def train_batches(self, rng: torch.Generator) -> Iterator[Batch]:
        scenes = Scenes(self.files["train"], self.classes, self.cropped, flip=True)
        return random_batches(scenes, self.batch_size, rng, self.workers)

    def plain_batches(self, rng: torch.Generator) -> Iterator[Batch]:
        return random_batches(
            Scenes(self.files["train"], self.classes, self.resized), self.batch_size, rng, self.workers
        )

    def eval_batches(self, split: str) -> Iterable[Batch]:
        return ordered_batches(
            Scenes(self.files[split], self.classes, self.resized), self.batch_size, self.workers
        )

    def finish(self, batch: Batch) -> Batch:
        images, masks, flips = batch
        return normalised(mirrored(images, flips)), mirrored(masks, flips).long()

    def prepare(self) -> str:
        if not (self.folder / "VOCdevkit").exists():
            _download(self.folder)
        for split in self.files:
            for _ in self.eval_batches(split):
                pass
        return self.data


class Scenes(Dataset):
    """(bytes of the transformed image (3, size, size), classes of its pixels (size, size), whether to mirror both) of two files."""

    def __init__(
        self, files: list[tuple[str, str]], classes: int, transform: v2.Transform, flip: bool = False
    ) -> None:
        self.files, self.classes, self.transform, self.flip = files, classes, transform, flip

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        path, mask_path = self.files[index]
        image, mask = decode(path, "RGB"), _read_mask(mask_path)
        if (image.height, image.width) != mask.shape:
            raise UserError(
                f"{path} is {image.height} × {image.width} pixels, but its mask {mask_path} {tuple(mask.shape)}."
            )
        if len(odd := mask[(mask >= self.classes) & (mask != VOID)]):
            raise UserError(
                f"{mask_path} holds class {int(odd[0])}; the classes are 0 to {self.classes - 1}, and {VOID} for void. "
                "Mend the mask, or say how many classes there are with task.classes=N."
            )
        pixels, labels = self.transform(image, Mask(mask))
        return (
            pixels.as_subclass(Tensor),
            labels.as_subclass(Tensor),
            coin() if self.flip else torch.tensor(False),
        )


class Histograms(Dataset):
    """Pixels of each label in a mask. (256,)"""

    def __init__(self, masks: list[str]) -> None:
        self.masks = masks

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> Tensor:
        return _read_mask(self.masks[index]).flatten().bincount(minlength=256)


def _read_mask(path: str) -> Tensor:
    """(height, width), uint8"""
    mask = decode(path)
    if mask.mode not in ("P", "L"):
        raise UserError(
            f"{path} is a mask of mode {mask.mode}; it must hold one class number per pixel (PNG, mode P or L)."
        )
    return torch.from_numpy(np.array(mask))


def _listed(folder: Path, image_set: str) -> list[tuple[str, str]]:
    try:
        voc = VOCSegmentation(folder, year="2012", image_set=image_set)
    except RuntimeError as error:
        raise UserError(f"There is no VOCdevkit/VOC2012 in {folder}. {LAYOUT}") from error
    except OSError as error:
        raise UserError(f"VOC in {folder} is not complete: {error}. {LAYOUT}") from error
    files = list(zip(voc.images, voc.masks, strict=True))
    if missing := [path for pair in files for path in pair if not os.path.isfile(path)]:
        raise UserError(
            f"VOC in {folder} is not complete: {len(missing)} files are missing, {missing[0]} first. {LAYOUT}"
        )
    if len(files) < 2:
        raise UserError(
            f"ImageSets/Segmentation/{image_set}.txt in {folder} lists {len(files)} images. {LAYOUT}"
        )
    return files


def _download(folder: Path) -> None:
    """Into a folder of its own and then moved, so that what looks complete is."""
    partial = folder / ".partial"
    try:
        partial.mkdir(parents=True, exist_ok=True)
        VOCSegmentation(partial, year="2012", image_set="train", download=True)
        os.replace(partial / "VOCdevkit", folder / "VOCdevkit")
        shutil.rmtree(partial)
    except (RuntimeError, OSError) as error:
        raise UserError(f"Cannot download VOC 2012 to {folder}: {error}. {LAYOUT}") from error


class DigitScenes(Segmentation):
    """Scikit-learn's digits, large and tinted by class, on clutter. No digit is in two splits."""

    data = "scenes of scikit-learn's handwritten digits, 7 classes, 600/100/100 images"

    def __init__(self, batch_size: int, size: int, width: int) -> None:
        self.batch_size, self.size = batch_size, whole_number("task.size", size, least=16)
        self.width, self.classes = whole_number("task.width", width), DIGITS + 1
        self.steps_per_epoch = max(1, 600 // batch_size)

    @cached_property
    def parts(self) -> dict[str, tuple[Tensor, Tensor]]:
        counts = {"train": 600, "val": 100, "test": 100}
        few = {
            split: (grey[labels < DIGITS], labels[labels < DIGITS])
            for split, (grey, labels) in digits().items()
        }
        return {
            split: compose(*few[split], count, self.size, seed)
            for seed, (split, count) in enumerate(counts.items())
        }

    @cached_property
    def pixels(self) -> Tensor:  # type: ignore[override]
        return self.parts["train"][1].flatten().bincount()

    def train_batches(self, rng: torch.Generator) -> Iterator[Batch]:
        images, masks = self.parts["train"]
        return ((images[indices], masks[indices]) for indices in shuffled(len(images), self.batch_size, rng))

    def eval_batches(self, split: str) -> Iterable[Batch]:
        images, masks = self.parts[split]
        return zip(images.split(50), masks.split(50), strict=True)


def compose(grey: Tensor, labels: Tensor, count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """`count` scenes: digit d is of class d + 1, its blurred edge void. (count, 3, size, size), (count, size, size)

    A digit's hue is its class's only roughly (neighbours overlap), so that shape counts too.
    """
    rng = np.random.default_rng(seed)  # numpy's draws are the same on every machine
    images, masks = torch.empty(count, 3, size, size), torch.zeros(count, size, size, dtype=torch.long)
    for image, mask in zip(images, masks, strict=True):
        clutter = rng.uniform(-0.8, 0.8, (1, 8, 8)) + rng.uniform(-0.4, 0.4, (3, 8, 8))
        image.copy_(_scaled(torch.from_numpy(clutter), size))
        for _ in range(rng.integers(2, 5)):
            which, side = rng.integers(len(labels)), int(rng.integers(size * 3 // 8, size * 3 // 4))
            ink, label = _scaled(grey[which][None], side), int(labels[which])
            top, left = rng.integers(0, size - side + 1, 2)
            place = (..., slice(top, top + side), slice(left, left + side))
            hue = 2 * np.pi * (label / DIGITS + rng.normal(0, 0.05) + np.arange(3) / 3)
            tint = torch.from_numpy(rng.uniform(0.8, 1.6) * np.cos(hue)).float().view(3, 1, 1)
            image[place] = torch.lerp(image[place], tint, ink)
            mask[place] = torch.where(ink[0] > 0.5, label + 1, torch.where(ink[0] > 0.25, VOID, mask[place]))
        image += torch.from_numpy(rng.normal(0, 0.2, image.shape))
    return images, masks


def _scaled(image: Tensor, side: int) -> Tensor:
    return interpolate(image[None].float(), side, mode="bilinear")[0]
