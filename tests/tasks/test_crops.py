"""What is seen of an image: torchvision's part, resized by torch as Pillow would."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.tv_tensors import Mask

from clipbench.tasks.crops import centre, random_view, resized, whole_view


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def image(rng: np.random.Generator) -> Image.Image:
    """Noise, the hardest to resize alike, with edges in it."""
    pixels = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
    pixels[20:60, 30:50] = 255
    return Image.fromarray(pixels)


@pytest.fixture
def mask(rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(rng.integers(0, 21, (96, 128), dtype=np.uint8))


@pytest.mark.parametrize("shape", [(96, 128), (56, 56), (20, 127), (200, 31), (300, 400), (1, 1)])
def test_resizing_is_pillows_within_one_level(image: Image.Image, shape: tuple[int, int]):
    theirs = np.asarray(image.resize(shape[::-1], Image.Resampling.BILINEAR)).astype(int)
    ours = resized(image, shape).permute(1, 2, 0).numpy()
    assert ours.dtype == np.uint8
    assert np.abs(ours - theirs).max() <= 1


def test_image_and_mask_are_seen_as_by_torchvision(image: Image.Image, mask: torch.Tensor):
    """The same draws, the same part, the same side; the generator is left in the same state."""
    whole = v2.Compose([v2.RandomResizedCrop(32, scale=(0.25, 1.0)), v2.RandomHorizontalFlip(), v2.ToImage()])
    mirrored = 0
    for seed in range(20):
        torch.manual_seed(seed)
        pixels, labels = whole(image, Mask(mask))
        after = torch.rand(())
        torch.manual_seed(seed)
        view = random_view(image, 32, 0.25)
        assert torch.rand(()) == after
        mirrored += view.mirrored
        assert (view.pixels(image).int() - pixels.int()).abs().max() <= 1
        assert torch.equal(view.labels(mask), labels.as_subclass(torch.Tensor))
    assert 3 < mirrored < 17


def test_the_whole_is_seen_as_by_torchvision(image: Image.Image, mask: torch.Tensor):
    pixels, labels = v2.Compose([v2.Resize((32, 32)), v2.ToImage()])(image, Mask(mask))
    view = whole_view(image, 32)
    assert (view.pixels(image).int() - pixels.int()).abs().max() <= 1
    assert torch.equal(view.labels(mask), labels.as_subclass(torch.Tensor))


@pytest.mark.parametrize("size", [(128, 96), (96, 128), (500, 333), (9, 500), (31, 31)])
@pytest.mark.parametrize("side", [8, 32])
def test_the_centre_is_torchvisions(size: tuple[int, int], side: int):
    image = Image.effect_noise(size, 90).convert("RGB")
    theirs = v2.Compose([v2.Resize(side * 256 // 224), v2.CenterCrop(side), v2.ToImage()])(image)
    ours = centre(image, side)
    assert ours.shape == (3, side, side)
    assert (ours.int() - theirs.int()).abs().max() <= 1
