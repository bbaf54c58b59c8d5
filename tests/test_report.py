"""The report says what the numbers allow and nothing more, and its page is whole, closed and safe."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from clipbench import results
from clipbench.cli import main
from clipbench.errors import Unreadable
from clipbench.plot import draw, panels, read_groups, style
from clipbench.plot.across import across
from clipbench.plot.arms import sections
from clipbench.plot.made import facts
from clipbench.plot.report import Page, part_of
from clipbench.plot.sensitivity import sensitivity, smoothed
from clipbench.plot.table import tables
from clipbench.plot.target import reached, target
from clipbench.plot.verdict import judge

STEPS = 12
NONE = [0.500, 0.520, 0.510, 0.490, 0.505]
BETTER = [0.530, 0.553, 0.545, 0.519, 0.534]


OTHERS = {"role": None, "trial": None, "higher": True, "optim": "sgd", "skipped": 0}


def write(folder, name, seed, test, status="done", level=None, lr=0.1, task="toy", **more):
    role, trial, higher, optim, skipped = (more.pop(key, default) for key, default in OTHERS.items())
    run = f"r{abs(hash((task, name, seed, level, lr, role, trial, optim, str(more)))):x}"
    factor = 1.0 if name == "none" or level == np.inf else 0.5
    norms = {"grad_norm": 2.0, "clipped_norm": 2 * factor, "clip_factor": factor}
    steps = [{"step": i, "seconds": i / 10, "loss": 1 / i, **norms} for i in range(1, STEPS + 1)]
    for step in steps[:skipped]:
        step |= {"grad_norm": np.inf, "clipped_norm": 0.0, "clip_factor": 0.0}
    evals = [
        {"step": i, "seconds": i / 10, "split": split, "metric": "accuracy", "value": (test or 0.5) * i / STEPS}
        for i in range(4, STEPS + 1, 4)
        for split in ("train", "val")
    ]
    settings = {"optim": {"name": optim, "lr": lr, "clipping_type": name, "clipping_level": level}, "seed": seed, **more}
    row = {"task": task, "scale": "mini", "optimizer": optim, "lr": lr, "clipping_type": name, "clipping_level": level, "seed": seed}
    row |= {"status": status, "headline": "accuracy", "higher_is_better": higher, "config": json.dumps(settings), "started": f"{seed:03}"}
    row |= {
        "skipped": skipped,
        "steps": STEPS,
        "seconds": STEPS / 10,
        "error": "Traceback\nValueError: <b>no</b>" if status == "failed" else None,
    }
    row |= {"study": "quick" if role else None, "role": role, "method": name if role else None, "trial": trial}
    if status == "done":
        row |= {"final": test - 0.01, "final_test": test}
    results.write_rows(folder, "steps", run, steps)
    results.write_rows(folder, "evals", run, evals)
    results.write_rows(folder, "runs", run, [row])


def write_arms(folder, arms, **more):
    """{method: test values by seed, None where the run diverged}."""
    for name, values in arms.items():
        for seed, value in enumerate(values):
            write(folder, name, seed, value, "done" if value is not None else "diverged", **more)
    return section(folder)


def section(folder):
    (group,) = read_groups(folder)
    (found,) = sections(group)
    return found


def told(folder, arms, **more):
    verdict = judge(write_arms(folder, arms, **more))
    return verdict.kind, verdict.sentence, " ".join(verdict.notes)


def interval(method, none=NONE):
    return stats.ttest_rel(method, none).confidence_interval(0.95)


def test_a_difference_is_told_with_its_interval_and_n(tmp_path):
    kind, sentence, _ = told(tmp_path, {"none": NONE, "auto": BETTER}, role="final")
    low, high = interval(BETTER)
    gain = 100 * np.mean(np.subtract(BETTER, NONE))
    assert kind == "helps"
    expected = f"Clipping helps: auto +{gain:.1f} points of accuracy over none, 95 % interval {100 * low:.1f} to {100 * high:.1f}, n=5."
    assert sentence == expected


def test_a_loss_and_a_mixture_are_told(tmp_path):
    worse = [value - 0.1 for value in BETTER]
    assert told(tmp_path / "a", {"none": NONE, "norm": worse}, role="final")[:2][0] == "hurts"
    kind, sentence, _ = told(tmp_path / "b", {"none": NONE, "norm": worse, "auto": BETTER}, role="final")
    assert kind == "mixed"
    assert sentence.startswith("It depends on how one clips: auto +3.1 points")
    assert "norm −6.9 points" in sentence


def test_less_is_better_turns_the_words(tmp_path):
    kind, sentence, _ = told(tmp_path, {"none": BETTER, "auto": NONE}, role="final", higher=False)
    assert kind == "helps"
    assert "accuracy better than none" in sentence
    assert "points" not in sentence


def test_no_difference_is_called_where_the_seeds_cannot_show_it(tmp_path):
    noise = [0.01, -0.02, 0.015, -0.005, 0.01]
    kind, sentence, _ = told(tmp_path, {"none": NONE, "auto": list(np.add(NONE, noise))}, role="final")
    assert kind == "same"
    assert sentence.startswith("No difference that 5 seeds could show. The largest is auto +0.2 points")


def test_holm_takes_a_difference_back(tmp_path):
    """Each of five methods would be called different alone; together none may be."""
    gains = [0.020, 0.002, 0.018, 0.022, 0.012]
    p = stats.ttest_rel(np.add(NONE, gains), NONE).pvalue
    assert p < 0.05 < 5 * p
    alone = told(tmp_path / "a", {"none": NONE, "m0": list(np.add(NONE, gains))}, role="final")
    assert alone[0] == "helps"
    names = {f"m{i}": list(np.add(NONE, np.roll(gains, i))) for i in range(5)}
    kind, sentence, _ = told(tmp_path / "b", {"none": NONE, **names}, role="final")
    assert kind == "same"
    assert "after Holm's correction for 5 comparisons" in sentence


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_seeds_for_a_verdict(tmp_path, n):
    kind, sentence, notes = told(tmp_path, {"none": NONE[:n], "auto": BETTER[:n]})
    assert kind == "few"
    assert sentence.startswith("Too few seeds for a verdict.")
    assert f"n={n}" in sentence
    assert "sign-flip" not in notes


def test_the_floor_of_the_exact_test_is_named_where_it_binds(tmp_path):
    assert "cannot go below 0.0625 at n=5" in told(tmp_path / "a", {"none": NONE, "auto": BETTER})[2]
    assert "sign-flip" not in told(tmp_path / "b", {"none": [*NONE, 0.5, 0.51], "auto": [*BETTER, 0.53, 0.541]})[2]


def test_divergence_is_never_dropped(tmp_path):
    none, auto = [0.5, None, 0.51, None, 0.5], [0.53, 0.54, 0.52, 0.53, 0.51]
    kind, sentence, _ = told(tmp_path / "a", {"none": none, "auto": auto})
    assert kind == "diverged"
    assert "none diverged in 2 of 5 runs" in sentence
    kind, sentence, _ = told(tmp_path / "b", {"none": [None] * 3, "auto": auto[:3]})
    assert sentence == "Without clipping 3 of 3 runs diverged, so there is no mean to compare with; auto finished 3 of 3."
    kind, sentence, _ = told(tmp_path / "c", {"none": [None] * 3, "auto": [None] * 3})
    assert (kind, sentence) == ("diverged", "No verdict: every run diverged. Lower the learning rate.")
    kind, sentence, notes = told(tmp_path / "d", {"none": NONE, "auto": BETTER, "norm": [None, *BETTER[1:]]})
    assert kind == "helps"
    assert "Norm" not in sentence
    assert "norm diverged in 1 of 5 runs: no mean difference exists there" in notes.replace("Norm", "norm")


def test_nothing_to_compare_with(tmp_path):
    assert told(tmp_path / "a", {"auto": BETTER})[1].startswith("No verdict: there is no run without clipping")
    assert told(tmp_path / "b", {"none": NONE})[1] == "No verdict: There is no clipped run to compare with none."


def test_a_sweep_is_a_picture(tmp_path):
    kind, sentence, notes = told(tmp_path, {"none": NONE, "auto": BETTER})
    assert kind == "helps"
    assert sentence.startswith("In these runs clipping helps")
    assert "One learning rate for all: a picture, not a verdict." in notes
    write_arms(tmp_path, {"none": NONE}, lr=0.2)
    assert "1 to 2 settings a method" in " ".join(judge(section(tmp_path)).notes)


def test_each_method_stands_at_its_best_by_validation_against_none_at_its_own(tmp_path):
    write_arms(tmp_path, {"none": NONE, "auto": BETTER}, lr=0.1)
    write_arms(tmp_path, {"none": [0.6] * 5, "auto": [0.4] * 5}, lr=0.01)
    found = section(tmp_path)
    assert {arm.name: arm.method.settings["lr"] for arm in found.arms} == {"none": 0.01, "auto": 0.1}
    assert found.comparisons["auto"].difference.estimate == pytest.approx(np.mean(BETTER) - 0.6)
    assert {arm.name: arm.edges for arm in found.arms} == {"none": ("lr",), "auto": ("lr",)}


def test_other_settings_are_not_compared(tmp_path):
    write_arms(tmp_path / "r", {"none": NONE, "auto": BETTER}, batch_size=16)
    for name, values in {"none": NONE, "auto": BETTER}.items():
        for seed, value in enumerate(values):
            write(tmp_path / "r", name, seed, value, batch_size=64)
    (group,) = read_groups(tmp_path / "r")
    assert {found.context for found in sections(group)} == {"batch_size=16", "batch_size=64"}


def study(folder):
    for trial, (lr, value) in enumerate([(0.001, 0.9), (0.1, 0.95), (1.0, None), (0.3, 0.8), (0.05, 0.9)]):
        for name in ("none", "norm"):
            level = None if name == "none" else (np.inf if trial == 3 else trial + 1.0)
            write(folder, name, 0, value, "done" if value else "diverged", level, lr, role="tune", trial=trial)
    for seed, value in enumerate(NONE):
        write(folder, "none", seed + 1, value, role="final", trial=1)
        write(folder, "norm", seed + 1, value - 0.03 - 0.001 * seed, level=2.0, role="final", trial=1)
        write(folder, "none", seed + 1, value - 0.1 + 0.001 * seed, lr=0.5, role="default")
    return section(folder)


def test_tuning_and_final_runs_are_never_mixed(tmp_path):
    found = study(tmp_path)
    assert {arm.name: (arm.n, arm.tried) for arm in found.arms} == {"none": (5, 5), "norm": (5, 5), "none (default)": (5, 1)}
    assert found.none.score.estimate == pytest.approx(np.mean(NONE))
    assert set(found.comparisons) == {"norm"}
    verdict = judge(found)
    assert verdict.kind == "short"
    assert "so the search was too small" in verdict.sentence
    assert "Check at ∞ failed: norm lost to none" in " ".join(verdict.notes)
    tuned = stats.ttest_1samp(0.1 - 0.001 * np.arange(5), 0).confidence_interval(0.95)
    told = f"+9.8 points of accuracy from its defaults (95 % interval {100 * tuned.low:.1f} to {100 * tuned.high:.1f}, n=5"
    assert told in " ".join(verdict.notes)
    assert facts(found)["seeds"] == "final 1, 2, 3, 4, 5; tuning 0"
    best = dict(panels.budget(found))
    (figure,) = best.values()
    steps = [line.get_ydata() for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post"]
    np.testing.assert_allclose(steps[0], [0.89, 0.94, 0.94, 0.94, 0.94])


def test_where_runs_diverge_is_shaded_and_counted_for_each_method(tmp_path):
    """Clipping widens the stable range: pooled over both methods only lr=10 would look unstable."""
    for lr, (none, norm) in {0.1: (0, 0), 1.0: (2, 0), 10.0: (3, 1)}.items():
        for name, lost in {"none": none, "norm": norm}.items():
            for seed in range(3):
                write(tmp_path, name, seed, 0.5 + 0.01 * seed, "diverged" if seed < lost else "done", lr=lr)
    (name, figure), *_ = sensitivity(section(tmp_path))
    assert name.startswith("learning rate")
    (ax,) = figure.axes
    places = ax.transData + ax.transAxes.inverted()
    counts = {text.get_text(): text.get_position() for text in ax.texts if "/" in text.get_text()}
    assert set(counts) == {"2/3", "3/3", "1/3"}
    for text, lr in {"2/3": 1.0, "3/3": 10.0, "1/3": 10.0}.items():
        x, y = counts[text]
        shades = [patch for patch in ax.patches if patch.get_alpha() and patch.get_bbox().contains(x, y)]
        assert len(shades) == 1
        assert [shades[0].get_bbox().x0 < places.transform((at, 0.5))[0] < shades[0].get_bbox().x1 for at in (0.1, 1.0, 10.0)] == [
            at == lr for at in (0.1, 1.0, 10.0)
        ]
    assert counts["2/3"][1] == counts["3/3"][1] != counts["1/3"][1]
    figure.canvas.draw()
    assert all(text.get_window_extent().y1 <= figure.bbox.y1 for text in ax.texts)


def test_a_skipped_step_has_no_part_in_what_clipping_did(tmp_path):
    found = write_arms(tmp_path, {"none": NONE, "norm": BETTER})
    for run in found.group.runs.index[found.group.runs["clipping_type"] == "norm"]:
        norms = [
            {"grad_norm": np.inf, "clipped_norm": 0.0, "clip_factor": 0.0},
            {"grad_norm": 2.0, "clipped_norm": 2.0, "clip_factor": 1.0},
        ]
        rows = [{"step": i, "seconds": i / 10, "loss": 1 / i, **norms[i > 6]} for i in range(1, STEPS + 1)]
        results.write_rows(tmp_path, "steps", run, rows)
    for _, figure in panels.clipping(section(tmp_path)):
        expected = {"clip factor": 1.0, "steps clipped, %": 0.0, "gradient norm": 2.0}[figure.axes[0].get_ylabel()]
        for line in figure.axes[0].lines:
            assert line.get_xdata().min() > 6
            assert set(line.get_ydata()) == {expected}


def test_a_lucky_survivor_is_not_the_best_other_setting(tmp_path):
    for lr in (0.1, 1.0):
        for seed in range(5):
            write(tmp_path, "none", seed, 0.4, lr=lr)
            write(tmp_path, "norm", seed, 0.51, level=1.0, lr=lr)
            write(tmp_path, "norm", seed, 0.91, "done" if seed == 2 else "diverged", level=9.0, lr=lr)
            write(tmp_path, "norm", seed, 0.81, level=3.0, lr=lr) if seed < 4 else None  # lacks a seed
    drawn = dict(sensitivity(section(tmp_path)))
    rates = next(figure for name, figure in drawn.items() if name.startswith("learning rate"))
    lines = [line.get_ydata() for line in rates.axes[0].lines if list(line.get_xdata()) == [0.1, 1.0]]
    assert sorted(float(y[0]) for y in lines) == pytest.approx([0.39, 0.5])


def test_the_level_panel_shows_the_best_trial_of_none_by_its_mean_over_seeds(tmp_path):
    for trial, (values, lr) in enumerate({(0.91, 0.11): 0.1, (0.61, 0.63): 0.2, (0.99, None): 0.3}.items()):
        for seed, value in zip((100, 101), values, strict=True):
            write(tmp_path, "none", seed, value, "diverged" if value is None else "done", lr=lr, role="tune", trial=trial)
            write(tmp_path, "norm", seed, 0.6 if trial == 1 else 0.5, level=1.0 + trial, lr=lr, role="tune", trial=trial)
    write_arms(tmp_path, {"none": NONE, "norm": BETTER}, role="final", trial=1, lr=0.2)
    figure = dict(sensitivity(section(tmp_path)))["norm: clipping level"]
    (reference,) = [line.get_ydata()[0] for line in figure.axes[0].lines if list(line.get_xdata()) == [0, 1]]
    assert reference == pytest.approx(0.61)  # 0.62 on test, 0.01 less on validation


def test_a_wide_local_line_is_the_least_squares_line():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=12), rng.normal(size=12)
    at, mean, half = smoothed(x, y, width=1e4)
    line = stats.linregress(x, y)
    np.testing.assert_allclose(mean, line.intercept + line.slope * at, atol=1e-6)
    sigma = np.sqrt(np.sum((y - line.intercept - line.slope * x) ** 2) / 10)
    error = sigma * np.sqrt(1 / 12 + (at - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2))
    np.testing.assert_allclose(half, stats.t.ppf(0.975, 10) * error, rtol=1e-5)


def test_quantiles_of_bins_are_numpys():
    rng = np.random.default_rng(0)
    bins, values = rng.integers(0, 7, 500) * 2, rng.normal(size=500)
    at, quantiles = style.binned(bins, values, (0, 0.1, 0.5, 1))
    assert list(at) == sorted(set(bins))
    expected = [[np.quantile(values[bins == each], share) for each in at] for share in (0, 0.1, 0.5, 1)]
    np.testing.assert_allclose(quantiles, expected)


def test_several_tasks_are_scaled_and_ranked(tmp_path):
    for task, shift in {"a": 0.0, "b": 0.3}.items():
        for name, values in {"none": NONE, "auto": BETTER, "norm": [value + 0.005 for value in NONE]}.items():
            for seed, value in enumerate(values):
                write(tmp_path, name, seed, value + shift, task=task)
    parts = [part for group in read_groups(tmp_path) for part in sections(group)]
    assert across(parts[:1]) == []
    (found,) = across(parts)
    assert [row.arm.name for row in found.rows] == ["auto", "norm", "none"]
    assert [row.rank for row in found.rows] == [1, 2, 3]
    scaled = (np.array(BETTER) - np.mean(NONE)) / (max(BETTER) - np.mean(NONE))
    assert found.rows[0].mean.estimate == pytest.approx(stats.trim_mean(np.tile(scaled, 2), 0.25))


def test_a_task_that_none_wins_counts_and_less_may_be_better(tmp_path):
    """0 is the mean of none and 1 the best run, whoever's; on a metric where less is better too."""
    worse = [value - 0.02 for value in NONE]
    for task, arms in {"a": {"none": NONE, "auto": BETTER}, "b": {"none": NONE, "auto": worse}}.items():
        for name, values in arms.items():
            for seed, value in enumerate(values):
                write(tmp_path, name, seed, value, task=task)
                write(tmp_path, name, seed, 1 - value, task="less", higher=False)
    parts = [part for group in read_groups(tmp_path) for part in sections(group)]
    (found,) = across(parts)
    assert found.tasks == ("a", "b", "less")
    scores = found.scores["auto"]
    np.testing.assert_allclose(scores["b"], (np.array(worse) - np.mean(NONE)) / (max(NONE) - np.mean(NONE)))
    assert scores["less"].mean() == pytest.approx(scores["a"].mean()) or scores["less"].mean() < 0


def test_tasks_of_other_optimizers_and_studies_are_no_further_tasks(tmp_path):
    for seed in range(3):
        for name in ("none", "auto"):
            write(tmp_path, name, seed, NONE[seed] + 0.01 * (name == "auto"))
            write(tmp_path, name, seed, NONE[seed] + 0.01 * (name == "auto"), optim="adamw")
            write(tmp_path, name, seed, NONE[seed] + 0.01 * (name == "auto"), task="b", role="final")
    assert across([part for group in read_groups(tmp_path) for part in sections(group)]) == []


def test_what_an_earlier_smaller_tuning_chose_is_left_out(tmp_path):
    """Two more trials, and another winner: the final runs of the first must not be chosen among."""
    for trial, value in enumerate([0.6, 0.5, 0.7]):
        for name in ("none", "norm"):
            level = None if name == "none" else trial + 1.0
            write(tmp_path, name, 0, value, level=level, lr=0.1 * (trial + 1), role="tune", trial=trial)
    for seed, value in enumerate(NONE):
        for trial, shift in {0: 0.2, 2: 0.0}.items():  # the earlier choice looks better on the seeds that judge
            write(tmp_path, "none", seed + 1, value + shift, lr=0.1 * (trial + 1), role="final", trial=trial)
            write(tmp_path, "norm", seed + 1, value + shift, level=trial + 1.0, lr=0.1 * (trial + 1), role="final", trial=trial)
    found = section(tmp_path)
    assert {arm.name: arm.method.settings["lr"] for arm in found.arms} == pytest.approx({"none": 0.3, "norm": 0.3})
    assert found.none.score.estimate == pytest.approx(np.mean(NONE))
    assert "10 of what an earlier, smaller tuning chose" in " ".join(found.group.notes)


def test_a_method_whose_final_runs_failed_still_counts_for_holm(tmp_path):
    for name in ("none", "norm", "auto"):
        write(tmp_path, name, 0, 0.5, role="tune", trial=0)
    gains = [0.020, 0.002, 0.018, 0.022, 0.012]
    for seed, value in enumerate(NONE):
        write(tmp_path, "none", seed + 1, value, role="final", trial=0)
        write(tmp_path, "norm", seed + 1, value + gains[seed], role="final", trial=0)
        write(tmp_path, "auto", seed + 1, None, "failed", role="final", trial=0)
    found = section(tmp_path)
    alone = stats.ttest_rel(np.add(NONE, gains), NONE).pvalue
    assert found.comparisons["norm"].adjusted == pytest.approx(2 * alone)
    assert "Not compared: auto" in " ".join(judge(found).notes)


def test_unequal_budgets_are_a_picture(tmp_path):
    for trial in range(4):
        write(tmp_path, "none", 0, 0.5, lr=0.1 + trial, role="tune", trial=trial)
        if trial < 2:
            write(tmp_path, "norm", 0, 0.5, level=1.0, lr=0.1 + trial, role="tune", trial=trial)
    for seed, value in enumerate(NONE):
        write(tmp_path, "none", seed + 1, value, role="final", trial=0)
        write(tmp_path, "norm", seed + 1, BETTER[seed], level=1.0, role="final", trial=0)
    verdict = judge(section(tmp_path))
    assert verdict.picture
    assert "the methods had 2 to 4 trials" in " ".join(verdict.notes)


@pytest.mark.parametrize(("status", "level", "expected"), [("diverged", np.inf, "failed: norm"), ("done", 5.0, "Without such a trial")])
def test_the_check_at_infinity_looks_at_what_was_tried(tmp_path, status, level, expected):
    """A tuned method that diverges where none does has lost; one that never had the choice of no clipping owes nothing."""
    for trial in range(2):
        write(tmp_path, "none", 0, 0.5, lr=0.1 + trial, role="tune", trial=trial)
        write(tmp_path, "norm", 0, 0.5, level=level if trial else 1.0, lr=0.1 + trial, role="tune", trial=trial)
        write(tmp_path, "auto", 0, 0.5, level=np.inf if trial else 1.0, lr=0.1 + trial, role="tune", trial=trial)
    for seed, value in enumerate(NONE):
        write(tmp_path, "none", seed + 1, value, role="final", trial=0)
        write(tmp_path, "auto", seed + 1, value, level=1.0, role="final", trial=0)
        write(tmp_path, "norm", seed + 1, value - 0.05, status if seed == 2 else "done", level=1.0, role="final", trial=0)
    assert expected in " ".join(judge(section(tmp_path)).notes)


def test_a_method_that_clipped_no_step_is_no_help_of_clipping(tmp_path):
    for seed, value in enumerate(NONE):
        write(tmp_path, "none", seed, value, role="final")
        write(tmp_path, "norm", seed, BETTER[seed], level=np.inf, lr=0.3, role="final")
    verdict = judge(section(tmp_path))
    assert verdict.kind == "same"
    assert "without clipping a step" in verdict.sentence


def test_runs_without_a_number_are_named_as_that(tmp_path):
    _, sentence, _ = told(tmp_path, {"none": [np.nan] * 3, "norm": [np.nan] * 3})
    assert sentence == "No verdict: the runs have no accuracy that is a number."


def test_arms_of_several_optimizers_stand_side_by_side(tmp_path):
    """A published figure's arms: three levels, plain SGD and Adam, each as it stands."""
    for seed, value in enumerate(NONE):
        for level in (1.0, 2.0, 3.0):
            write(tmp_path, "norm", seed, value + 0.001 * level * (seed % 2), level=level)
        write(tmp_path, "none", seed, value)
        write(tmp_path, "none", seed, BETTER[seed], optim="adam", lr=0.01)
    (group,) = read_groups(tmp_path, apart=True)
    (found,) = sections(group)
    assert {arm.name for arm in found.arms} == {"sgd none", "adam none", "sgd norm 1", "sgd norm 2", "sgd norm 3"}
    assert found.none.name == "sgd none"
    verdict = judge(found)
    assert (verdict.kind, verdict.picture) == ("ahead", True)
    assert verdict.sentence.startswith("Ahead of sgd none: adam none +3.1 points of accuracy over sgd none")
    names = [path.name for path in draw(tmp_path, tmp_path / "out", apart=True)]
    assert "toy_mini_comparison.png" in names
    assert "gain over sgd none" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_time_to_target_counts_a_miss_as_infinite(tmp_path):
    """The target is none's validation in tuning, .49; a run rises to its test value in equal parts at steps 4, 8, …, 40."""
    for name in ("none", "norm"):
        write(tmp_path, name, 0, 0.5, level=None if name == "none" else 1.0, role="tune", trial=0)
    for seed, value in enumerate([0.6, 0.7, 0.65, 0.48, 0.9]):
        write(tmp_path, "none", seed + 1, value, role="final", trial=0)
        write(tmp_path, "norm", seed + 1, 0.45, level=1.0, role="final", trial=0)
    found = section(tmp_path)
    assert target(found) == pytest.approx(0.49)
    at = [next(step for step in range(4, STEPS + 1, 4) if value * step / STEPS >= 0.49) for value in (0.6, 0.7, 0.65, 0.9)]
    none = reached(found, found.none, target(found))
    assert (none.steps.estimate, none.count) == (np.median([*at, np.inf]), 4)
    assert none.seconds.estimate == pytest.approx(none.steps.estimate / 10)
    norm = reached(found, next(arm for arm in found.judged if arm.name == "norm"), target(found))
    assert (norm.steps.estimate, norm.count) == (np.inf, 0)
    assert "∞<small>0 of 5 did" in part_of(found)
    assert target(write_arms(tmp_path / "no study", {"none": NONE})) is None


def test_runs_of_an_earlier_version_are_of_the_same_settings(tmp_path):
    """It knew neither compile nor restarts: off and not there are one."""
    for seed, value in enumerate(NONE):
        later = {"compile": False, "restart": {"first": None, "coeff": 1.25}} if seed > 2 else {}
        write(tmp_path, "none", seed, value, **later)
        write(tmp_path, "norm", seed, value, level=1.0, **later)
    found = section(tmp_path)
    assert {arm.name: arm.n for arm in found.arms} == {"none": 5, "norm": 5}


def test_a_method_of_many_words_leaves_the_figure_its_room(tmp_path):
    words = {f"a_setting_with_a_name_{i}": i for i in range(6)}
    write(tmp_path, "none", 0, 0.5)
    write(tmp_path, "norm", 0, 0.5, level=1.0, **words)
    assert len(draw(tmp_path, tmp_path / "out")) > 3


def test_skipped_steps_are_not_clipped_and_are_told(tmp_path):
    write(tmp_path, "none", 0, 0.5, skipped=1)
    write(tmp_path, "norm", 0, 0.5)
    found = section(tmp_path)
    assert {arm.name: arm.clipped for arm in found.arms} == {"none": 0.0, "norm": 1.0}
    assert "Steps skipped for a gradient that was not finite: none 1." in judge(found).notes


class Checked(HTMLParser):
    """Every element closed in turn; what is linked or loaded."""

    VOID = frozenset({"meta", "img", "br", "line", "circle"})

    def __init__(self):
        super().__init__()
        self.open, self.links, self.count = [], [], {}

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in self.VOID or self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A study and a sweep of a task with a hostile name, which lost a run."""
    folder = tmp_path_factory.mktemp("r")
    study(folder)
    for seed in range(3):
        for name in ("none", "auto"):
            write(folder, name, seed, 0.5 + 0.01 * seed, task="<script>alert(1)</script>")
    write(folder, "auto", 9, None, "failed", task="<script>alert(1)</script>")
    made = Page(folder)
    for group in read_groups(folder):
        for part in sections(group):
            made.add(part)
    return made.html()


def test_the_page_is_well_formed_and_closed(page):
    parser = Checked()
    parser.feed(page)
    parser.close()
    assert not parser.open
    assert parser.count["script"] == 1
    assert parser.count["section"] == 3  # two tasks, and how to read it; a study and a sweep are not pooled, so there is none across them
    assert parser.links
    assert all(link.startswith(("data:image/svg+xml,", "#")) for link in parser.links)
    assert not re.search(r"@import|url\(\s*['\"]?(http|//)", page)
    assert len(page) < 5e6


def test_names_are_escaped(page):
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "ValueError: &lt;b&gt;no&lt;/b&gt;" in page


def test_the_images_are_svg_with_the_numbers_that_stand_on_the_axes(page):
    images = [unquote(link.split(",", 1)[1]) for link in re.findall(r'src="(data:image/svg[^"]*)"', page)]
    assert len(images) > 10
    trees = [ElementTree.fromstring(image) for image in images]
    labels = {"".join(node.itertext()) for tree in trees for node in tree.iter("{http://www.w3.org/2000/svg}text")}
    assert {"step", "seconds of training", "learning rate", "tuning trials", "∞"} <= labels
    assert "0.001" in labels  # not rounded with the coordinates


def test_a_figure_in_each_format(tmp_path):
    write_arms(tmp_path, {"none": NONE[:1]})
    written = draw(tmp_path, tmp_path / "out", ["svg", "pdf", "png"])
    heads = {".svg": b"<?xml", ".pdf": b"%PDF", ".png": b"\x89PNG", ".html": b"<!doctype html>"}
    assert sorted(path.name for path in written if "comparison" in path.name) == [
        f"toy_mini_sgd_comparison.{name}" for name in ("pdf", "png", "svg")
    ]
    assert {path.suffix for path in written} == set(heads)
    assert all(path.read_bytes().startswith(heads[path.suffix]) for path in written)


def test_the_cells_of_the_page_are_the_tables_numbers(tmp_path):
    write_arms(tmp_path, {"none": NONE, "auto": BETTER})
    made = Page(tmp_path)
    made.add(section(tmp_path))
    text = made.html()
    body = re.search(r"<tbody>(.*?)</tbody>", text, re.DOTALL)[1]
    auto = next(row for row in body.split("<tr>") if ">auto<" in row)
    values = [float(value) if value else None for value in re.findall(r'<td data-v="([^"]*)"', auto)]
    p = stats.ttest_rel(BETTER, NONE).pvalue
    better = np.mean(np.subtract.outer(BETTER, NONE) > 0)
    r = stats.pearsonr(BETTER, NONE).statistic
    expected = [5, np.mean(BETTER), *[np.mean(BETTER) - np.mean(NONE)] * 2, p, 0.0625, better, r, 0, 1, 1000 / 10]
    np.testing.assert_allclose(values, expected)


def test_csv_has_every_digit(tmp_path):
    write_arms(tmp_path, {"none": NONE, "auto": BETTER, "norm": [0.5, 0.53, 0.50, 0.51, 0.49]})
    rows = {row["method"]: row for row in csv.DictReader(io.StringIO(tables(tmp_path, ["csv"])["csv"]))}
    assert list(rows) == ["auto", "norm", "none"]
    low, high = interval(BETTER)
    assert float(rows["auto"]["gain_low"]) == pytest.approx(low)
    assert float(rows["auto"]["gain_high"]) == pytest.approx(high)
    assert float(rows["auto"]["p_holm"]) == pytest.approx(2 * stats.ttest_rel(BETTER, NONE).pvalue)
    half = stats.t.ppf(0.975, 4) * stats.sem(NONE)
    assert float(rows["none"]["high"]) == pytest.approx(np.mean(NONE) + half)
    assert rows["none"]["gain"] == ""


def test_markdown_and_latex_parse_back(tmp_path, capsys):
    write_arms(tmp_path, {"none": NONE, "quadratic_rand_norm": BETTER})
    assert main(["table", str(tmp_path), "--format", "md,latex"]) == 0
    markdown, latex = capsys.readouterr().out.split("\\begin{table}")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line.startswith("|")]
    assert {len(row) for row in rows} == {9}
    assert rows[2][0].replace("\\", "") == "quadratic_rand_norm"
    assert rows[2][3] == f"{np.mean(BETTER):.3f} ± {stats.t.ppf(0.975, 4) * stats.sem(BETTER):.3f}"
    body = latex.split("\\toprule")[1].split("\\bottomrule")[0]
    lines = [line.strip() for line in body.splitlines() if line.strip() and "rule" not in line]
    assert all(len(re.split(r"(?<!\\)&", line)) == 9 and line.endswith(r"\\") for line in lines)
    assert r"quadratic\_rand\_norm" in body
    assert not re.search(r"(?<!\\)[_%#]", body)


def test_no_test_value_is_said(tmp_path):
    for seed, value in enumerate(NONE):
        for name in ("none", "auto"):
            write(tmp_path, name, seed, value)
    for path in (tmp_path / "runs").iterdir():
        row = results.read(tmp_path, "runs", runs=[path.stem]).drop(columns="run").to_dict("records")[0]
        row = {key: None if value != value else value for key, value in row.items()} | {"final_test": None}
        results.write_rows(tmp_path, "runs", path.stem, [row])
    verdict = judge(section(tmp_path))
    assert "validation stands in for it" in " ".join(verdict.notes)


@pytest.mark.parametrize("words", [["plot", "--format", "gif"], ["table", "--format", "tex"]])
def test_unknown_format(tmp_path, capsys, words):
    write_arms(tmp_path, {"none": NONE[:1]})
    assert main([words[0], str(tmp_path), *words[1:]]) == 2
    assert f"Unknown format '{words[2]}'" in capsys.readouterr().err


def test_a_run_on_a_busy_machine_moves_no_curve_against_time(tmp_path):
    """Four seeds of 1 s and one of 100: at the end the mean of all five stands at 1 s."""
    with matplotlib.rc_context(panels.RC):
        section = write_arms(tmp_path, {"none": NONE, "norm": BETTER})
        table = pd.DataFrame({run: [2.0 + i, 1.0 + i] for i, run in enumerate(section.judged[0].method.runs)}, [1, 2])
        seconds = pd.DataFrame({run: [0.5, 1.0] for run in table}, table.index)
        seconds.iloc[:, 0] *= 100
        shown = panels._on_seconds(section, table, seconds)[section.judged[0].name]
    assert shown.index.tolist() == [0.5, 1.0]
    assert shown.to_numpy().tolist() == table.to_numpy().tolist()


def test_a_study_that_is_still_tuning(tmp_path):
    write(tmp_path, "none", 0, 0.5, role="tune", trial=0)
    assert [path.name for path in draw(tmp_path, tmp_path / "out")] == ["report.html"]
    assert "only tuning runs are there" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_side_by_side_draws_the_same(tmp_path, monkeypatch):
    for task in ("a", "b"):
        write(tmp_path, "none", 0, 0.5, task=task)
    written = draw(tmp_path, tmp_path / "one")
    (tmp_path / "evals" / next((tmp_path / "steps").iterdir()).name).write_text("not a table")
    with pytest.warns(Unreadable, match="evals"):
        draw(tmp_path, tmp_path / "two")
    monkeypatch.setattr("clipbench.plot.MANY", 1)
    with pytest.warns(Unreadable, match="evals"):
        aside = draw(tmp_path, tmp_path / "three")
    assert [path.name for path in aside] == [path.name for path in written]
    assert (tmp_path / "three" / "report.html").read_text() == (tmp_path / "two" / "report.html").read_text()


def test_thousands_of_steps_are_thinned(tmp_path):
    with matplotlib.rc_context(panels.RC):
        found = write_arms(tmp_path, {"none": NONE[:1]})
        norms = {"grad_norm": 1.0, "clipped_norm": 1.0, "clip_factor": 1.0}
        steps = [{"step": i, "seconds": i / 10, "loss": 1 / i, **norms} for i in range(1, 5001)]
        results.write_rows(tmp_path, "steps", found.arms[0].method.runs[0], steps)
        figure = dict(panels.curves(section(tmp_path)))["training loss, smoothed, against step: faint, as it was"]
    assert len(figure.axes[0].lines[0].get_xdata()) <= panels.POINTS
