"""The figures show what the tables say: means and intervals as scipy has them, nothing averaged that differs,
nothing left out unsaid.
"""

import json
from itertools import combinations

import numpy as np
import pytest
from madeup import study, write_table
from matplotlib.colors import to_rgb
from scipy import stats

from clipbench.analysis.comparison import rankings
from clipbench.analysis.groups import read_groups
from clipbench.errors import Unreadable, UserError
from clipbench.plot import style
from clipbench.plot.comparison import comparison
from clipbench.plot.difference import difference
from clipbench.plot.distribution import distribution
from clipbench.plot.levels import levels
from clipbench.plot.looks import DASHES, HUES, LOOKS, REFERENCE, Look, looks, method_looks, shade, shown
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
    finite = np.isfinite(norms) & (norms > 0)
    factors = np.minimum(1, (level or np.inf) / np.where(finite, norms, 1))
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
    """The rankings of the one group there is."""
    (group,) = read_groups(folder)
    return rankings(group)


def labels(found):
    return [method.label for method in found[0].group.configurations]


def legend(figure):
    """Its entries as they are read: row by row. Matplotlib keeps them by column."""
    (found,) = figure.legends
    columns = found._ncols
    names = [text.get_text() for text in found.get_texts()]
    long, rest = divmod(len(names), columns)
    by_column = []
    for column in range(columns):
        length = long + (column < rest)
        by_column.append(names[:length])
        names = names[length:]
    rows = range(len(by_column[0]))
    return [part[row] for row in rows for part in by_column if row < len(part)]


def heading(figure):
    return figure.legends[0].get_title().get_text()


def small_print(figure):
    """What stands under the title."""
    return " ".join(" ".join(text.get_text() for text in figure.texts).split())


def test_the_files_of_each_task(tmp_path):
    """No levels of types with one, no difference where there is nothing to compare with."""
    for seed in range(2):
        write(tmp_path, seed)
        write(tmp_path, seed, "auto", level=None, p=0.1)
        write(tmp_path, seed, "none", level=None)
        write(tmp_path, seed, task="other")
    written = draw(tmp_path, tmp_path / "figures")
    figures = ["comparison", "norms", "clipping"]
    names = [f"other_mini_sgd_{figure}.png" for figure in figures]
    names += [f"toy_mini_sgd_{figure}.png" for figure in ["difference", *figures]]
    assert [path.name for path in written] == [*names, "report.html"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written[:-1])


def test_of_more_than_seven_runs_the_band_is_the_t_interval_of_the_mean(tmp_path):
    for seed in range(8):
        write(tmp_path, seed)
    figure = comparison(only(tmp_path))
    ax = figure.axes[2]
    steps, seeds = np.arange(0, STEPS + 1, 10), np.arange(8)
    values = 0.5 - 0.1 * (STEPS - steps[:, None]) / STEPS + 0.01 * seeds
    low, high = stats.t.interval(0.95, 7, loc=values.mean(1), scale=stats.sem(values, axis=1))
    np.testing.assert_allclose(ax.lines[0].get_ydata(), values.mean(1))
    corners = ax.collections[0].get_paths()[0].vertices
    for step, bottom, top in zip(steps, low, high, strict=True):
        at = corners[corners[:, 0] == step, 1]
        np.testing.assert_allclose([at.min(), at.max()], [bottom, top])
    assert legend(figure) == ["norm   0.535"]
    assert "95 % t-interval" in heading(figure)


@pytest.mark.parametrize("seeds", range(2, 8))
def test_up_to_seven_runs_are_thin_lines_and_no_band(tmp_path, seeds):
    for seed in range(seeds):
        write(tmp_path, seed)
        write(tmp_path, seed, level=2.0)
        write(tmp_path, seed, "none", level=None)
    found = only(tmp_path)
    figure = comparison(found)
    for ax in (*figure.axes, *levels(found).axes):
        assert not ax.collections
        assert not ax.patches
    validation = figure.axes[2]
    thin = [line for line in validation.lines if line.get_linewidth() < 0.5]
    assert len(thin) == 3 * seeds
    assert "interval" not in heading(figure)
    assert "thin: single seeds" in heading(figure)


def test_one_seed_has_no_band_and_says_so(tmp_path):
    write(tmp_path)
    figure = comparison(only(tmp_path))
    assert legend(figure) == ["norm   0.500"]
    assert "One seed each" in heading(figure)
    assert "interval" not in heading(figure)
    assert not figure.axes[2].collections


def test_the_legend_is_read_by_rows_methods_in_the_tables_order(tmp_path):
    write(tmp_path, clipping_type="norm", level=0.5, final=0.6)
    write(tmp_path, clipping_type="norm", level=np.inf, final=0.5)
    write(tmp_path, clipping_type="layer_wise", level=1.0, final=0.7)
    write(tmp_path, clipping_type="auto", level=None, p=0.1, final=0.4)
    write(tmp_path, clipping_type="none", level=None, final=0.65)
    found = only(tmp_path)
    assert labels(found) == ["layer_wise", "none", "norm 0.5", "norm ∞", "auto"]
    (ranking,) = found
    assert [method.name for method in ranking.methods] == ["layer_wise", "none", "norm", "auto"]
    expected = ["layer_wise", "no clipping", "norm 0.5", "norm ∞", "auto"]
    for width in (3.25, 4.0, 6.75):
        entries = [entry.split("   ") for entry in legend(comparison(found, width))]
        assert [name for name, _ in entries] == expected
        assert [value for _, value in entries] == ["0.700", "0.650", "0.600", "0.500", "0.400"]
    panels = trajectory(found).axes
    assert [ax.texts[1].get_text() for ax in panels] == expected
    assert [ax.texts[0].get_text() for ax in distribution(found).axes[1:]] == expected


def test_settings_that_differ_are_not_seeds(tmp_path):
    write(tmp_path, 0, lr=0.1)
    write(tmp_path, 1, lr=0.1)
    write(tmp_path, 1, lr=0.01)
    write(tmp_path, 2, lr=0.01, momentum=0.5)
    found = only(tmp_path)
    assert sorted(labels(found)) == ["norm lr=0.01", "norm lr=0.01 momentum=0.5", "norm lr=0.1"]
    group = found[0].group
    assert {method.label: len(method.done) for method in group.configurations}["norm lr=0.1"] == 2


def test_a_level_that_the_type_ignores_makes_no_method(tmp_path):
    write(tmp_path, 0, "none", level=None, clipping_level=0.5)
    write(tmp_path, 1, "none", level=None, clipping_level=2.0)
    assert labels(only(tmp_path)) == ["none"]


def test_diverged_is_marked_and_counted_outside_the_mean(tmp_path):
    for seed in range(3):
        write(tmp_path, seed, status="diverged" if seed == 2 else "done")
        write(tmp_path, seed, level=2.0, status="diverged" if seed == 2 else "done", final=0.4)
    write(tmp_path, 0, "none", level=None, status="diverged")
    found = only(tmp_path)
    figure = comparison(found)
    assert legend(figure) == [
        "norm 1   0.505   n=2   1✕",
        "norm 2   0.405   n=2   1✕",
        "no clipping   –   n=0   1✕",
    ]
    for panel in (*figure.axes, levels(found).axes[0], trajectory(found).axes[0]):
        assert any(line.get_marker() == "X" for line in panel.lines)


def test_failed_runs_are_left_out_in_words(tmp_path):
    write(tmp_path, 0)
    write(tmp_path, 1, status="failed")
    write(tmp_path, 0, "none", level=None)
    write(tmp_path, 0, level=2.0)
    found = only(tmp_path)
    assert {len(each.runs) for each in found[0].group.configurations} == {1}
    for figure in (difference, comparison, levels, distribution, trajectory):
        assert "runs left out: 1 failed" in small_print(figure(found))


def test_levels_stand_over_their_own_axis(tmp_path):
    for level in (0.1, 1.0, np.inf):
        for seed in range(2):
            write(tmp_path, seed, level=level, final=0.5)
    write(tmp_path, 0, "auto", level=None, p=0.1, final=0.3)
    write(tmp_path, 0, "auto", level=None, p=0.5, final=0.3)
    write(tmp_path, 0, "layer_wise", level=1.0)
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
    tail, density = figure.axes
    assert density.texts[1].get_text() == "71.1 % clipped\n1 zero\n2 not finite"  # 27 of 38
    x, share = tail.lines[0].get_data()
    for at, above in zip(x, share, strict=True):
        assert above >= (np.sum(norms > at) + 1) / STEPS - 1e-12
    assert share.min() == pytest.approx(3 / STEPS)  # the largest finite norm, and the two beyond it


def test_zero_inf_and_constant_norms_are_drawn(tmp_path):
    write(tmp_path, norms=np.full(STEPS, 2.0), level=0.5)
    write(tmp_path, norms=np.zeros(STEPS), level=1.0)
    write(tmp_path, norms=np.full(STEPS, np.nan), level=2.0)
    write(tmp_path, norms=np.geomspace(1e-8, 1e8, STEPS), level=4.0)
    assert len(draw(tmp_path, tmp_path / "figures")) == 5  # levels, and no difference


def test_before_and_after(tmp_path):
    norms = np.linspace(0.5, 3, STEPS)
    write(tmp_path, norms=norms)
    before, after, level = trajectory(only(tmp_path)).axes[0].lines
    np.testing.assert_allclose(before.get_ydata(), norms, rtol=1e-6)
    np.testing.assert_allclose(after.get_ydata(), np.minimum(norms, 1), rtol=1e-6)
    assert set(level.get_ydata()) == {1.0}


def test_a_method_has_one_colour_and_dash_in_every_figure(tmp_path):
    for seed in range(3):
        for level in (0.5, 1.0, 2.0):
            write(tmp_path, seed, level=level, final=0.5 - 0.1 * abs(level - 1))
            write(tmp_path, seed, "layer_wise", level=level, final=0.3)
        write(tmp_path, seed, "none", level=None)
    found = only(tmp_path)
    (ranking,) = found
    expected = {configuration.label: look for configuration, look in looks(ranking.group)}
    assert len(set(expected.values())) == 7
    assert expected["norm 1"].colour == HUES["norm"].lower()  # the best
    drawn = {
        line.get_label(): Look(line.get_color(), expected[line.get_label()].dash)
        for line in comparison(found).axes[0].lines
        if not line.get_label().startswith("_")
    }
    tails = {line.get_label(): line for line in distribution(found).axes[0].lines}
    assert drawn == expected
    patterns = {}
    for line in comparison(found).axes[0].lines:
        patterns[line.get_label()] = line._unscaled_dash_pattern
    assert {name: line.get_color() for name, line in tails.items()} == {
        name: look.colour for name, look in expected.items()
    }
    for name, line in tails.items():
        assert line._unscaled_dash_pattern == patterns[name]
    methods = method_looks(ranking)
    assert methods["norm"] == expected["norm 1"]
    diamonds = [line.get_color() for line in difference(found).axes[0].lines if line.get_marker() == "D"]
    rows = [method.name for method in ranking.judged if not method.is_reference]
    assert diamonds == [methods[name].colour for name in rows]
    for ax, (configuration, look) in zip(trajectory(found).axes, shown(found), strict=True):
        assert ax.lines[1].get_color() == look.colour == expected[configuration.label].colour


def test_of_many_settings_each_methods_best_is_drawn_and_the_figure_says_so(tmp_path):
    for level in range(1, 15):
        write(tmp_path, level=float(level), final=level / 100)
    write(tmp_path, clipping_type="none", level=None)
    found = only(tmp_path)
    figure = comparison(found)
    assert "each method's best of 15 settings" in small_print(figure)
    assert [entry.split("   ")[0] for entry in legend(figure)] == ["no clipping", "norm 14"]
    assert "best" not in small_print(levels(found))


def test_more_methods_than_fit_are_cut_in_words(tmp_path):
    for number in range(14):
        write(tmp_path, clipping_type=f"some.rules:Rule{number:02}", level=1.0, final=number / 100)
    figure = comparison(only(tmp_path))
    assert "the best 12 of 14 settings" in small_print(figure)
    assert legend(figure)[0].startswith("Rule13 ")
    write(tmp_path, clipping_type="none", level=None, final=-0.1)  # the worst
    figure = comparison(only(tmp_path))
    assert "no clipping and the best 11 of 15 settings" in small_print(figure)
    assert (len(legend(figure)), legend(figure)[-1].split("   ")[0]) == (12, "no clipping")


def test_foreign_file_is_skipped_with_a_warning(tmp_path):
    write(tmp_path)
    (tmp_path / "runs" / "foreign.parquet").write_text("not a table")
    with pytest.warns(Unreadable, match="foreign"):
        assert len(draw(tmp_path, tmp_path / "figures")) == 4


def test_missing_steps_are_said_and_the_rest_drawn(tmp_path):
    write(tmp_path)
    next((tmp_path / "steps").iterdir()).unlink()
    with pytest.warns(Unreadable, match="steps"):
        assert len(draw(tmp_path, tmp_path / "figures")) == 4


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


def test_a_default_is_a_lighter_shade_of_its_method(tmp_path):
    ranking = study(tmp_path)
    found = method_looks(ranking)
    assert {name: look.colour for name, look in found.items()} == {
        "none": "#000000",
        "norm": HUES["norm"].lower(),
        "none (default)": "#808080",  # half way from black to white
    }
    assert found["none (default)"].dash == found["none"].dash != found["norm"].dash
    assert [shade("#000000", tilt) for tilt in (-1, 0, 1)] == ["#808080", "#000000", "#000000"]
    assert shade("#ffffff", 1) == "#808080"
    assert [name.split("   ")[0] for name in legend(comparison([ranking]))] == [
        "no clipping",
        "norm",
        "no clipping (default)",
    ]


def test_set_side_by_side_a_method_looks_like_its_configuration(tmp_path):
    for level in (1.0, 2.0):
        write(tmp_path, level=level)
    write(tmp_path, clipping_type="linear_rand_norm", level=1.0)
    (group,) = read_groups(tmp_path, apart=True)
    (ranking,) = rankings(group)
    expected = {configuration.label: look for configuration, look in looks(group)}
    assert method_looks(ranking) == expected
    assert len(set(expected.values())) == 3
    assert expected["norm 1"].dash == expected["norm 2"].dash != expected["linear_rand_norm"].dash


def simulated(hue, matrix):
    """A colour as a dichromat sees it: a matrix of Machado et al. 2009 on linear RGB."""
    rgb = np.array(to_rgb(hue))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return np.clip(np.array(matrix) @ linear, 0, 1)


DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]
PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]


def test_types_of_one_dash_are_apart_in_grey_print_and_for_the_colour_blind():
    """In lightness, L* of CIE 1976, from 0 to 100."""
    every = {"the reference": REFERENCE, **LOOKS}
    for (first, (hue, dash)), (second, (other, pattern)) in combinations(every.items(), 2):
        if dash != pattern:
            continue
        for matrix in (np.eye(3), DEUTERANOPIA, PROTANOPIA):
            light = [np.array([0.2126, 0.7152, 0.0722]) @ simulated(each, matrix) for each in (hue, other)]
            stars = [116 * value ** (1 / 3) - 16 if value > 0.008856 else 903.3 * value for value in light]
            assert abs(stars[0] - stars[1]) > 15, (first, second)
    assert len(set(DASHES)) == len(DASHES)


def test_quantiles_of_bins_are_numpys():
    rng = np.random.default_rng(0)
    bins, values = rng.integers(0, 7, 500) * 2, rng.normal(size=500)
    at, quantiles = style.binned(bins, values, (0, 0.1, 0.5, 1))
    assert list(at) == sorted(set(bins))
    for place, each in enumerate(at):
        expected = np.quantile(values[bins == each], (0, 0.1, 0.5, 1))
        np.testing.assert_allclose(quantiles[:, place], expected)
