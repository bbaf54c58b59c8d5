"""The figures show what the tables say: means and intervals as scipy has them, nothing averaged that differs,
nothing left out unsaid.
"""

import json

import numpy as np
import pytest
from madeup import ranking_of, study, write_table
from scipy import stats

from clipbench.analysis.comparison import rankings
from clipbench.analysis.groups import read_groups
from clipbench.errors import Unreadable, UserError
from clipbench.plot import style
from clipbench.plot.comparison import comparison
from clipbench.plot.distribution import distribution
from clipbench.plot.levels import levels
from clipbench.plot.looks import HUES, looks, method_looks, shade
from clipbench.plot.trajectory import trajectory
from clipbench.report.draw import draw

STEPS = 40


def write(
    folder,
    seed=0,
    clipping_type="norm",
    level=1.0,
    p=None,
    lr=1e-3,
    status="done",
    final=0.5,
    norms=None,
    task="toy",
    **config,
):
    """One run with a loss and a metric of its own per seed."""
    rng = np.random.default_rng(seed)
    run = f"{task}-{clipping_type}-{level}-{p}-{lr}-{seed}-{config.get('momentum')}"
    norms = np.exp(rng.normal(size=STEPS)) if norms is None else norms
    factors = np.minimum(1, (level or np.inf) / np.where(norms > 0, norms, 1))
    clipped = np.where(np.isfinite(norms), np.nan_to_num(norms) * factors, np.nan)
    loss = rng.uniform(1, 2, STEPS)
    if status == "diverged":
        loss[-1] = np.inf
    steps = [
        {
            "step": i + 1,
            "seconds": (i + 1) / 10,
            "loss": loss[i],
            "grad_norm": norms[i],
            "clipped_norm": clipped[i],
            "clip_factor": factors[i],
            "lr": lr,
        }
        for i in range(STEPS)
    ]
    evals = [
        {
            "step": step,
            "seconds": step / 10,
            "split": split,
            "metric": "accuracy",
            "value": final - 0.1 * (STEPS - step) / STEPS + 0.01 * seed,
        }
        for step in range(0, STEPS + 1, 10)
        for split in ("train", "val")
    ]
    settings = {
        "task": {"name": task},
        "optim": {"name": "sgd", "lr": lr, "clipping_type": clipping_type, **config},
        "seed": seed,
    }
    row = {
        "task": task,
        "scale": "mini",
        "optimizer": "sgd",
        "lr": lr,
        "clipping_type": clipping_type,
        "clipping_level": level,
        "p_autoclip": p,
        "seed": seed,
        "status": status,
        "steps": STEPS,
        "seconds": 1.0,
        "skipped": 0,
        "headline": "accuracy",
        "higher_is_better": True,
        "final": final + 0.01 * seed,
        "started": f"{seed:03d}",
        "config": json.dumps(settings),
    }
    write_table(folder, "steps", run, steps)
    write_table(folder, "evals", run, evals)
    write_table(folder, "runs", run, [row])


def only(folder):
    (group,) = read_groups(folder)
    return group


def labels(group):
    return [method.label for method in group.configurations]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_four_files_for_each_task(tmp_path):
    for seed in range(2):
        write(tmp_path, seed)
        write(tmp_path, seed, "auto", level=None, p=0.1)
        write(tmp_path, seed, "none", level=None)
        write(tmp_path, seed, task="other")
    written = draw(tmp_path, tmp_path / "figures")
    names = [
        f"{task}_mini_sgd_{figure}.png"
        for task in ("other", "toy")
        for figure in ("comparison", "levels", "norms", "clipping")
    ]
    assert [path.name for path in written] == [*names, "report.html"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written[:-1])


def test_band_is_the_t_interval_of_the_mean(tmp_path):
    for seed in range(5):
        write(tmp_path, seed)
    figure = comparison(only(tmp_path))
    ax = figure.axes[2]
    steps, seeds = np.arange(0, STEPS + 1, 10), np.arange(5)
    values = 0.5 - 0.1 * (STEPS - steps[:, None]) / STEPS + 0.01 * seeds
    low, high = stats.t.interval(0.95, 4, loc=values.mean(1), scale=stats.sem(values, axis=1))
    np.testing.assert_allclose(ax.lines[0].get_ydata(), values.mean(1))
    corners = ax.collections[0].get_paths()[0].vertices
    for step, bottom, top in zip(steps, low, high, strict=True):
        at = corners[corners[:, 0] == step, 1]
        np.testing.assert_allclose([at.min(), at.max()], [bottom, top])
    half = stats.t.ppf(0.975, 4) * np.std([0, 0.01, 0.02, 0.03, 0.04], ddof=1) / np.sqrt(5)
    assert legend(figure) == [f"norm   0.520 ± {half:.3f}"]
    assert "n=5" in figure.legends[0].get_title().get_text()


def test_one_seed_has_no_band_and_says_so(tmp_path):
    write(tmp_path)
    figure = comparison(only(tmp_path))
    assert legend(figure) == ["norm   0.500"]
    assert "n=1" in figure.legends[0].get_title().get_text()
    assert "t-interval" not in figure.legends[0].get_title().get_text()
    assert not figure.axes[2].collections


def test_legend_is_short_and_best_first(tmp_path):
    write(tmp_path, clipping_type="norm", level=0.5, final=0.6)
    write(tmp_path, clipping_type="norm", level=np.inf, final=0.5)
    write(tmp_path, clipping_type="layer_wise", level=1.0, final=0.7)
    write(tmp_path, clipping_type="auto", level=None, p=0.1, final=0.4)
    assert labels(only(tmp_path)) == ["layer_wise", "norm 0.5", "norm ∞", "auto"]
    assert [entry.split("   ")[1] for entry in legend(comparison(only(tmp_path)))] == [
        "0.700",
        "0.600",
        "0.500",
        "0.400",
    ]


def test_settings_that_differ_are_not_seeds(tmp_path):
    write(tmp_path, 0, lr=0.1)
    write(tmp_path, 1, lr=0.1)
    write(tmp_path, 1, lr=0.01)
    write(tmp_path, 2, lr=0.01, momentum=0.5)
    group = only(tmp_path)
    assert sorted(labels(group)) == ["norm lr=0.01", "norm lr=0.01 momentum=0.5", "norm lr=0.1"]
    assert {method.label: len(method.done) for method in group.configurations}["norm lr=0.1"] == 2


def test_a_level_that_the_type_ignores_makes_no_method(tmp_path):
    write(tmp_path, 0, "none", level=None, clipping_level=0.5)
    write(tmp_path, 1, "none", level=None, clipping_level=2.0)
    assert labels(only(tmp_path)) == ["none"]


def test_diverged_is_marked_and_counted_outside_the_mean(tmp_path):
    for seed in range(3):
        write(tmp_path, seed, status="diverged" if seed == 2 else "done")
    write(tmp_path, 0, "none", level=None, status="diverged")
    group = only(tmp_path)
    figure = comparison(group)
    assert legend(figure)[0].startswith("norm   0.505")
    assert legend(figure)[0].endswith("n=2   1✕")
    assert legend(figure)[1] == "none   –   n=0   1✕"
    for panel in (*figure.axes, levels(group).axes[0], trajectory(group).axes[0]):
        assert any(line.get_marker() == "X" for line in panel.lines)


def test_failed_runs_are_left_out_in_words(tmp_path):
    write(tmp_path, 0)
    write(tmp_path, 1, status="failed")
    group = only(tmp_path)
    assert len(group.configurations[0].runs) == 1
    for figure in (comparison, levels, distribution, trajectory):
        assert "runs left out: 1 failed" in figure(group).get_suptitle()


def test_levels_stand_over_their_own_axis(tmp_path):
    for level in (0.1, 1.0, np.inf):
        for seed in range(2):
            write(tmp_path, seed, level=level, final=0.5)
    write(tmp_path, 0, "auto", level=None, p=0.1, final=0.3)
    write(tmp_path, 0, "none", level=None, final=0.4)
    norm, auto = levels(only(tmp_path)).axes
    assert (norm.get_xscale(), auto.get_xscale()) == ("log", "linear")
    assert [tick.get_text() for tick in norm.get_xticklabels()] == ["0.1", "1", "∞"]
    assert any(list(line.get_ydata()) == [0.4, 0.4] for line in auto.lines)  # none
    mean = next(line for line in norm.lines if len(line.get_xdata()) == 3)
    np.testing.assert_allclose(mean.get_ydata(), 0.505)


def test_share_clipped_leaves_out_skipped_steps_and_the_tail_counts_every_step(tmp_path):
    norms = np.concatenate([np.full(10, 0.5), np.full(26, 2.0), [0.0, np.inf, np.nan, 2.0]])
    write(tmp_path, norms=norms)
    figure = distribution(only(tmp_path))
    density, tail = figure.axes
    assert density.texts[0].get_text() == "71.1 % clipped\n1 zero\n2 not finite"  # 27 of 38
    x, share = tail.lines[0].get_data()
    for at, above in zip(x, share, strict=True):
        assert above >= (np.sum(norms > at) + 1) / STEPS - 1e-12
    assert share.min() == pytest.approx(3 / STEPS)  # the largest finite norm, and the two beyond it


def test_zero_inf_and_constant_norms_are_drawn(tmp_path):
    write(tmp_path, norms=np.full(STEPS, 2.0), level=0.5)
    write(tmp_path, norms=np.zeros(STEPS), level=1.0)
    write(tmp_path, norms=np.full(STEPS, np.nan), level=2.0)
    write(tmp_path, norms=np.geomspace(1e-8, 1e8, STEPS), level=4.0)
    assert len(draw(tmp_path, tmp_path / "figures")) == 5


def test_before_and_after(tmp_path):
    norms = np.linspace(0.5, 3, STEPS)
    write(tmp_path, norms=norms)
    before, after = trajectory(only(tmp_path)).axes[0].lines
    np.testing.assert_allclose(before.get_ydata(), norms, rtol=1e-6)
    np.testing.assert_allclose(after.get_ydata(), np.minimum(norms, 1), rtol=1e-6)


def test_a_method_keeps_its_colour(tmp_path):
    for level in (0.5, 1.0, 2.0):
        write(tmp_path, level=level, final=level / 4)
    group = only(tmp_path)
    colours = {configuration.label: look.colour for configuration, look in looks(group)}
    assert len(set(colours.values())) == 3
    drawn = {line.get_label(): line.get_color() for line in comparison(group).axes[0].lines}
    tails = {line.get_label(): line.get_color() for line in distribution(group).axes[-1].lines}
    assert drawn == tails == colours


def test_more_methods_than_fit_are_cut_in_words(tmp_path):
    for level in range(1, 36):
        write(tmp_path, level=float(level), final=level / 100)
    group = only(tmp_path)
    figure = comparison(group)
    assert "the best 30 of 35 methods" in figure.get_suptitle()
    assert legend(figure)[0].startswith("norm 35 ")
    assert "best" not in levels(group).get_suptitle()
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert all(box.y1 <= ax.get_window_extent().y0 for ax in figure.axes)


def test_foreign_file_is_skipped_with_a_warning(tmp_path):
    write(tmp_path)
    (tmp_path / "runs" / "foreign.parquet").write_text("not a table")
    with pytest.warns(Unreadable, match="foreign"):
        assert len(draw(tmp_path, tmp_path / "figures")) == 5


def test_missing_steps_are_said_and_the_rest_drawn(tmp_path):
    write(tmp_path)
    next((tmp_path / "steps").iterdir()).unlink()
    with pytest.warns(Unreadable, match="steps"):
        assert len(draw(tmp_path, tmp_path / "figures")) == 5


@pytest.mark.parametrize(
    "make", [lambda path: None, lambda path: path.mkdir(), lambda path: write(path, status="failed")]
)
def test_nothing_to_draw_is_the_users_error(tmp_path, make):
    make(tmp_path / "results")
    with pytest.raises(UserError, match=r"results"):
        draw(tmp_path / "results", tmp_path / "figures")


def test_out_that_is_a_file(tmp_path):
    write(tmp_path)
    (tmp_path / "taken").touch()
    with pytest.raises(UserError, match="--out"):
        draw(tmp_path, tmp_path / "taken")


def test_a_default_is_a_lighter_shade_and_random_types_have_dashes(tmp_path):
    study(tmp_path)
    ranking = ranking_of(tmp_path)
    colours = {name: look.colour for name, look in method_looks(ranking).items()}
    assert colours == {
        "none": HUES["none"],
        "norm": HUES["norm"],
        "none (default)": "#808080",  # half way from black to white
    }
    assert shade("#000000", 2, 3) == "#000000"
    assert shade("#ffffff", 2, 3) == "#808080"
    dashes = [method_look.dash for method_look in method_looks(ranking).values()]
    assert dashes == ["-"] * 3


def test_set_side_by_side_a_method_looks_like_its_configuration(tmp_path):
    for level in (1.0, 2.0):
        write(tmp_path, level=level)
    write(tmp_path, clipping_type="linear_rand_norm", level=1.0)
    (group,) = read_groups(tmp_path, apart=True)
    (ranking,) = rankings(group)
    expected = {configuration.label: look for configuration, look in looks(group)}
    assert method_looks(ranking) == expected
    assert len(set(expected.values())) == 3
    assert expected["norm 1"].dash == "-" != expected["norm 2"].dash
    assert expected["linear_rand_norm"].dash != "-"


def test_quantiles_of_bins_are_numpys():
    rng = np.random.default_rng(0)
    bins, values = rng.integers(0, 7, 500) * 2, rng.normal(size=500)
    at, quantiles = style.binned(bins, values, (0, 0.1, 0.5, 1))
    assert list(at) == sorted(set(bins))
    for place, each in enumerate(at):
        expected = np.quantile(values[bins == each], (0, 0.1, 0.5, 1))
        np.testing.assert_allclose(quantiles[:, place], expected)
