"""ImageNet: folders of images, and the digits."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms import v2

from clipbench.errors import UserError
from clipbench.task import MetricSet
from clipbench.task.loading import random_batches
from clipbench.tasks.imagenet import Digits, ImageNet, digits

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def write_images(folder: Path, count: int, mode: str = "RGB", size: tuple[int, int] = (14, 10)) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.effect_noise(size, 80 + i).convert(mode).save(folder / f"{i}.png")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, train, val in (("ant", 12, 1), ("bee", 18, 4), ("cat", 10, 3)):
        write_images(tmp_path / "train" / name, train)
        write_images(tmp_path / "val" / name, val)
    return tmp_path


def imagenet(folder: Path, size: int = 8, workers: int = 0) -> ImageNet:
    return ImageNet(str(folder), batch_size=4, size=size, workers=workers)


def files(task: ImageNet, split: str) -> set[str]:
    return {path for path, _ in task.samples[split]}


def test_validation_is_a_tenth_of_train_and_test_is_val(tree: Path):
    task = imagenet(tree)
    assert len(files(task, "val")) == 4
    assert files(task, "train") | files(task, "val") == {str(path) for path in tree.glob("train/*/*")}
    assert not files(task, "train") & files(task, "val")
    assert files(task, "test") == {str(path) for path in tree.glob("val/*/*")}
    assert task.data == f"{tree}, 3 classes, 36/4/8 images"
    assert task.steps_per_epoch == 9


def test_the_tenth_is_the_same_every_time(tree: Path):
    assert files(imagenet(tree), "val") == files(imagenet(tree), "val")


def test_labels_are_the_folders_in_alphabetical_order(tree: Path):
    task = imagenet(tree)
    assert task.classes == ["ant", "bee", "cat"]
    assert all(task.classes[label] == Path(path).parent.name for path, label in task.samples["train"])
    assert torch.cat([labels for *_, labels in task.eval_batches("test")]).tolist() == [0] + [1] * 4 + [2] * 3


def test_the_majority_of_training_is_right_on_four_test_images_of_eight(tree: Path):
    assert imagenet(tree).baseline() == ("majority class", {"top1": 0.5})


def test_evaluation_is_the_normalised_centre(tmp_path: Path):
    for split in ("train", "val"):
        write_images(tmp_path / split / "a", 4)
    Image.new("RGB", (30, 20), (255, 0, 51)).save(tmp_path / "val" / "a" / "0.png")
    task = imagenet(tmp_path)
    images, _ = task.finish(next(iter(task.eval_batches("test"))))
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    assert images.shape == (4, 3, 8, 8)
    assert images[0].amin((1, 2)).tolist() == pytest.approx(expected, abs=1e-5)
    assert images[0].amax((1, 2)).tolist() == pytest.approx(expected, abs=1e-5)


def test_grey_palette_and_transparent_images_become_three_channels(tmp_path: Path):
    for split in ("train", "val"):
        for mode in ("L", "P", "RGBA"):
            write_images(tmp_path / split / mode, 4, mode)
    assert next(imagenet(tmp_path).train_batches(torch.Generator()))[0].shape == (4, 3, 8, 8)


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_depends_on_rng_alone(tree: Path, workers: int):
    def first(workers: int, seed: int) -> torch.Tensor:
        batches = imagenet(tree, workers=workers).train_batches(torch.Generator().manual_seed(seed))
        found = torch.cat([imagenet(tree).finish(batch)[0] for batch in islice(batches, 3)])
        batches.close()  # type: ignore[attr-defined]
        return found

    torch.manual_seed(1)
    expected = first(0, seed=5)
    torch.manual_seed(2)
    assert torch.equal(first(workers, seed=5), expected)
    assert not torch.equal(first(workers, seed=6), expected)


LEVEL = 1 / 255 / 0.224  # of brightness, normalised, in the channel where it is largest


def test_training_images_are_those_of_torchvisions_transforms(tree: Path):
    """Resized and mirrored as bytes in a worker, normalised on the device: as if all had been done at once by
    Pillow, with the same draws, but for rounding.
    """
    steps = [
        v2.RandomResizedCrop(8),
        v2.RandomHorizontalFlip(),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
    ]
    whole = v2.Compose([*steps, v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
    task = imagenet(tree)
    theirs = random_batches(
        Whole(task.samples["train"], whole), 4, torch.Generator().manual_seed(3), workers=0
    )
    ours = task.train_batches(torch.Generator().manual_seed(3))
    for batch, (images, labels) in islice(zip(ours, theirs, strict=True), 9):
        assert batch[0].dtype == torch.uint8
        torch.testing.assert_close(task.finish(batch)[0], images, atol=LEVEL * 1.01, rtol=0)
        assert torch.equal(task.finish(batch)[1], labels)


def test_evaluation_images_are_those_of_torchvisions_transforms(tmp_path: Path):
    for split, size in (("train", (40, 30)), ("val", (331, 500))):
        write_images(tmp_path / split / "a", 4, size=size)
    whole = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.ToImage()])
    task = imagenet(tmp_path, size=224)
    theirs = Whole(task.samples["test"], whole)
    images, _ = next(iter(task.eval_batches("test")))
    for i, found in enumerate(images):
        assert (found.int() - theirs[i][0].int()).abs().max() <= 1


class Whole(Dataset):
    def __init__(self, samples, transform):
        self.samples, self.transform = samples, transform

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        path, label = self.samples[index]
        with Image.open(path) as image:
            return self.transform(image.convert("RGB")).as_subclass(torch.Tensor), label


def test_a_missing_folder_is_answered_with_the_layout(tmp_path: Path):
    with pytest.raises(UserError, match=r"nowhere.*Expected: DATA/train/<class>"):
        imagenet(tmp_path / "nowhere").prepare()


def test_a_folder_without_classes_is_answered_with_the_layout(tree: Path):
    (tree / "empty" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match=r"find any class folder.*Expected: DATA/train/<class>"):
        imagenet(tree / "empty").prepare()


def test_a_class_without_images_is_named(tree: Path):
    for path in tree.glob("train/bee/*"):
        path.unlink()
    with pytest.raises(UserError, match="bee"):
        imagenet(tree).prepare()


@pytest.mark.parametrize(("has", "lacks"), [("train", "val"), ("val", "train")])
def test_a_class_that_is_not_on_both_sides_is_named(tree: Path, has: str, lacks: str):
    write_images(tree / has / "dog", 2)
    with pytest.raises(UserError, match=rf"Class 'dog' is in .*{has} but not in .*{lacks}"):
        imagenet(tree).prepare()


@pytest.mark.parametrize(
    "stray", ["train/.ipynb_checkpoints/x.png", "train/readme.png", "val/ant/.x.png", "train/ant/notes.txt"]
)
def test_what_is_hidden_or_stray_is_no_class_and_no_image(tree: Path, stray: str):
    before, listed = imagenet(tree).data, list(ImageNet.data_files("data", tree))
    (tree / stray).parent.mkdir(exist_ok=True)
    Image.new("RGB", (4, 4)).save(tree / "x.png")
    (tree / "x.png").rename(tree / stray)
    assert imagenet(tree).data == before
    assert list(ImageNet.data_files("data", tree)) == listed


def test_the_loader_takes_the_files_of_the_id(tree: Path):
    task = imagenet(tree)
    taken = files(task, "train") | files(task, "val") | files(task, "test")
    assert taken == {str(path) for path in ImageNet.data_files("data", tree)}


def test_an_animation_among_many_is_named_before_training(tree: Path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tree / "train" / "bee" / "7.png", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match=r"bee/7\.png holds 2 frames"):
        imagenet(tree).train_batches(torch.Generator())


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_does_not_decode_is_named(tree: Path, workers: int):
    (tree / "val" / "cat" / "1.png").write_bytes(b"half of it")
    with pytest.raises(UserError, match=r"1\.png does not decode"):
        list(imagenet(tree, workers=workers).eval_batches("test"))
    with pytest.raises(UserError, match=r"1\.png does not decode"):
        imagenet(tree).prepare()


@pytest.mark.parametrize("name", ["size", "workers"])
def test_negative_numbers_are_refused(tree: Path, name: str):
    with pytest.raises(UserError, match=rf"task\.{name} must be a whole number"):
        imagenet(tree, **{name: -1})


def test_top_five_needs_more_than_five_classes(tree: Path):
    assert set(imagenet(tree).metrics()) == {"top1"}
    assert set(Digits(batch_size=4, size=32).metrics()) == {"top1", "top5"}


def test_top_five_stays_apart_from_top_one_after_a_perfect_batch():
    metrics = MetricSet(Digits(batch_size=4, size=32).metrics())
    metrics.update(torch.eye(10), torch.arange(10))
    ranks = torch.arange(10.0).repeat(10, 1)  # the best is class 9, the five best are 5 to 9
    metrics.update(ranks, torch.arange(10))
    assert metrics.values() == {"top1": pytest.approx(0.55), "top5": pytest.approx(0.75)}


def test_the_digits_are_parted_without_loss_or_repetition():
    from sklearn.datasets import load_digits

    parts = digits()
    assert [len(labels) for _, labels in parts.values()] == [1197, 300, 300]
    ours = np.concatenate([images.flatten(1).numpy() * 16 for images, _ in parts.values()])
    theirs = load_digits().data
    assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_digits_have_the_size_asked_for():
    images, labels = next(Digits(batch_size=4, size=24).train_batches(torch.Generator()))
    assert images.shape == (4, 3, 24, 24)
    assert labels.shape == (4,)
