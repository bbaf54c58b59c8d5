"""The noise is what a closed form says, its tail is called heavy where it is and not where it is not, and the
figure shows it.
"""

import math
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats as scipy_stats
from tiny import Line
from torch import nn

from clipbench import stats
from clipbench.analysis import noise as findings
from clipbench.cli.main import main
from clipbench.errors import UserError
from clipbench.plot import tails as plot
from clipbench.record import tables
from clipbench.runs.noise import amounts, batch_norms, fixed, measure_noise, parse_steps
from clipbench.runs.plan import make_plan
from clipbench.tasks.imagenet import ImageNet
from clipbench.tasks.voc import VOC

N = 2000
POWER = {"pareto 1.5": scipy_stats.pareto(1.5), "pareto 3": scipy_stats.pareto(3)}
LIGHT = {
    "chi 3": scipy_stats.chi(3),
    "chi 1000": scipy_stats.chi(1000),
    "normal": scipy_stats.norm(20, 1),
    "uniform": scipy_stats.uniform(1, 1),
}


def quiet(done):
    """Nobody looks."""


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", POWER)
def test_a_power_tail_is_heavy_and_its_index_recovered(rng, name):
    alpha = POWER[name].args[0]
    tail = stats.tail(POWER[name].rvs(N, random_state=rng))
    assert tail.verdict == "heavy"
    assert 1 / alpha in tail.index
    k, estimate, low, high = stats.hill(tail.values)
    at = k == N // 10
    assert low[at] < alpha < high[at]
    assert tail.fits["pareto"].args[0] == pytest.approx(estimate[at][0])


@pytest.mark.parametrize("name", LIGHT)
def test_norms_of_gaussian_noise_and_lighter_are_not_heavy(rng, name):
    tail = stats.tail(LIGHT[name].rvs(N, random_state=rng))
    assert tail.verdict == "light"
    assert tail.index.low < 0


def test_an_exponential_tail_has_outliers_and_is_not_heavy(rng):
    tail = stats.tail(rng.exponential(size=N))
    assert tail.verdict == "outliers"
    assert 0 in tail.index
    assert (
        1 / (4 * 3**1.5) / 3.488e-3 in tail.rho
    )  # quartiles log 4/3 and log 4, so P = e^−(log 4 + 1.5 log 3)
    assert scipy_stats.skew(tail.values) == tail.skewness.estimate
    assert tail.skewness.low < 2 < tail.skewness.high


def test_false_alarms_are_as_rare_as_stated():
    """Of samples of 500 norms of Gaussian noise, at most the binomial's bound for 2.5 %."""
    rng = np.random.default_rng(1)
    found = sum(stats.tail_index(scipy_stats.chi(30).rvs(500, random_state=rng)).low > 0 for _ in range(100))
    assert found <= scipy_stats.binom.ppf(0.999, 100, 0.025)
    covered = sum(
        0.3 in stats.tail_index(scipy_stats.genpareto(0.3).rvs(1000, random_state=rng)) for _ in range(100)
    )
    assert covered >= scipy_stats.binom.ppf(
        0.001, 100, 0.93
    )  # profile likelihood with 100 values is a little short


def test_values_that_stand_apart_are_no_tail_law(rng):
    """One example in 46 batches gives a gradient three times as large: 22 passes are 22 such values, at one
    place.
    """
    bulk = rng.normal(2, 0.3, 990)
    tail = stats.tail(np.r_[bulk, rng.normal(6, 0.1, 22)])
    assert tail.index.low > 0  # what a fit alone would call heavy
    assert tail.verdict == "irregular"
    assert "No tail law fits" in findings.conclusion(tail)


def test_a_tail_law_is_rejected_as_rarely_as_stated():
    rng = np.random.default_rng(2)
    p = [stats.tail_fit(scipy_stats.genpareto(0.2).rvs(300, random_state=rng), rng, 39) for _ in range(30)]
    assert sum(each <= 0.05 for each in p) <= scipy_stats.binom.ppf(0.999, 30, 0.05)
    assert max(p) > 0.5


def test_the_index_is_scipys_maximum_likelihood(rng):
    x = np.sort(scipy_stats.t(4).rvs(N, random_state=rng) ** 2)
    start = x[N - N // 10 - 1]
    expected, _, _ = scipy_stats.genpareto.fit(x[x > start] - start, floc=0)
    assert stats.tail_index(x).estimate == pytest.approx(expected, abs=2e-3)
    assert stats.tail_index(x + 1000).estimate == pytest.approx(expected, abs=2e-3)
    assert stats.tail_index(x * 1e-6).estimate == pytest.approx(expected, abs=2e-3)


def test_hill_is_its_definition(rng):
    x = np.sort(rng.pareto(2, 60) + 1)[::-1]
    k, alpha, low, high = stats.hill(x)
    assert (k[0], k[-1]) == (5, 30)
    for i in (0, 7, 25):
        assert 1 / alpha[i] == pytest.approx(np.mean([math.log(x[j] / x[k[i]]) for j in range(k[i])]))
    exact = (
        scipy_stats.gamma(30).ppf([0.025, 0.975]) / 30
    )  # Σ of 30 log-excesses, each exponential of mean 1/α
    assert (low[-1], high[-1]) == pytest.approx(tuple(alpha[-1] * exact))


def test_fits_are_of_maximum_likelihood(rng):
    x = 3 * np.linalg.norm(rng.normal(size=(500, 7)), axis=1)
    fits = stats.tail(x).fits
    degrees, _, scale = scipy_stats.chi.fit(x, floc=0)
    assert fits["chi"].logpdf(x).sum() >= scipy_stats.chi(degrees, scale=scale).logpdf(x).sum() - 1e-3
    assert fits["chi"].args[0] == pytest.approx(7, rel=0.2)
    assert fits["chi"].kwds["scale"] == pytest.approx(3, rel=0.1)
    assert fits["lognormal"].args[0] == pytest.approx(scipy_stats.lognorm.fit(x, floc=0)[0], rel=1e-3)
    tail = stats.tail(x)
    above = x[x > tail.start]
    assert len(above) == 50
    assert tail.ccdf("exponential", np.array([tail.start]))[0] == pytest.approx(0.1, abs=0.005)
    assert tail.fits["exponential"].mean() == pytest.approx(above.mean())
    assert np.isnan(tail.ccdf("pareto", np.array([tail.start * 0.9]))).all()


@pytest.mark.parametrize(
    "values", [np.ones(200), np.zeros(200), np.arange(1, 60), np.r_[np.arange(1, 200.0), math.nan]]
)
def test_what_has_no_tail_is_refused(values):
    with pytest.raises(ValueError, match="at least 100 positive"):
        stats.tail(values)


def test_many_equal_values_are_no_crash():
    assert stats.tail(np.r_[np.ones(500), np.full(500, 2.0)]).verdict == "irregular"


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
    monkeypatch.setattr("clipbench.cli.tails.draw_tails", lambda rows, path: path)
    assert main([*WORDS, "--batches", "100"]) == 0
    assert sorted(set(table()["step"])) == [0, 20, 40]


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


def test_what_is_part_of_the_noise_is_said(rng):
    rows = rows_of(rng.pareto(1.2, 300) + 1)
    assert "all training data, 2 passes" in findings.provenance(rows)
    assert "no augmentation" in findings.provenance(rows)
    less = rows.assign(full_passes=0.02, drawn="the draw of neighbours")
    assert "these batches only" in findings.provenance(less)
    assert "the draw of neighbours is part of the noise" in findings.provenance(less)
    assert "neighbours" in plot.figure(less).get_suptitle()


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


def rows_of(*samples):
    about = {
        "run": "r0",
        "label": "toy (mini) · sgd · none · seed 0",
        "data": "",
        "passes": 2.0,
        "full_passes": 2.0,
        "drawn": "",
        "loss": 1.0,
        "grad_norm": 1.0,
        "full_norm": 0.5,
    }
    return pd.DataFrame(
        [
            about | {"step": 100 * i, "batch": j, "noise_norm": v}
            for i, x in enumerate(samples)
            for j, v in enumerate(x)
        ]
    )


def test_figure_has_a_row_for_each_step_and_shows_every_batch(rng):
    heavy, light = rng.pareto(1.2, 300) + 1, np.linalg.norm(rng.normal(size=(300, 50)), axis=1)
    fig = plot.figure(rows_of(heavy, light))
    assert [len(part.axes) for part in fig.subfigs] == [4, 4]
    texts = [part.get_suptitle() for part in fig.subfigs]
    assert "Heavy tail" in texts[0]
    assert "infinite variance" in texts[0]
    assert "No sign of a heavy tail" in texts[1]
    assert "300 batches, 2 passes" in fig.get_suptitle()
    assert "no augmentation" in fig.get_suptitle()
    x, share = fig.axes[1].lines[0].get_data()
    np.testing.assert_allclose(x, np.sort(heavy))
    assert all(
        above == pytest.approx(np.mean(heavy >= at)) for at, above in zip(x[::50], share[::50], strict=True)
    )


def test_sentences_claim_no_more_than_the_intervals(rng):
    heavy, outliers, light = (
        stats.tail(x)
        for x in (
            scipy_stats.genpareto(0.3).rvs(8000, random_state=rng) + 1,
            rng.exponential(size=N),
            rng.normal(9, 1, N),
        )
    )
    assert "finite variance" in findings.conclusion(heavy)
    assert f"above {1 / outliers.index.high:.1f}" in findings.conclusion(outliers)
    assert "not shown to be heavy" in findings.conclusion(outliers)
    assert "No sign" in findings.conclusion(light)
    assert "too few" in findings.conclusion(stats.tail(rng.exponential(size=100)))
    uniform = stats.tail(rng.uniform(1, 2, N))  # has no far values, and χ has some
    assert uniform.rho.high < uniform.rho_chi
    assert "so fewer than that" in findings.conclusion(uniform)
    assert "do not tell apart" in findings.conclusion(light)
    assert "excluded" in findings.conclusion(stats.tail(rng.uniform(1, 2, N)))


def test_drawing_imports_no_torch():
    code = "import sys, clipbench.plot.tails; print(*sys.modules)"
    loaded = set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )
    assert "clipbench.stats.tails" in loaded
    assert "torch" not in loaded
