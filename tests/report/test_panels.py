"""What the report's small figures draw is what the runs say."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from madeup import BETTER, NONE, STEPS, ranking_of, write, write_methods, write_table

from clipbench.analysis.target import reached, target
from clipbench.report import frame, panels
from clipbench.report.draw import draw
from clipbench.report.page import part_of
from clipbench.report.sensitivity import sensitivity


def test_where_runs_diverge_is_shaded_and_counted_for_each_method(tmp_path):
    """Clipping widens the stable range: pooled over both methods only lr=10 would look unstable."""
    for lr, (none, norm) in {0.1: (0, 0), 1.0: (2, 0), 10.0: (3, 1)}.items():
        for name, lost in {"none": none, "norm": norm}.items():
            for seed in range(3):
                write(tmp_path, name, seed, 0.5 + 0.01 * seed, "diverged" if seed < lost else "done", lr=lr)
    (name, figure), *_ = sensitivity(ranking_of(tmp_path))
    assert name.startswith("learning rate")
    (ax,) = figure.axes
    places = ax.transData + ax.transAxes.inverted()
    counts = {text.get_text(): text.get_position() for text in ax.texts if "/" in text.get_text()}
    assert set(counts) == {"2/3", "3/3", "1/3"}
    for text, lr in {"2/3": 1.0, "3/3": 10.0, "1/3": 10.0}.items():
        x, y = counts[text]
        shades = [patch for patch in ax.patches if patch.get_alpha() and patch.get_bbox().contains(x, y)]
        assert len(shades) == 1
        assert [
            shades[0].get_bbox().x0 < places.transform((at, 0.5))[0] < shades[0].get_bbox().x1
            for at in (0.1, 1.0, 10.0)
        ] == [at == lr for at in (0.1, 1.0, 10.0)]
    assert counts["2/3"][1] == counts["3/3"][1] != counts["1/3"][1]
    figure.canvas.draw()
    assert all(text.get_window_extent().y1 <= figure.bbox.y1 for text in ax.texts)


def test_a_skipped_step_has_no_part_in_what_clipping_did(tmp_path):
    found = write_methods(tmp_path, {"none": NONE, "norm": BETTER})
    for run in found.group.runs.index[found.group.runs["clipping_type"] == "norm"]:
        norms = [
            {"grad_norm": np.inf, "clipped_norm": 0.0, "clip_factor": 0.0},
            {"grad_norm": 2.0, "clipped_norm": 2.0, "clip_factor": 1.0},
        ]
        rows = [{"step": i, "seconds": i / 10, "loss": 1 / i, **norms[i > 6]} for i in range(1, STEPS + 1)]
        write_table(tmp_path, "steps", run, rows)
    for _, figure in panels.clipping(ranking_of(tmp_path)):
        expected = {"clip factor": 1.0, "steps clipped, %": 0.0, "gradient norm": 2.0}[
            figure.axes[0].get_ylabel()
        ]
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
    drawn = dict(sensitivity(ranking_of(tmp_path)))
    rates = next(figure for name, figure in drawn.items() if name.startswith("learning rate"))
    lines = [line.get_ydata() for line in rates.axes[0].lines if list(line.get_xdata()) == [0.1, 1.0]]
    assert sorted(float(y[0]) for y in lines) == pytest.approx([0.39, 0.5])


def test_the_level_panel_shows_the_best_trial_of_none_by_its_mean_over_seeds(tmp_path):
    for trial, (values, lr) in enumerate({(0.91, 0.11): 0.1, (0.61, 0.63): 0.2, (0.99, None): 0.3}.items()):
        for seed, value in zip((100, 101), values, strict=True):
            write(
                tmp_path,
                "none",
                seed,
                value,
                "diverged" if value is None else "done",
                lr=lr,
                role="tune",
                trial=trial,
            )
            write(
                tmp_path,
                "norm",
                seed,
                0.6 if trial == 1 else 0.5,
                level=1.0 + trial,
                lr=lr,
                role="tune",
                trial=trial,
            )
    write_methods(tmp_path, {"none": NONE, "norm": BETTER}, role="final", trial=1, lr=0.2)
    figure = dict(sensitivity(ranking_of(tmp_path)))["norm: clipping level"]
    (reference,) = [line.get_ydata()[0] for line in figure.axes[0].lines if list(line.get_xdata()) == [0, 1]]
    assert reference == pytest.approx(0.61)  # 0.62 on test, 0.01 less on validation


def test_time_to_target_counts_a_miss_as_infinite(tmp_path):
    """The target is none's validation in tuning, .49; a run rises to its test value in equal parts at steps
    4, 8, …, 40.
    """
    for name in ("none", "norm"):
        write(tmp_path, name, 0, 0.5, level=None if name == "none" else 1.0, role="tune", trial=0)
    for seed, value in enumerate([0.6, 0.7, 0.65, 0.48, 0.9]):
        write(tmp_path, "none", seed + 1, value, role="final", trial=0)
        write(tmp_path, "norm", seed + 1, 0.45, level=1.0, role="final", trial=0)
    found = ranking_of(tmp_path)
    assert target(found) == pytest.approx(0.49)
    at = []
    for value in (0.6, 0.7, 0.65, 0.9):
        at.append(next(step for step in range(4, STEPS + 1, 4) if value * step / STEPS >= 0.49))
    none = reached(found, found.reference, target(found))
    assert (none.steps.estimate, none.count) == (np.median([*at, np.inf]), 4)
    assert none.seconds.estimate == pytest.approx(none.steps.estimate / 10)
    norm = reached(found, next(method for method in found.judged if method.name == "norm"), target(found))
    assert (norm.steps.estimate, norm.count) == (np.inf, 0)
    assert "∞<small>0 of 5 did" in part_of(found)
    assert target(write_methods(tmp_path / "no study", {"none": NONE})) is None


def test_a_method_of_many_words_leaves_the_figure_its_room(tmp_path):
    words = {f"a_setting_with_a_name_{i}": i for i in range(6)}
    write(tmp_path, "none", 0, 0.5)
    write(tmp_path, "norm", 0, 0.5, level=1.0, **words)
    assert len(draw(tmp_path, tmp_path / "out")) > 3


def test_a_run_on_a_busy_machine_moves_no_curve_against_time(tmp_path):
    """Four seeds of 1 s and one of 100: at the end the mean of all five stands at 1 s."""
    with matplotlib.rc_context(frame.RC):
        found = write_methods(tmp_path, {"none": NONE, "norm": BETTER})
        table = pd.DataFrame(
            {run: [2.0 + i, 1.0 + i] for i, run in enumerate(found.judged[0].configuration.runs)}, [1, 2]
        )
        seconds = pd.DataFrame({run: [0.5, 1.0] for run in table}, table.index)
        seconds.iloc[:, 0] *= 100
        shown = panels.on_seconds(found, table, seconds)[found.judged[0].name]
    assert shown.index.tolist() == [0.5, 1.0]
    assert shown.to_numpy().tolist() == table.to_numpy().tolist()


def test_thousands_of_steps_are_thinned(tmp_path):
    with matplotlib.rc_context(frame.RC):
        found = write_methods(tmp_path, {"none": NONE[:1]})
        norms = {"grad_norm": 1.0, "clipped_norm": 1.0, "clip_factor": 1.0}
        steps = [{"step": i, "seconds": i / 10, "loss": 1 / i, **norms} for i in range(1, 5001)]
        write_table(tmp_path, "steps", found.methods[0].configuration.runs[0], steps)
        figure = dict(panels.curves(ranking_of(tmp_path)))[
            "training loss, smoothed, against step: faint, as it was"
        ]
    assert len(figure.axes[0].lines[0].get_xdata()) <= panels.POINTS
