"""Semantic segmentation with a UNet.

Of Pascal VOC 2012, of any folder laid out like it, or of scenes made of handwritten digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from clipbench.task import Batch, Metric, Task, holdout, majority, shuffled
from clipbench.task.images import check_each
from clipbench.task.loading import ordered_batches, random_batches, whole_number
from clipbench.task.metrics import Accuracy, MeanIoU
from clipbench.task.prepared import prepared
from clipbench.tasks import voc_files
from clipbench.tasks.digits import digits
from clipbench.tasks.pixels import normalised
from clipbench.tasks.scenes import DIGITS, VOID, compose
from clipbench.tasks.unet import UNet

SCENES = {"train": 600, "val": 100, "test": 100}


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

    def count(self, targets: Tensor) -> Tensor:
        """The pixels that have a class: those that the loss is a mean over. ()"""
        return (targets != VOID).sum()

    def metrics(self) -> Mapping[str, Metric]:
        accuracy = Accuracy(self.classes, ignore_index=VOID)
        miou = MeanIoU(self.classes, ignore_index=VOID, counted_by=accuracy)
        return {"accuracy": accuracy, "miou": miou}

    def baseline(self) -> tuple[str, dict[str, float]]:
        masks = (self.finish(batch)[1] for batch in self.eval_batches("test"))
        winner = self.pixels[: self.classes].argmax()[None]
        return "majority class", majority(self.metrics(), winner, masks, self.classes, VOID)


class VOC(Segmentation):
    """VOC's folders.

    Validation is a fixed tenth of its train list, test is its val list; both resized to size × size.
    """

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
        self.given = None
        if classes is not None:
            self.given = whole_number("task.classes", classes, least=2, largest=VOID)
        self.size = whole_number("task.size", size)

    @classmethod
    def data_files(cls, key: str, path: Path) -> Iterable[Path]:
        """The two lists, and the images and masks that they name."""
        if key != "data":
            return super().data_files(key, path)
        found = []
        for image_set in ("train", "val"):
            found.append(voc_files.list_path(path, image_set))
            for pair in voc_files.listed(path, image_set):
                found += [Path(name) for name in pair]
        return found

    @cached_property
    def listed(self) -> dict[str, list[tuple[str, str]]]:
        """(image, mask) of VOC's lists "train" and "val"."""
        return {image_set: voc_files.listed(self.folder, image_set) for image_set in ("train", "val")}

    @cached_property
    def files(self) -> dict[str, list[tuple[str, str]]]:
        """(image, mask) of each split, checked: what every mask holds is a class or void."""
        train, test = self.listed["train"], self.listed["val"]
        voc_files.check_labels([*train, *test], self.counts, self.classes)
        remaining, held_out = holdout(len(train))
        return {
            "train": [train[i] for i in remaining],
            "val": [train[i] for i in held_out],
            "test": test,
        }

    @cached_property
    def counts(self) -> Tensor:
        """Pixels of each label in every mask, those of VOC's train list first. (masks, 256)

        UserError where an image and its mask do not go together.
        """
        pairs = [*self.listed["train"], *self.listed["val"]]

        def count() -> dict[str, Tensor]:
            check_each(voc_files.check_pair, pairs)
            histograms = ordered_batches(voc_files.Histograms([mask for _, mask in pairs]), 64, self.workers)
            return {"counts": torch.cat(list(histograms))}

        files = list(self.data_files("data", self.folder))
        return prepared("labels", self.folder, files, count)["counts"]

    @property
    def train_counts(self) -> Tensor:
        """Of VOC's train list. (masks, 256)"""
        return self.counts[: len(self.listed["train"])]

    @cached_property
    def pixels(self) -> Tensor:  # type: ignore[override]
        """Of VOC's train list, by every label that a mask can hold. (256,)"""
        return self.train_counts.sum(0)

    @cached_property
    def classes(self) -> int:  # type: ignore[override]
        """Found in the masks of VOC's train list, unless given."""
        if self.given is None:
            return voc_files.find_classes(self.listed["train"], self.train_counts, self.folder)
        found = self.pixels[:VOID].nonzero().flatten().tolist()
        voc_files.check_two_classes(self.folder, found, bool(self.pixels[VOID]))
        return self.given

    @cached_property
    def data(self) -> str:  # type: ignore[override]
        sizes = "/".join(str(len(files)) for files in self.files.values())
        return f"{self.folder}, {self.classes} classes, {sizes} images"

    @cached_property
    def steps_per_epoch(self) -> float:  # type: ignore[override]
        return max(1, len(self.files["train"]) // self.batch_size)

    def train_batches(self, rng: torch.Generator) -> Iterator[Batch]:
        scenes = voc_files.Scenes(self.files["train"], voc_files.random_part(self.size))
        return random_batches(scenes, self.batch_size, rng, self.workers)

    def plain_batches(self, rng: torch.Generator) -> Iterator[Batch]:
        return random_batches(self.scenes("train"), self.batch_size, rng, self.workers)

    def eval_batches(self, split: str) -> Iterable[Batch]:
        return ordered_batches(self.scenes(split), self.batch_size, self.workers)

    def scenes(self, split: str) -> voc_files.Scenes:
        """Whole images, resized."""
        return voc_files.Scenes(self.files[split], voc_files.whole(self.size))

    def finish(self, batch: Batch) -> Batch:
        images, masks = batch
        return normalised(images), masks.long()

    def prepare(self) -> str:
        if not (self.folder / "VOCdevkit").exists():
            voc_files.download(self.folder)
        for split in self.files:
            for _ in self.eval_batches(split):
                pass
        return self.data


class DigitScenes(Segmentation):
    """Scikit-learn's digits, large and tinted by class, on clutter. No digit is in two splits."""

    data = "scenes of scikit-learn's handwritten digits, 7 classes, 600/100/100 images"

    def __init__(self, batch_size: int, size: int, width: int) -> None:
        self.batch_size, self.size = batch_size, whole_number("task.size", size, least=16)
        self.width, self.classes = whole_number("task.width", width), DIGITS + 1
        self.steps_per_epoch = max(1, 600 // batch_size)

    @cached_property
    def parts(self) -> dict[str, tuple[Tensor, Tensor]]:
        parts = {}
        for seed, (split, (grey, labels)) in enumerate(digits().items()):
            few = labels < DIGITS
            parts[split] = compose(grey[few], labels[few], SCENES[split], self.size, seed)
        return parts

    @cached_property
    def pixels(self) -> Tensor:  # type: ignore[override]
        return self.parts["train"][1].flatten().bincount()

    def train_batches(self, rng: torch.Generator) -> Iterator[Batch]:
        images, masks = self.parts["train"]
        return ((images[indices], masks[indices]) for indices in shuffled(len(images), self.batch_size, rng))

    def eval_batches(self, split: str) -> Iterable[Batch]:
        images, masks = self.parts[split]
        return zip(images.split(50), masks.split(50), strict=True)
