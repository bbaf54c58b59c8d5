"""The report's small figures of one section: a panel each, so that a page can set them in as many columns as it is wide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipbench import stats
from clipbench.analysis.comparison import Arm, Section
from clipbench.analysis.groups import mean_interval
from clipbench.plot import style
from clipbench.plot.comparison import smooth, thinned
from clipbench.record.rows import is_clipped

SIZE = (3.05, 2.15)  # inches
MARGINS = (0.56, 0.08, 0.4, 0.08)
RC = style.RC | {
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "lines.linewidth": 1.2,
    "svg.fonttype": "none",  # the reader's own font, and a fifth of the size
    "svg.hashsalt": "clipbench",
    "path.simplify_threshold": 0.3,
}
POINTS = 120  # of a line
BANDS = 4  # methods; of more than that only none and the best keep theirs
LONGEST = 34  # characters along the axis
BINS = 48  # of time, for what clipping did

Drawing = tuple[str, Figure]  # what it shows, and it


def panel(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    fig = style.figure("", SIZE[1], SIZE[0], MARGINS)
    ax = fig.subplots()
    ax.set(xlabel=xlabel, ylabel=ylabel if len(ylabel) <= LONGEST else ylabel[: LONGEST - 1] + "…")
    ax.yaxis.set_label_coords(
        -(MARGINS[0] - 0.15) / (SIZE[0] - MARGINS[0] - MARGINS[1]), 0.5
    )  # the left edge, however wide the ticks are
    return fig, ax


def curves(section: Section) -> Iterator[Drawing]:
    """Loss and validation metric against step and against seconds of training."""
    group, headline = section.group, section.group.headline
    methods = [arm.method for arm in section.judged]
    val = group.evals[(group.evals["metric"] == headline) & (group.evals["split"] == "val")]
    loss, seconds = (group.curve(name, *methods) for name in ("loss", "seconds"))
    tables = {
        "training loss, smoothed": (thinned(smooth(loss), POINTS), thinned(seconds, POINTS)),
        f"validation {headline}": tuple(
            val.pivot(index="step", columns="run", values=name) for name in ("value", "seconds")
        ),
    }
    raw = thinned(loss, POINTS)
    for name, (values, seconds) in tables.items():
        faint = raw if "loss" in name else None
        yield (
            f"{name}, against step" + ": faint, as it was" * (faint is not None),
            _curve(section, values, "step", name, faint),
        )
        yield (
            f"{name}, against time",
            _curve(section, _on_seconds(section, values, seconds), "seconds of training", name),
        )


def _curve(section: Section, table: Any, xlabel: str, ylabel: str, raw: pd.DataFrame | None = None) -> Figure:
    fig, ax = panel(xlabel, ylabel)
    tables = table if isinstance(table, dict) else {arm.name: table for arm in section.judged}
    done = [
        tables[arm.name][[run for run in arm.method.done if run in tables[arm.name]]].to_numpy(float).ravel()
        for arm in section.judged
    ]
    every = np.concatenate([*done, np.zeros(0)])
    style.log_if_wide(ax, "y", every)
    style.fit(ax, every)
    if raw is not None:
        for arm in reversed(banded(section)):
            mean = raw[[run for run in arm.method.done if run in raw]].mean(axis=1)
            ax.plot(raw.index, mean, color=arm.colour, alpha=0.3, linewidth=0.5)
    for arm in reversed(section.judged):  # the best on top
        _mean(ax, tables[arm.name], arm, arm in banded(section))
    return fig


def banded(section: Section) -> list[Arm]:
    """The arms that have a band: more of them would hide the lines."""
    arms = section.judged
    return [arm for arm in arms if len(arms) <= BANDS or arm is section.none or arm is arms[0]]


def _mean(ax: Axes, table: pd.DataFrame, arm: Arm, band: bool) -> None:
    done = table[[run for run in arm.method.done if run in table]]
    if not done.empty:
        mean, half = mean_interval(done.to_numpy(float))
        ax.plot(done.index, mean, color=arm.colour, linestyle=arm.dash)
        if band and done.shape[1] > 1:
            ax.fill_between(done.index, mean - half, mean + half, color=arm.colour, alpha=0.12, linewidth=0)
    for run in arm.method.diverged:
        if run in table and len(line := table[run].dropna()):
            ax.plot(line.index, line, color=arm.colour, linewidth=0.5)
            style.cross(ax, line.index[-1], line.iloc[-1], arm.colour)


def _on_seconds(section: Section, values: pd.DataFrame, seconds: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Each arm's runs against the median, over its seeds, of the seconds at which a step ended: one run on a busy machine moves nothing."""
    found = {}
    for arm in section.judged:
        runs = [run for run in arm.method.runs if run in values and run in seconds]
        found[arm.name] = (
            values[runs].set_axis(seconds[runs].median(axis=1), axis="index") if runs else values[runs]
        )
    return found


def clipping(section: Section) -> Iterator[Drawing]:
    """What clipping did: the factor and the norms over time, and the share of steps that were clipped."""
    arms = [arm for arm in section.judged if arm.method.type != "none"]
    if not arms or section.group.steps.empty:
        return
    factor, factors = panel("step", "clip factor")
    share, shares = panel("step", "steps clipped, %")
    norm, norms = panel("step", "gradient norm")
    width = -(-int(section.group.steps["step"].max()) // BINS)
    for arm in reversed(arms):
        steps = section.group.steps_of(arm.method)
        values, bins = (
            steps["clip_factor"].to_numpy(float),
            np.maximum(steps["step"].to_numpy() - 1, 0) // width,
        )
        there = np.isfinite(values) & np.isfinite(
            steps["grad_norm"].to_numpy(float)
        )  # a step that was skipped was not clipped
        if not there.any():
            continue
        at, (low, middle, high) = style.binned(bins[there], values[there], (0.1, 0.5, 0.9))
        x = (at + 0.5) * width
        look: dict[str, Any] = {"color": arm.colour, "linestyle": arm.dash}
        if arm in banded(section):
            factors.fill_between(x, low, high, color=arm.colour, alpha=0.12, linewidth=0)
        factors.plot(x, middle, **look)
        clipped = np.bincount(bins[there], is_clipped(values[there]))[at] / np.bincount(bins[there])[at]
        shares.plot(x, 100 * clipped, **look)
        for column, width_of_line in {"grad_norm": 0.5, "clipped_norm": 1.2}.items():
            at, (middle,) = style.binned(bins[there], steps[column].to_numpy(float)[there], (0.5,))
            norms.plot((at + 0.5) * width, middle, linewidth=width_of_line, **look)
    steps = section.group.steps_of(*[arm.method for arm in arms])
    lowest = steps["clip_factor"][np.isfinite(steps["grad_norm"])]
    style.log_if_wide(factors, "y", lowest[lowest > 0].quantile([0.05, 1]))
    shares.set_ylim(-3, 103)
    style.log_if_wide(
        norms,
        "y",
        np.concatenate([np.asarray(line.get_ydata(), float) for line in norms.lines] or [np.zeros(0)]),
    )
    yield "clip factor: median and the middle 80 % of steps and seeds", factor
    yield "share of steps clipped", share
    yield "gradient norm: medians over steps and seeds, thin before clipping, thick after", norm


def budget(section: Section) -> Iterator[Drawing]:
    """What tuning brought: the expected best of k trials, and thin the best so far in the order they were made."""
    tuning, group = section.group.tuning, section.group
    if tuning.empty:
        return
    fig, ax = panel("tuning trials", f"best validation {group.headline}")
    shown = []
    for arm in reversed(section.judged):
        rows = tuning[tuning["method"] == arm.name]
        ended = rows["final"].astype(float).where(rows["status"] == "done")
        trials = ended.groupby(rows["trial"]).agg(lambda part: part.mean(skipna=False)).sort_index()
        if trials.notna().any():
            x = np.arange(1, len(trials) + 1)
            expected = stats.expected_best(trials, group.higher_is_better)
            look: dict[str, Any] = {"color": arm.colour, "linestyle": arm.dash}
            ax.plot(
                x,
                stats.best_so_far(trials, group.higher_is_better),
                drawstyle="steps-post",
                linewidth=0.5,
                alpha=0.7,
                **look,
            )
            ax.plot(x, expected, **look)
            shown.append(expected)
    if shown:
        style.fit(ax, np.concatenate(shown))
        yield "best so far against budget: expected over orders of the trials, and thin as it came", fig
