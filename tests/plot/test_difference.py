"""The paired difference is the one that the verdict rests on; levels and data are told as they were."""

import numpy as np
import pandas as pd
import pytest
from madeup import BETTER, NONE, ranking_of, write_methods
from madeup import write as one_run
from test_plot import only, small_print, write

from clipbench.analysis.places import GRADIENT
from clipbench.plot.comparison import comparison
from clipbench.plot.difference import difference
from clipbench.plot.distribution import distribution
from clipbench.plot.looks import in_print
from clipbench.plot.trajectory import trajectory
from clipbench.report import data


def test_dots_are_the_pairs_the_diamond_their_mean_and_the_bar_the_comparisons_interval(tmp_path):
    ranking = write_methods(tmp_path, {"none": NONE, "norm": BETTER})
    (ax,) = difference([ranking]).axes
    dots = next(line for line in ax.lines if line.get_marker() == "o")
    pairs = 100 * (np.array(BETTER) - np.array(NONE))
    np.testing.assert_allclose(dots.get_xdata(), pairs, rtol=1e-6)
    assert list(np.argsort(dots.get_ydata())) == [0, 1, 2, 3, 4]  # by seed, from the top
    diamond = next(line for line in ax.lines if line.get_marker() == "D")
    assert diamond.get_xdata()[0] == pytest.approx(pairs.mean(), rel=1e-6)
    found = ranking.comparisons["norm"].difference
    bars = [line for line in ax.lines if list(line.get_ydata()) == [0, 0]]
    np.testing.assert_allclose(bars[0].get_xdata(), [100 * found.low, 100 * found.high])
    assert any(list(line.get_xdata()) == [0, 0] for line in ax.lines)  # no difference
    assert ax.get_xlabel() == "gain in test accuracy over no clipping (points; right is better)"
    assert len(ax.get_xticks()) >= 3


def test_where_less_is_better_the_better_side_is_still_the_right_one(tmp_path):
    ranking = write_methods(tmp_path, {"none": BETTER, "norm": NONE}, higher=False)
    (ax,) = difference([ranking]).axes
    dots = next(line for line in ax.lines if line.get_marker() == "o")
    np.testing.assert_allclose(dots.get_xdata(), np.array(BETTER) - np.array(NONE), rtol=1e-6)
    assert ax.get_xlabel() == "reduction of test accuracy against no clipping (right is better)"


def test_below_three_pairs_there_is_neither_interval_nor_p(tmp_path):
    ranking = write_methods(tmp_path, {"none": NONE[:2], "norm": BETTER[:2]})
    (ax,) = difference([ranking]).axes
    assert not [line for line in ax.lines if list(line.get_ydata()) == [0, 0]]
    words = [text.get_text() for text in ax.texts]
    assert "–" in words
    assert not [word for word in words if word.startswith(("+", "−")) and "[" in word]


def test_a_pair_in_which_one_diverged_is_no_dot_and_is_counted(tmp_path):
    ranking = write_methods(tmp_path, {"none": NONE, "norm": [*BETTER[:4], None], "layer_wise": BETTER})
    (ax,) = difference([ranking]).axes
    dots = [len(line.get_xdata()) for line in ax.lines if line.get_marker() == "o"]
    assert sorted(dots) == [len(BETTER) - 1, len(BETTER)]


def test_pairs_of_other_data_are_no_dots_as_they_are_not_in_the_interval(tmp_path):
    for seed, value in enumerate(NONE):
        one_run(tmp_path, "none", seed, value, data="a")
        one_run(tmp_path, "norm", seed, BETTER[seed], data="a" if seed < 3 else "b")
    ranking = ranking_of(tmp_path)
    assert ranking.comparisons["norm"].difference.n == 3
    (ax,) = difference([ranking]).axes
    (dots,) = [line for line in ax.lines if line.get_marker() == "o"]
    gains = 100 * (np.array(BETTER[:3]) - NONE[:3])
    np.testing.assert_allclose(dots.get_xdata(), gains)
    (rows,) = data.difference(ranking)
    np.testing.assert_allclose([value for _, value in rows.rows[0].pairs], gains)


def test_the_worth_of_a_comparison_is_a_band(tmp_path):
    ranking = write_methods(tmp_path, {"none": NONE, "norm": BETTER})
    assert not difference([ranking]).axes[0].patches

    class WithWorth:
        def __init__(self, found):
            self.found, self.worth = found, 0.002

        def __getattr__(self, name):
            return getattr(self.found, name)

    ranking.__dict__["comparisons"] = {"norm": WithWorth(ranking.comparisons["norm"])}
    (band,) = difference([ranking]).axes[0].patches
    box = band.get_bbox() if hasattr(band, "get_bbox") else band.get_extents()
    np.testing.assert_allclose([box.x0, box.x1], [-0.2, 0.2])


def test_the_moving_level_of_auto_is_numpys_quantile_of_the_norms_so_far(tmp_path):
    norms = np.random.default_rng(0).lognormal(size=40)
    write(tmp_path, 0, "auto", level=None, p=0.3, norms=norms)
    found = only(tmp_path)
    *_, level = trajectory(found).axes[0].lines
    expected = [np.quantile(norms[:step].astype(np.float32), 0.3) for step in range(1, 41)]
    np.testing.assert_allclose(level.get_ydata(), expected, rtol=1e-5)
    density = distribution(found).axes[1]
    at = [line.get_xdata()[0] for line in density.lines if len(set(line.get_xdata())) == 1]
    assert at == [pytest.approx(np.median(expected), rel=1e-5)]


def test_the_level_stands_where_norms_are(tmp_path):
    write(tmp_path, 0, "norm", level=0.7)
    write(tmp_path, 0, "layer_wise", level=0.7)
    found = only(tmp_path)
    drawn_levels = {}
    for ax in distribution(found).axes[1:]:
        at = [line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1]
        drawn_levels[len(drawn_levels)] = at
    assert sorted(map(tuple, drawn_levels.values())) == [(), (0.7,)]


def with_data(folder, data, **more):
    """Runs that recorded which data they saw."""
    write(folder, **more)
    for path in (folder / "runs").iterdir():
        rows = pd.read_parquet(path)
        rows["data"] = data
        rows["baseline"], rows["baseline_test"] = "majority class", 0.42
        rows.to_parquet(path)


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("a graph of 2708 nodes (/home/someone/cora/Reddit)", "A graph of 2708 nodes · SGD"),
        ("/home/someone/cifar/imagenet", "cifar/imagenet · SGD"),
        ("a generated community graph", "A generated community graph · SGD"),
        ("", "Reddit mini · SGD"),
    ],
)
def test_the_title_says_which_data_and_no_path(tmp_path, source, title):
    with_data(tmp_path, source and f"{source}, 7 classes, 140/500/1000 nodes (train/val/test)", task="reddit")
    figure = comparison(only(tmp_path))
    words = figure.get_suptitle() + small_print(figure)
    assert figure.get_suptitle() == title
    assert not source or "7 classes, 140/500/1000 nodes (train/val/test)" in words
    assert "/home" not in words
    assert ("Reddit" in words) == (title == "Reddit mini · SGD")


def test_the_baseline_is_a_line_unless_it_would_squeeze_the_rest(tmp_path):
    with_data(tmp_path, "", final=0.5)
    ax = comparison(only(tmp_path)).axes[2]
    assert any(set(line.get_ydata()) == {0.42} for line in ax.lines)
    low, high = ax.get_ylim()
    assert low < 0.42 < high
    with_data(tmp_path / "far", "", final=0.99)
    figure = comparison(only(tmp_path / "far"))
    assert not any(set(line.get_ydata()) == {0.42} for line in figure.axes[2].lines)
    assert "majority class (test) 0.420" in figure.legends[0].get_title().get_text().replace("\n", " ")


def test_the_baselines_name_has_room_within_the_panel(tmp_path):
    with_data(tmp_path, "", final=0.61)  # 0.42 lies below all, almost as far as they reach
    figure = comparison(only(tmp_path))
    figure.draw_without_rendering()
    ax = figure.axes[2]
    (name,) = [text for text in ax.texts if text.get_text() == "majority class (test)"]
    assert name.get_window_extent().y0 > ax.get_window_extent().y0 + 1


def test_numbers_in_the_legend_are_what_methods_are_ordered_by(tmp_path):
    ranking = write_methods(tmp_path, {"none": NONE, "norm": BETTER})
    (legend,) = comparison([ranking]).legends
    numbers = [text.get_text().split()[-1] for text in legend.get_texts()]
    assert numbers == [f"{np.mean(BETTER):.3f}", f"{np.mean(NONE):.3f}"]  # on test; 0.01 less on validation
    assert "final test accuracy" in legend.get_title().get_text().replace("\n", " ")


def test_where_means_alone_are_drawn_the_axis_fits_them(tmp_path):
    types = ["none", "norm", "auto", "layer_wise", "coordinate_wise", "value", "zclip"]
    for name in types:
        for seed, final in enumerate((0.5, 0.5, 0.9)):
            write(tmp_path, seed, name, level=None if name == "none" else 1.0, final=final)
    ax = comparison(only(tmp_path)).axes[2]
    drawn = np.concatenate([line.get_ydata() for line in ax.lines])
    low, high = ax.get_ylim()
    assert low < drawn.min()
    assert drawn.max() < high < 0.7  # single runs reach 0.92


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("none", "no clipping"),
        ("none lr=0.1", "no clipping lr=0.1"),
        ("adamw none", "AdamW no clipping"),
        ("adamw norm 0.5", "AdamW norm 0.5"),
        ("none (default)", "no clipping (default)"),
        ("auto quantile .1", "auto quantile .1"),
        ("my.rules:Mine 0.5", "Mine 0.5"),
        ("adamw my_rules:Mine", "AdamW Mine"),
    ],
)
def test_names_are_those_in_print(label, expected):
    assert in_print(label, GRADIENT) == expected
