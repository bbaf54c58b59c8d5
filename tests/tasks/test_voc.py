"""VOC: its folders, masks, metrics, the UNet, and the scenes of digits."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from clipbench.errors import UserError
from clipbench.task import MetricSet
from clipbench.tasks.voc import VOC, VOID, DigitScenes, UNet

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def write_pair(root: Path, name: str, mask: np.ndarray) -> None:
    """The image shows the class: black, red, green."""
    colours = np.zeros((256, 3), np.uint8)
    colours[1], colours[2] = (255, 0, 0), (0, 255, 0)
    Image.fromarray(colours[mask]).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
    labels = Image.fromarray(mask).convert("P")
    labels.putdata(mask.flatten().tolist())
    labels.save(root / "SegmentationClass" / f"{name}.png")


def halves(left: int, right: int) -> np.ndarray:
    return np.repeat(np.array([[left, right]], np.uint8), 20, 0).repeat(12, 1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """VOCdevkit/VOC2012: 20 training images of class 1 beside class 2, 2 of class 0; 2 to test, one half
    void.
    """
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    masks = {f"t{i}": halves(1, 2) for i in range(20)} | {f"z{i}": halves(0, 1) for i in range(2)}
    tests = {"v0": halves(1, VOID), "v1": halves(1, 0)}
    for name, mask in {**masks, **tests}.items():
        write_pair(root, name, mask)
    for image_set, names in {"train": masks, "val": tests}.items():
        (root / "ImageSets" / "Segmentation" / f"{image_set}.txt").write_text("\n".join(names) + "\n")
    return root


def task(root: Path, classes: int | None = None, workers: int = 0) -> VOC:
    return VOC(str(root.parents[1]), batch_size=4, size=16, width=2, classes=classes, workers=workers)


def names(files: list[tuple[str, str]]) -> list[str]:
    assert all(Path(image).stem == Path(mask).stem for image, mask in files)
    return [Path(image).stem for image, _ in files]


def test_validation_is_a_tenth_of_the_train_list_and_test_is_the_val_list(root: Path):
    files = task(root).files
    assert len(files["val"]) == 2
    assert sorted(names(files["train"]) + names(files["val"])) == sorted(
        [f"t{i}" for i in range(20)] + ["z0", "z1"]
    )
    assert names(files["test"]) == ["v0", "v1"]
    assert task(root).data == f"{root.parents[1]}, 3 classes, 20/2/2 images"


def test_classes_are_found_in_the_training_masks_or_given(root: Path):
    assert task(root).classes == 3
    assert task(root, classes=21).classes == 21


def test_classes_with_a_gap_are_not_guessed(root: Path):
    write_pair(root, "t0", halves(1, 200))
    with pytest.raises(UserError, match=r"\[0, 1, 2, 200\].*task\.classes=N"):
        task(root).prepare()


@pytest.mark.parametrize("classes", [None, 2, 21])
def test_a_foreground_of_255_is_not_taken_for_void(root: Path, classes: int | None):
    for path in (root / "SegmentationClass").iterdir():
        write_pair(root, path.stem, halves(0, VOID))
    with pytest.raises(UserError, match=r"hold only \[0\] and 255\. 255 is void.*with 1 in its place"):
        task(root, classes).train_batches(torch.Generator())


@pytest.mark.parametrize("void", [254, 100])
@pytest.mark.parametrize("classes", [None, 3])
def test_another_number_for_void_is_named_with_its_file(root: Path, void: int, classes: int | None):
    write_pair(root, "t7", halves(1, void))
    with pytest.raises(UserError, match=rf"t7\.png h.*{void}.* 255 for void"):
        task(root, classes).train_batches(torch.Generator())


def test_a_mask_on_its_side_is_turned_with_its_image(root: Path):
    for path in (root / "JPEGImages/v0.jpg", root / "SegmentationClass/v0.png"):
        with Image.open(path) as image:
            image.load()
            exif = Image.Exif()
            exif[0x0112] = 6
            image.save(path, exif=exif)
    _, masks = task(root).finish(next(iter(task(root).eval_batches("test"))))
    assert (masks[0, :8] == 1).all()
    assert (masks[0, 8:] == VOID).all()
    with Image.open(root / "JPEGImages/v1.jpg") as image:
        image.save(root / "JPEGImages/v1.jpg", exif=exif)
    with pytest.raises(UserError, match=r"v1\.jpg is 24 × 20 pixels, but its mask"):
        task(root).train_batches(torch.Generator())


def test_masks_are_counted_once(root: Path, monkeypatch: pytest.MonkeyPatch):
    expected = task(root).data
    monkeypatch.setattr("clipbench.tasks.voc_files.read_mask", None)
    assert task(root).data == expected


def test_the_majority_is_right_on_two_thirds_of_the_test_pixels(root: Path):
    """Class 1 fills a half in every training image: 2 of 3 test halves that count are of class 1, and none is
    of class 2.
    """
    name, values = task(root).baseline()
    assert name == "majority class"
    assert values == {"accuracy": pytest.approx(2 / 3), "miou": pytest.approx((2 / 3 + 0) / 2)}


def test_image_and_mask_are_augmented_together(root: Path):
    batches = task(root).train_batches(torch.Generator().manual_seed(0))
    for _ in range(5):
        images, masks = task(root).finish(next(batches))
        assert images.shape == (4, 3, 16, 16)
        assert masks.shape == (4, 16, 16)
        assert masks.dtype == torch.long
        red, green = images[:, 0] > 0.1, images[:, 1] > 0.1
        assert (red == (masks == 1)).float().mean() > 0.9
        assert (green == (masks == 2)).float().mean() > 0.9


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_depends_on_rng_alone(root: Path, workers: int):
    def first(workers: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        batches = task(root, workers=workers).train_batches(torch.Generator().manual_seed(seed))
        images, masks = task(root).finish(next(batches))
        batches.close()  # type: ignore[attr-defined]
        return images, masks

    torch.manual_seed(1)
    expected = first(0, seed=5)
    torch.manual_seed(2)
    assert all(map(torch.equal, first(workers, seed=5), expected))
    assert not torch.equal(first(workers, seed=6)[0], expected[0])


def test_evaluation_is_the_whole_image(root: Path):
    _, masks = task(root).finish(next(iter(task(root).eval_batches("test"))))
    assert torch.equal(masks[0], torch.tensor([[1] * 8 + [VOID] * 8] * 16))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_class_out_of_range_is_named_with_its_file(root: Path, workers: int):
    write_pair(root, "v1", halves(1, 7))
    with pytest.raises(UserError, match=r"v1\.png holds class 7; the classes are 0 to 2"):
        list(task(root, workers=workers).eval_batches("test"))


def test_an_image_and_a_mask_of_two_sizes_are_refused(root: Path):
    Image.new("RGB", (30, 20)).save(root / "JPEGImages" / "v0.jpg")
    with pytest.raises(UserError, match=r"v0\.jpg is 20 × 30 pixels, but its mask .*v0\.png \(20, 24\)"):
        list(task(root).eval_batches("test"))


def test_a_mask_of_colours_is_refused(root: Path):
    Image.new("RGB", (24, 20)).save(root / "SegmentationClass" / "t3.png")
    with pytest.raises(UserError, match=r"t3\.png is a mask of mode RGB"):
        task(root).prepare()


@pytest.mark.parametrize("path", ["JPEGImages/v1.jpg", "SegmentationClass/v1.png"])
def test_a_file_that_does_not_decode_is_named(root: Path, path: str):
    (root / path).write_bytes(b"half of it")
    with pytest.raises(UserError, match=r"v1\.... does not decode"):
        task(root).prepare()


@pytest.mark.parametrize(
    "path", ["JPEGImages/t5.jpg", "SegmentationClass/v0.png", "ImageSets/Segmentation/val.txt"]
)
def test_a_file_that_is_missing_is_named(root: Path, path: str):
    (root / path).unlink()
    with pytest.raises(UserError, match=rf"not complete: .*{Path(path).name}.*clipbench prepare"):
        task(root).prepare()


def test_a_list_of_nothing_is_refused(root: Path):
    (root / "ImageSets/Segmentation/train.txt").write_text("")
    with pytest.raises(UserError, match=r"train\.txt in .* lists 0 images"):
        task(root).prepare()


def test_a_missing_folder_is_answered_with_layout_and_remedy(tmp_path: Path):
    with pytest.raises(
        UserError,
        match=r"no VOCdevkit/VOC2012 in .*JPEGImages/.*prepare task=voc scale=full.*task\.data=DATA",
    ):
        task(tmp_path / "VOCdevkit" / "VOC2012").train_batches(torch.Generator())


def test_a_download_that_breaks_off_leaves_nothing_that_looks_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(root: Path, year: str, image_set: str, download: bool) -> None:
        (root / "VOCdevkit" / "VOC2012" / "JPEGImages").mkdir(parents=True)
        raise OSError("the network is unreachable")

    monkeypatch.setattr(torchvision.datasets, "VOCSegmentation", broken)
    with pytest.raises(UserError, match=r"Cannot download .* unreachable.*task\.data=DATA"):
        VOC(str(tmp_path), batch_size=4, size=16, width=2).prepare()
    assert not (tmp_path / "VOCdevkit").exists()


def test_a_download_is_put_in_place_and_checked(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = torchvision.datasets.VOCSegmentation

    def fetched(folder: Path, year: str, image_set: str, download: bool = False) -> object:
        if download:
            root.parent.rename(folder / "VOCdevkit")
        return real(folder, year=year, image_set=image_set)

    monkeypatch.setattr(torchvision.datasets, "VOCSegmentation", fetched)
    found = VOC(str(tmp_path / "new"), batch_size=4, size=16, width=2, workers=0).prepare()
    assert found == f"{tmp_path / 'new'}, 3 classes, 20/2/2 images"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["VOCdevkit"]


def test_metrics_leave_void_out_as_torchmetrics_does():
    rng = torch.Generator().manual_seed(0)
    metrics = MetricSet(DigitScenes(batch_size=4, size=16, width=2).metrics())
    oracles = {
        "miou": MulticlassJaccardIndex(7, ignore_index=VOID),
        "accuracy": MulticlassAccuracy(7, ignore_index=VOID, average="micro"),
    }
    for _ in range(2):
        outputs, targets = torch.randn(3, 7, 5, 6, generator=rng), torch.randint(6, (3, 5, 6), generator=rng)
        targets[:, :2] = VOID
        metrics.update(outputs, targets)
        for oracle in oracles.values():
            oracle.update(outputs, targets)
    expected = {name: pytest.approx(float(oracle.compute())) for name, oracle in oracles.items()}
    assert metrics.values() == expected


def test_void_has_no_part_in_the_loss():
    scenes = DigitScenes(batch_size=4, size=16, width=2)
    outputs, targets = torch.randn(2, 7, 4, 4), torch.randint(7, (2, 4, 4))
    masked = targets.clone()
    masked[:, 2:] = VOID
    assert scenes.loss(outputs, masked).item() == pytest.approx(
        scenes.loss(outputs[:, :, :2], targets[:, :2]).item()
    )


@pytest.mark.parametrize("shape", [(64, 64), (33, 47), (5, 100), (1, 1)])
def test_the_unet_takes_any_size(shape: tuple[int, int]):
    net = UNet(classes=4, width=2).eval()
    assert net(torch.randn(2, 3, *shape)).shape == (2, 4, *shape)


def test_the_unet_has_the_published_number_of_weights():
    """Ronneberger et al., figure 1: width 64 doubled four times; kernels counted by hand, two batch-norm
    weights a channel.
    """
    widths = [64, 128, 256, 512, 1024]
    convolutions = 9 * (3 * 64 + sum(a * b for a, b in pairwise(widths)) + sum(w * w for w in widths))
    convolutions += 9 * sum(2 * w * w + w * w for w in widths[:-1])
    upsampling = sum(4 * a * b + a for a, b in pairwise(widths))
    norms = 2 * 2 * (sum(widths) + sum(widths[:-1]))
    head = 64 * 21 + 21
    assert sum(p.numel() for p in UNet(21, 64).parameters()) == convolutions + upsampling + norms + head


def test_scenes_hold_every_class_in_every_split_and_void_edges():
    scenes = DigitScenes(batch_size=4, size=32, width=2)
    for split in ("train", "val", "test"):
        images, masks = scenes.parts[split]
        assert set(masks.unique().tolist()) == {*range(7), VOID}
        assert images.shape == (len(masks), 3, 32, 32)
    assert scenes.data.endswith("/".join(str(len(masks)) for _, masks in scenes.parts.values()) + " images")
