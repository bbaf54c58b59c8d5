"""Images per second of imagenet's input pipeline over those of torchvision's ImageFolder in a DataLoader.

python scripts/bench_images.py [--blocks 12] [--images 512] [--workers 2]

Both start from the same JPEGs, 512 × 384, made here in a temporary folder, and end with the float batch that
ResNet18 takes, 224 × 224: a random part, perhaps mirrored, normalised. They take turns in one process; the
ratio is the median over the blocks.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

from clipbench.tasks.imagenet import ImageNet

WIDTH, HEIGHT, SIZE, BATCH = 512, 384, 224, 32
WARM = 6  # batches: more than two workers fetch ahead


def picture(rng: np.random.Generator) -> Image.Image:
    """Patches of colour, of three sizes, and a little noise: some 60 kB as JPEG, half of ImageNet's mean."""
    pixels = rng.normal(0, 6, (HEIGHT, WIDTH, 1)).repeat(3, axis=2)
    for cells, weight in ((6, 120), (24, 60), (96, 30)):
        patches = rng.integers(0, 256, (cells * HEIGHT // WIDTH, cells, 3), dtype=np.uint8)
        smooth = Image.fromarray(patches).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        pixels += np.asarray(smooth) * (weight / 255)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_images(folder: Path, count: int) -> None:
    """Ten classes; a handful of images in val/."""
    rng = np.random.default_rng(0)
    for i in range(count):
        for split in ("train", "val"):
            if split == "train" or i < 10:
                of_class = folder / split / str(i % 10)
                of_class.mkdir(parents=True, exist_ok=True)
                picture(rng).save(of_class / f"{i}.jpg", quality=88)


def plain(folder: Path, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """As in torchvision's own ImageNet training; without end."""
    steps = [
        transforms.RandomResizedCrop(SIZE),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    images = ImageFolder(str(folder / "train"), transforms.Compose(steps))
    order = RandomSampler(images, replacement=True, num_samples=10**9)
    yield from DataLoader(images, BATCH, sampler=order, num_workers=workers)


def ours(folder: Path, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    task = ImageNet(str(folder), BATCH, SIZE, workers)
    batches = task.train_batches(torch.Generator().manual_seed(0))
    try:
        yield from map(task.finish, batches)
    finally:
        batches.close()  # type: ignore[attr-defined]


def speed(loader: Iterator[object], images: int) -> float:
    """Images per second once the workers are at work; they end afterwards."""
    for _ in islice(loader, WARM):
        pass
    started = time.perf_counter()
    count = 0
    for _ in islice(loader, images // BATCH):
        count += BATCH
    found = count / (time.perf_counter() - started)
    loader.close()  # type: ignore[attr-defined]
    return found


def main(blocks: int, images: int, workers: int) -> None:
    torch.set_num_threads(1)
    ways: dict[str, Callable[[Path, int], Iterator[object]]] = {"plain": plain, "ours": ours}
    found: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, 512)
        for block in range(blocks + 1):
            for name in sorted(ways, reverse=block % 2 == 1):
                found[name].append(speed(ways[name](folder, workers), images))
    speeds = {name: np.array(values[1:]) for name, values in found.items()}
    low, middle, high = np.percentile(speeds["ours"] / speeds["plain"], [25, 50, 75])
    print("| images a second, plain | ours | ours / plain (quartiles) |\n|---|---|---|")
    print(f"| {np.median(speeds['plain']):.0f} | {np.median(speeds['ours']):.0f} | ", end="")
    print(f"{middle:.2f} ({low:.2f} to {high:.2f}) |")
    print(
        f"\n{blocks} blocks of {images} images, {workers} workers, {len(os.sched_getaffinity(0))} cores, "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=12, metavar="N", help="12 by default")
    parser.add_argument("--images", type=int, default=512, metavar="N", help="in a block; 512 by default")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="2 by default")
    options = parser.parse_args()
    main(options.blocks, options.images, options.workers)
