"""The noise at fixed weights is what a closed form says, and the command measures it once."""

import math
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny import Line
from torch import nn

from clipbench.cli.main import main
from clipbench.errors import UserError
from clipbench.record import tables
from clipbench.runs.noise import amounts, batch_norms, fixed, measure_noise, parse_steps
from clipbench.runs.plan import make_plan
from clipbench.tasks.imagenet import ImageNet
from clipbench.tasks.voc import VOC


def quiet(done):
    """Nobody looks."""


class Plane(Line):
    """Least squares: f(w) = mean (x·w − y)² has the gradient 2/n Xᵀ(Xw − y)."""

    def model(self, rng):
        return nn.Linear(5, 1, bias=False)


def passes(task):
    return lambda count: islice(task.train_batches(torch.Generator().manual_seed(4)), count)


def test_full_gradient_and_noise_are_those_of_least_squares():
    task = Plane()
    model = task.model(None)
    w, x, y = (part.detach().double().numpy() for part in (model.weight[0], task.x[:128], task.y[:128, 0]))
    full = 2 / 128 * x.T @ (x @ w - y)
    found = batch_norms(task, model, passes(task), 5, 8, quiet)  # five batches, and a pass has eight
    assert len(found) == 5
    for row, (xb, yb) in zip(found, passes(task)(5), strict=True):
        xb, yb = xb.double().numpy(), yb[:, 0].double().numpy()
        gradient = 2 / 16 * xb.T @ (xb @ w - yb)
        assert row["full_norm"] == pytest.approx(np.linalg.norm(full), rel=1e-5)
        assert row["grad_norm"] == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
        assert row["noise_norm"] == pytest.approx(np.linalg.norm(gradient - full), rel=1e-5)
        assert row["loss"] == pytest.approx(np.mean((xb @ w - yb) ** 2), rel=1e-5)
    assert all(p.grad is None for p in model.parameters())


def test_evaluation_mode_draws_nothing_and_leaves_the_model_alone():
    task = Line()
    model = task.model(None).train()
    once, again = (
        batch_norms(task, fixed(task, model, passes(task), 8), passes(task), 8, 8, quiet) for _ in range(2)
    )
    assert once == again  # dropout would differ
    assert model.training


def test_batch_normalisation_takes_the_statistics_of_the_data():
    task = Line()
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 1)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    settled = fixed(task, model, passes(task), 8)
    torch.testing.assert_close(settled[0].running_mean, task.x[:128].mean(0))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not settled[0].training


def test_a_gradient_that_is_not_finite_is_named():
    task = Plane(explode_at=11)  # the third batch when they are gone through again
    with pytest.raises(UserError, match="batch 2 is not finite"):
        batch_norms(task, task.model(None), passes(task), 8, 8, quiet)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mine" / "task").mkdir(parents=True)
    (tmp_path / "mine" / "task" / "line.yaml").write_text("name: line\n_target_: tiny.Line\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


WORDS = ["tails", "--config-dir", "mine", "task=line", "optim=sgd", "optim.lr=0.05", "steps=40", "threads=1"]


def measured(at, count, *more):
    """Into the tables, without figures and sentences, which take most of the command's time."""
    return measure_noise(make_plan([*WORDS[3:], *more], Path("mine")), at, count)


def table():
    return pd.concat([pd.read_parquet(path) for path in sorted(Path("results/tails").glob("*.parquet"))])


def test_from_the_command_line(folder, capsys):
    assert main([*WORDS, "--at", "0,20", "--batches", "100"]) == 0
    out = capsys.readouterr().out
    assert out.count("skewness") == 2
    assert out.count("Error rates") == 1
    assert (folder / out.splitlines()[-1]).read_bytes().startswith(b"\x89PNG")
    rows = table()
    assert rows.groupby("step").size().to_dict() == {0: 104, 20: 104}  # 13 whole passes of 8
    assert set(rows["passes"]) == {13.0}
    assert rows.groupby("step")["full_norm"].nunique().tolist() == [1, 1]
    assert list(rows.columns) == tables.SCHEMAS["tails"].names
    assert not (folder / "results" / ".work").exists()
    measured([20], 100, "results=alone")
    alone = pd.read_parquet("alone/tails")
    pd.testing.assert_frame_equal(
        alone, rows[rows["step"] == 20].reset_index(drop=True)
    )  # measuring does not disturb training


def test_what_is_measured_is_not_measured_again(folder, monkeypatch):
    measured([0], 100)
    first = table()
    monkeypatch.setattr(
        "clipbench.runs.noise._measure", lambda plan, at, *_: pytest.fail(f"measured {at} again")
    )
    measured([0], 104)
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    measured([0, 8], 110)
    rows = table()
    assert rows.groupby("step").size().to_dict() == {0: 112, 8: 112}
    assert rows["noise_norm"].tolist()[:104] != first["noise_norm"].tolist()  # another mean
    rows.drop(columns=["drawn", "full_passes"]).to_parquet(
        next(Path("results/tails").glob("*.parquet"))
    )  # of an earlier version
    assert (measured([0], 100)["drawn"] == Line.drawn).all()


def test_status_and_rm_do_not_mind(folder, capsys):
    assert main(["run", *WORDS[1:], "eval_every=40"]) == 0
    measured([0], 100)
    capsys.readouterr()
    assert main(["status", "results"]) == 0
    assert "1 run: 1 done" in capsys.readouterr().out
    assert main(["rm", "results", "task=line", "--yes"]) == 0
    assert main(["plot", "results"]) == 2


def test_without_at_it_measures_the_start_half_way_and_the_end(folder, monkeypatch):
    assert parse_steps(None, 40) == [0, 20, 40]
    assert parse_steps(None, 1) == [0, 1]
    monkeypatch.setattr("clipbench.cli.tails.samples", lambda rows: {})
    monkeypatch.setattr("clipbench.cli.tails.draw_tails", lambda rows, path, width: path)
    assert main([*WORDS, "--batches", "100"]) == 0
    assert sorted(set(table()["step"])) == [0, 20, 40]


@pytest.mark.parametrize(("given", "inches"), [([], 6.75), (["--width", "3.25in"], 3.25)])
def test_the_figure_is_as_wide_as_asked(folder, given, inches):
    assert main([*WORDS, "--at", "0", "--batches", "100", *given]) == 0
    (path,) = Path("results/figures").glob("*_tails.png")
    with Image.open(path) as drawn:
        assert drawn.width == pytest.approx(300 * inches, abs=1)


def test_the_full_gradient_is_that_of_a_whole_pass(folder, capsys):
    """A pass has 128 batches of one example each."""
    (folder / "mine" / "task" / "line.yaml").write_text(
        "name: line\n_target_: test_tails.Plane\nbatch_size: 1\n"
    )
    assert main([*WORDS, "--at", "0", "--batches", "100"]) == 0
    few = table()
    measured([0], 128, "results=all")
    every = pd.read_parquet("all/tails")
    assert (len(few), len(every)) == (100, 128)
    assert set(few["full_norm"]) == set(every["full_norm"])
    assert few["passes"].iloc[0] == 100 / 128
    assert set(few["full_passes"]) == {1.0}
    assert "all training data, 1 pass" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("epoch", "count", "expected"),
    [
        (8, 100, (104, 104)),
        (128, 100, (100, 128)),
        (1000, 100, (100, 1000)),
        (1001, 100, (100, 100)),
        (math.nan, 100, (100, 100)),
    ],
)
def test_a_pass_of_more_than_ten_times_the_batches_is_not_gone_through(epoch, count, expected):
    assert amounts(epoch, count) == expected


def test_images_are_measured_without_augmentation(tmp_path):
    pixels = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(10):
                Image.fromarray(pixels.integers(256, size=(40, 48, 3), dtype=np.uint8)).save(
                    tmp_path / part / name / f"{i}.png"
                )
    task = ImageNet(str(tmp_path), batch_size=18, size=32, workers=0)

    def examples(batches, seed):
        images, labels = task.finish(next(batches(torch.Generator().manual_seed(seed))))
        return {(image.numpy().tobytes(), int(label)) for image, label in zip(images, labels, strict=True)}

    assert examples(task.plain_batches, 0) == examples(task.plain_batches, 1)  # in another order
    assert len(examples(task.plain_batches, 0)) == 18
    assert not examples(task.train_batches, 0) & examples(task.train_batches, 1)


def test_segmentation_is_measured_without_augmentation(tmp_path):
    root, pixels = tmp_path / "VOCdevkit" / "VOC2012", np.random.default_rng(0)
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for i in range(12):
        Image.fromarray(pixels.integers(256, size=(40, 48, 3), dtype=np.uint8)).save(
            root / "JPEGImages" / f"{i}.jpg"
        )
        Image.fromarray(pixels.integers(3, size=(40, 48), dtype=np.uint8)).save(
            root / "SegmentationClass" / f"{i}.png"
        )
    for split, numbers in {"train": range(10), "val": range(10, 12)}.items():
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("".join(f"{i}\n" for i in numbers))
    task = VOC(str(tmp_path), batch_size=9, size=32, width=4, classes=3, workers=0)

    def examples(batches, seed):
        images, masks = task.finish(next(batches(torch.Generator().manual_seed(seed))))
        return {
            (image.numpy().tobytes(), mask.numpy().tobytes())
            for image, mask in zip(images, masks, strict=True)
        }

    assert examples(task.plain_batches, 0) == examples(task.plain_batches, 1)
    assert len(examples(task.plain_batches, 0)) == 9
    assert not examples(task.train_batches, 0) & examples(task.train_batches, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--at", "x"], "--at takes numbers of training steps"),
        (["--at", "0,50"], "steps 0 to 40"),
        (["--at", "-1"], "steps 0 to 40"),
        (["--batches", "5"], "at least 100"),
        (["--batches", "many"], "--batches"),
        (["--at", "10", "task.explode_at=9"], "diverged at step 9"),
        (["task.batch_size=128", "optim.clipping_type=none"], "no noise"),
        (["optim.lr=-1"], "optim.lr"),
    ],
)
def test_mistakes_are_one_message(folder, capsys, words, message):
    (folder / "mine" / "task" / "line.yaml").write_text(
        "name: line\n_target_: tiny.Line\nbatch_size: 16\nexplode_at: -1\n"
    )
    assert main([*WORDS, "--batches", "100", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
