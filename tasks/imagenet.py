"""Image classification with ResNet18: folders of images (ImageNet), or scikit-learn's handwritten digits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.data import Dataset
from torchvision.models import resnet18

from clipbench.errors import UserError
from clipbench.task import Batch, Metric, Task, holdout, majority, shuffled
from clipbench.task.content import files_below, in_order, is_data
from clipbench.task.images import check_each, decode, header
from clipbench.task.loading import ordered_batches, random_batches, whole_number
from clipbench.task.metrics import TopKAccuracy
from clipbench.task.prepared import prepared
from clipbench.tasks.crops import centre, random_part
from clipbench.tasks.digits import digits
from clipbench.tasks.pixels import normalised

LAYOUT = (
    "Expected: DATA/train/<class>/*.jpg and DATA/val/<class>/*.jpg with the same classes, and task.data=DATA."
)
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
DECODED = 2000  # images that `prepare` decodes; it reads the head of every one
SOURCE = (
    "ImageNet is free for research after registration at image-net.org "
    "(ILSVRC2012, sorted into class folders)."
)


class Classification(Task):
    """ResNet18 without pretrained weights. Batches are (images (B, 3, size, size), labels (B,))."""

    headline = "top1"
    drawn = ""
    classes: list[str]  # names, in the order of the labels

    @abstractmethod
    def labels(self, split: str) -> Tensor:
        """All labels of "train", "val" or "test". (n,)"""

    def model(self, rng: torch.Generator) -> nn.Module:
        return resnet18(num_classes=len(self.classes))

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        images, labels = batch
        return model(images), labels

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets)

    def metrics(self) -> Mapping[str, Metric]:
        metrics = {"top1": TopKAccuracy(1)}
        if len(self.classes) > 5:
            metrics["top5"] = TopKAccuracy(5)
        return metrics

    def baseline(self) -> tuple[str, dict[str, float]]:
        batches = self.labels("test").split(1024)
        values = majority(self.metrics(), self.labels("train"), batches, len(self.classes))
        return "majority class", {"top1": values["top1"]}  # one answer has no top five


class ImageNet(Classification):
    """A folder tree of images.

    Validation is a fixed tenth of train/, test is val/: the official validation set.
    """

    def __init__(self, data: str, batch_size: int, size: int, workers: int | None = None) -> None:
        self.folder = Path(str(data)).expanduser()
        self.batch_size = batch_size
        self.workers = None if workers is None else whole_number("task.workers", workers, least=0)
        whole_number("task.size", size)
        self.random_part = partial(random_part, size=size, least=0.08)
        self.centre = partial(centre, size=size)

    @classmethod
    def data_files(cls, key: str, path: Path) -> Iterable[Path]:
        """The images of the classes in train/ and val/."""
        if key != "data":
            return super().data_files(key, path)
        return [image for files in class_folders(path).values() for _, image in files]

    @cached_property
    def folders(self) -> dict[str, list[tuple[str, Path]]]:
        """{"train": …, "val": …}: (class, file) as on disk, checked: the same classes, every image readable
        as far as its head shows.
        """
        folders = class_folders(self.folder)
        images = [path for files in folders.values() for _, path in files]

        def check() -> dict[str, Tensor]:
            check_each(header, map(str, images))
            return {}

        prepared("heads", self.folder, images, check)
        return folders

    @cached_property
    def samples(self) -> dict[str, list[tuple[str, int]]]:
        """(file, label) of each split."""
        place = {name: i for i, name in enumerate(self.classes)}
        labelled = {}
        for split, files in self.folders.items():
            labelled[split] = [(str(path), place[name]) for name, path in files]
        remaining, held_out = holdout(len(labelled["train"]))
        return {
            "train": [labelled["train"][i] for i in remaining],
            "val": [labelled["train"][i] for i in held_out],
            "test": labelled["val"],
        }

    @cached_property
    def classes(self) -> list[str]:  # type: ignore[override]
        return list(dict.fromkeys(name for name, _ in self.folders["train"]))

    def labels(self, split: str) -> Tensor:
        return torch.tensor([label for _, label in self.samples[split]])

    @cached_property
    def data(self) -> str:  # type: ignore[override]
        names = ("train", *self.splits)
        sizes = "/".join(str(len(self.samples[split])) for split in names)
        return f"{self.folder}, {len(self.classes)} classes, {sizes} images"

    @cached_property
    def steps_per_epoch(self) -> float:  # type: ignore[override]
        return max(1, len(self.samples["train"]) // self.batch_size)

    def train_batches(self, rng: torch.Generator) -> Iterator[Batch]:
        images = Images(self.samples["train"], self.random_part)
        return random_batches(images, self.batch_size, rng, self.workers)

    def plain_batches(self, rng: torch.Generator) -> Iterator[Batch]:
        images = Images(self.samples["train"], self.centre)
        return random_batches(images, self.batch_size, rng, self.workers)

    def eval_batches(self, split: str) -> Iterable[Batch]:
        images = Images(self.samples[split], self.centre)
        return ordered_batches(images, self.batch_size, self.workers)

    def finish(self, batch: Batch) -> Batch:
        images, labels = batch
        return normalised(images), labels

    def prepare(self) -> str:
        samples = self.samples["train"] + self.samples["val"] + self.samples["test"]
        some = samples[:: max(1, len(samples) // DECODED)]
        check_each(partial(decode, mode="RGB"), [path for path, _ in some])
        return self.data


class Images(Dataset):
    """(what `look` sees of the image, label) of each file."""

    def __init__(self, samples: list[tuple[str, int]], look: Callable[[Image.Image], Tensor]) -> None:
        self.samples, self.look = samples, look

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        return self.look(decode(path, "RGB")), label


class Digits(Classification):
    """Scikit-learn's handwritten digits, scaled up to size × size and three equal channels."""

    data = "handwritten digits of scikit-learn, 10 classes, 1197/300/300 images"

    def __init__(self, batch_size: int, size: int) -> None:
        self.batch_size, self.size = batch_size, whole_number("task.size", size)
        self.classes = [str(digit) for digit in range(10)]
        self.steps_per_epoch = max(1, 1197 // batch_size)

    @cached_property
    def parts(self) -> dict[str, tuple[Tensor, Tensor]]:
        parts = {}
        for split, (grey, labels) in digits().items():
            large = interpolate(grey[:, None], self.size, mode="bilinear")
            images = ((large - 0.3) / 0.35).expand(-1, 3, -1, -1)
            parts[split] = (images, labels)
        return parts

    def labels(self, split: str) -> Tensor:
        return self.parts[split][1]

    def train_batches(self, rng: torch.Generator) -> Iterator[Batch]:
        images, labels = self.parts["train"]
        return ((images[indices], labels[indices]) for indices in shuffled(len(labels), self.batch_size, rng))

    def eval_batches(self, split: str) -> Iterable[Batch]:
        images, labels = self.parts[split]
        return zip(images.split(100), labels.split(100), strict=True)


def class_folders(folder: Path) -> dict[str, list[tuple[str, Path]]]:
    """{"train": …, "val": …}: (class, image) by class and name. What is hidden is no class and no image.

    UserError where the layout is another, a class has no image, or the classes are not the same.
    """
    found = {name: _images_by_class(folder / name) for name in ("train", "val")}
    train, val = ({name for name, _ in found[split]} for split in found)
    if train != val:
        name = min(train ^ val)
        has, lacks = ("train", "val") if name in train else ("val", "train")
        raise UserError(f"Class '{name}' is in {folder / has} but not in {folder / lacks}. {LAYOUT}")
    return found


def _images_by_class(folder: Path) -> list[tuple[str, Path]]:
    try:
        names = in_order(path for path in folder.iterdir() if is_data(path.name) and path.is_dir())
    except OSError as error:
        raise UserError(f"Cannot read {folder}: {error.strerror}. {LAYOUT} {SOURCE}") from error
    if not names:
        raise UserError(f"Cannot find any class folder in {folder}. {LAYOUT} {SOURCE}")
    found = []
    for of_class in names:
        images = [path for path in files_below(of_class) if path.name.lower().endswith(ENDINGS)]
        if not images:
            raise UserError(
                f"There is no image of class '{of_class.name}' in {folder}: none that ends in "
                f"{', '.join(ENDINGS)}. Add some, or take the folder away. {LAYOUT}"
            )
        found += [(of_class.name, path) for path in images]
    return found
