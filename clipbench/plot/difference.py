"""Each method minus the reference, on the seeds or repetitions that they share: what a verdict rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from clipbench.analysis.amounts import p_value
from clipbench.analysis.ranking import Ranking
from clipbench.plot import style, titles
from clipbench.plot.looks import Look, in_print, method_looks
from clipbench.stats import Comparison, Interval

ROW = 0.24  # inches of a method
FEWEST = 3  # pairs; of fewer there is no interval and no p
BAND = "#dddddd"


def comparable(found: Sequence[Ranking]) -> list[Ranking]:
    """The rankings in which a method can be compared with the reference."""
    return [ranking for ranking in found if ranking.usable]


def difference(found: Sequence[Ranking], width: float = style.WIDTH) -> Figure:
    """A row for each method, in the table's order: a dot for each pair, from the top by seed, and their mean
    with its simultaneous interval. Grey: what is not worth telling, where the metric says so.
    """
    rankings = comparable(found)
    wide = width >= style.WIDE
    names: list[str] = []
    for ranking in rankings:
        names += printed(ranking)
    room = 1.6 if wide else 1.25
    left = 0.15 + min(room, max(style.inches(name, 6.5) for name in names))
    right = 1.95 if wide else 0.1
    heights = [ROW * len(compared(ranking)) + 0.1 for ranking in rankings]
    handles, words = _handles(rankings)
    legend = style.Legend(handles, words, width)
    label_room = width - left - right + 2 * min(right, 0.3) - 0.05
    below = 0.28 + style.LINE * max(len(axis_label(ranking, label_room)) for ranking in rankings)
    gap = below + 0.24  # the label of the axis and the next title
    fig = style.titled(
        titles.title(rankings[0].group),
        titles.notes(found, len(found[0].group.configurations)),
        sum(heights) + gap * (len(rankings) - 1),
        (left, right, below + legend.height, 0.24),
        width,
    )
    total, foot = fig.get_figheight(), below + legend.height
    bottom = foot + sum(heights) + gap * (len(rankings) - 1)
    for i, (ranking, height) in enumerate(zip(rankings, heights, strict=True)):
        bottom -= height
        ax = fig.add_axes((left / width, bottom / total, 1 - (left + right) / width, height / total))
        bottom -= gap
        unit = ranking.unit
        name = f"Difference to {ranking.group.place.words}, paired by {unit}"
        if style.inches(name, 7) > width - left - right - 0.2:
            name = f"Paired by {unit}"
        style.letter(ax, i, name + _in_brackets(ranking.context))
        draw(ax, ranking, method_looks(ranking), left - 0.12, label_room, counts=not wide)
        if wide:
            _numbers(ax, ranking)
    legend.draw(fig)
    return fig


def _in_brackets(context: str) -> str:
    return f" ({context})" if context else ""


def compared(ranking: Ranking) -> dict[str, Comparison]:
    """The comparisons by method, in the table's order."""
    return {
        method.name: ranking.usable[method.name] for method in ranking.judged if method.name in ranking.usable
    }


def printed(ranking: Ranking) -> list[str]:
    """Their names in print."""
    return [in_print(name, ranking.group.place) for name in compared(ranking)]


def draw(
    ax: Axes, ranking: Ranking, looks: Mapping[str, Look], room: float, label_room: float, counts: bool
) -> None:
    """Into a panel, its axes labelled; `room`: the inches left of it that names may take, `label_room`: those
    that the label of the axis may. `counts`: whether to say beside a name how many runs diverged.
    """
    scale = 100 if ranking.in_points else 1
    rows = compared(ranking)
    worth = max((abs(_worth(comparison)) for comparison in rows.values()), default=0.0)
    if worth:
        ax.axvspan(-worth * scale, worth * scale, color=BAND, linewidth=0, zorder=0)
    ax.axvline(0, color="black", linewidth=0.8, zorder=1)
    methods = {method.name: method for method in ranking.judged}
    ends = [0.0, worth * scale, -worth * scale]
    for row, (name, comparison) in enumerate(rows.items()):
        pairs = scale * ranking.paired_differences(name).dropna().to_numpy()
        found = comparison.difference
        ends += [*pairs, scale * found.estimate]
        _pairs(ax, row, pairs, looks[name])
        _mean(ax, row, found, scale, looks[name])
        lost = f" {methods[name].diverged}✕" if counts and methods[name].diverged else ""
        label = style.shortened(printed(ranking)[row], room - style.inches(lost, 6.5), 6.5) + lost
        place = ax.get_yaxis_transform()
        ax.annotate(label, (0, row), (-4, 0), place, "offset points", ha="right", va="center", fontsize=6.5)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    _limits(ax, ends, [scale * end for end in _finite_ends(rows)])
    ax.set_xlabel("\n".join(axis_label(ranking, label_room)))


def axis_label(ranking: Ranking, room: float) -> list[str]:
    """What lies along the axis, with its unit and the better side, in lines of at most `room` inches."""
    name = titles.headline(ranking.group, ranking.judged_on)
    start = f"gain in {name} over" if ranking.sign > 0 else f"reduction of {name} against"
    size = matplotlib.rcParams["axes.labelsize"]
    first, second = f"{start} {ranking.group.place.words}", "(right is better)"
    if ranking.in_points:
        second = "(points; right is better)"
    if style.inches(f"{first} {second}", size) <= room:
        return [f"{first} {second}"]
    return [*style.wrapped(first, room, size), second]


def _worth(comparison: Comparison) -> float:
    return comparison.worth if math.isfinite(comparison.worth) else 0.0


def _pairs(ax: Axes, row: int, pairs: np.ndarray, look: Look) -> None:
    n = len(pairs)
    y = row + (np.linspace(-0.3, 0.3, n) if n > 1 else np.zeros(n))
    size = 3.2 if n <= 10 else 2.2
    ax.plot(pairs, y, "o", color=look.colour, alpha=0.55, markersize=size, markeredgewidth=0, zorder=2)


def _mean(ax: Axes, row: int, found: Interval, scale: float, look: Look) -> None:
    line: dict[str, Any] = {"color": "black", "zorder": 3}
    if found.n >= FEWEST and math.isfinite(found.low):
        ax.plot([scale * found.low, scale * found.high], [row, row], linewidth=0.9, **line)
    ax.plot(
        scale * found.estimate,
        row,
        "D",
        color=look.colour,
        markersize=4,
        markeredgecolor="black",
        markeredgewidth=0.6,
        zorder=4,
    )


def _finite_ends(rows: Mapping[str, Comparison]) -> list[float]:
    found: list[float] = []
    for comparison in rows.values():
        interval = comparison.difference
        if interval.n >= FEWEST and math.isfinite(interval.low):
            found += [interval.low, interval.high]
    return found


def _limits(ax: Axes, values: Sequence[float], intervals: Sequence[float]) -> None:
    """Around the dots and, as far as they do not squeeze these into a third of the panel, the intervals."""
    inner = np.array(values)
    low, high = inner.min(), inner.max()
    span = (high - low) or abs(high) or 1.0
    outer = np.clip(np.array([*intervals, low, high]), low - span, high + span)
    low, high = outer.min(), outer.max()
    margin = 0.05 * (high - low) or span
    ax.set_xlim(low - margin, high + margin)
    ax.locator_params(axis="x", nbins=5)


def _numbers(ax: Axes, ranking: Ranking) -> None:
    """Right of each row: mean, interval, p, and how many pairs; all to the same decimals."""
    rows = compared(ranking)
    scale = 100 if ranking.in_points else 1
    halves = [scale * comparison.difference.half for comparison in rows.values()]
    digits = _digits([half for half in halves if math.isfinite(half)] or np.diff(ax.get_xlim()).tolist())
    columns = {"mean  [95 % interval]": 0.08, "p": 1.3, "n": 1.63}
    width = ax.get_position().width * style.figure_of(ax).get_figwidth()
    for name, at in columns.items():
        ax.annotate(
            name, (1 + at / width, 1), (0, 4), "axes fraction", "offset points", fontsize=6, color=style.GREY
        )
    methods = {method.name: method for method in ranking.judged}
    for row, (name, comparison) in enumerate(rows.items()):
        found = comparison.difference
        mean = style.number(scale * found.estimate, digits)
        mean = mean if mean.startswith("−") or not mean.strip("0.") else f"+{mean}"
        p, count = "–", str(found.n)
        if found.n >= FEWEST and math.isfinite(found.low):
            low, high = (style.number(scale * end, digits) for end in (found.low, found.high))
            mean += f"  [{low}, {high}]"
            p = p_value(comparison.adjusted)
        lost = methods[name].diverged
        if lost:
            count += f"  {lost}✕"
        for text, at in zip((mean, p, count), columns.values(), strict=True):
            place = ax.get_yaxis_transform()
            ax.text(1 + at / width, row, text, transform=place, va="center", fontsize=6)


def _digits(sizes: Sequence[float]) -> int:
    """Decimals that show two digits of a typical size."""
    usual = float(np.median(sizes)) if len(sizes) else 1.0
    return int(np.clip(1 - math.floor(math.log10(usual)), 0, 5)) if usual > 0 else 2


def _handles(rankings: Sequence[Ranking]) -> tuple[list[Line2D | Patch], list[str]]:
    unit = rankings[0].unit
    dot = Line2D([], [], marker="o", linestyle="", color=style.GREY, markersize=3.2)
    mean = Line2D([], [], marker="D", color="black", markerfacecolor=style.GREY, markersize=4, linewidth=0.9)
    handles: list[Line2D | Patch] = [dot, mean]
    names = [f"one {unit}", "mean, simultaneous 95 % interval"]
    worths = [_worth(comparison) for ranking in rankings for comparison in ranking.usable.values()]
    if any(worths):
        handles.append(Patch(color=BAND))
        names.append("too small to be worth telling")
    if any(method.diverged for ranking in rankings for method in ranking.judged):
        handles.append(Line2D([], [], marker="X", linestyle="", color="black", markersize=4))
        names.append("diverged, not in the mean")
    return handles, names
