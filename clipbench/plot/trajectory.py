"""Gradient norm before and after clipping over time: one panel per configuration."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clipbench.analysis.group import Configuration, Group
from clipbench.plot import style
from clipbench.plot.looks import Look, shown, title

BINS = 120  # of steps: what a panel of this size can show


def trajectory(group: Group) -> Figure:
    """Median, and the range as a shade, over the steps of a bin and all seeds: grey before clipping, coloured
    after it.

    The range keeps every spike, which a mean would hide. ▲ marks a norm that is not finite, ✕ the end of a
    run that diverged.
    """
    lines = shown(group)
    columns = _columns(lines)
    rows = math.ceil(len(lines) / columns)
    fig = style.figure(title(group, len(lines)), 0.85 + 1.15 * rows, margins=(0.5, 0.1, 0.55, 0.42))
    panels = style.grid(fig, len(lines), columns, hspace=0.32, wspace=0.1)
    configurations, _ = zip(*lines, strict=True)
    every = group.steps_of(*configurations)
    ends = _ends(every)
    last = int(every["step"].max()) if len(every) else 1
    width = math.ceil((last + 1) / BINS)
    for i, (ax, (configuration, look)) in enumerate(zip(panels, lines, strict=True)):
        style.letter(ax, i, configuration.label)
        style.log_if_wide(ax, "y", ends)
        style.fit(ax, ends)
        ax.set_xlim(-0.04 * last, 1.04 * last)
        ax.minorticks_off()  # thirty panels of them would take longer than all the rest
        steps = group.steps_of(configuration)
        _range(ax, steps, "grad_norm", width, style.GREY)
        _range(ax, steps, "clipped_norm", width, look.colour)
        _marks(ax, steps, configuration, look)
    style.outer_labels(panels, columns)
    for ax in panels[-columns:]:
        ax.set_xlabel("step")
    fig.supylabel("gradient norm", x=0.005, fontsize=6.5)
    _legend(fig, lines, every)
    return fig


def _columns(lines: list[tuple[Configuration, Look]]) -> int:
    """As many as the longest title leaves room for, at most 5 of many panels and 3 of few."""
    longest = max(len(configuration.label) for configuration, _ in lines) + 6
    most = 5 if len(lines) > 9 else 3
    return min(most, max(1, 125 // longest))


def _legend(fig: Figure, lines: list[tuple[Configuration, Look]], steps: pd.DataFrame) -> None:
    _, first = lines[0]
    handles = {
        "before clipping": Line2D([], [], color=style.GREY),
        "after clipping, in the method's colour": Line2D([], [], color=first.colour),
    }
    mark: dict[str, Any] = {"color": "black", "linestyle": ""}
    if not np.isfinite(steps["grad_norm"]).all():
        handles["norm not finite"] = Line2D([], [], marker="^", markersize=2.5, **mark)
    if any(configuration.diverged for configuration, _ in lines):
        handles["diverged"] = Line2D([], [], marker="X", markersize=4, **mark)
    fig.legend(handles.values(), handles.keys(), loc="lower center", ncols=4)


def _ends(steps: pd.DataFrame) -> np.ndarray:
    """The least positive, the least and the largest finite norm: what an axis must hold."""
    norms = steps[["grad_norm", "clipped_norm"]].to_numpy()
    finite = norms[np.isfinite(norms)].astype(float)
    ends: list[float] = []
    for values in (finite[finite > 0], finite):
        if len(values):
            ends += [values.min(), values.max()]
    return np.array(ends)


def _range(ax: Axes, steps: pd.DataFrame, column: str, width: int, colour: str) -> None:
    norms = steps["grad_norm"].to_numpy(float)
    values = steps[column].to_numpy(float)
    finite = np.isfinite(norms) & np.isfinite(values)
    bins = steps["step"].to_numpy()[finite] // width
    filled, quantiles = style.binned(bins, values[finite], (0, 0.5, 1))
    low, middle, high = quantiles
    x = (filled + 0.5) * width - 0.5
    ax.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0)
    ax.plot(x, middle, color=colour, label=column)


def _marks(ax: Axes, steps: pd.DataFrame, configuration: Configuration, look: Look) -> None:
    """▲ at the top for a norm that is not finite, ✕ where a run diverged."""
    _, top = ax.get_ylim()
    odd = steps["step"][~np.isfinite(steps["grad_norm"])]
    if len(odd):
        heights = np.full(len(odd), top)
        ax.plot(
            odd,
            heights,
            "^",
            markersize=2.5,
            markeredgewidth=0,
            color="black",
            clip_on=False,
        )
    diverged = steps[steps["run"].isin(configuration.diverged)]
    ends = diverged.groupby("run", observed=True).last()
    for step, norm in zip(ends["step"], ends["grad_norm"], strict=True):
        style.cross(ax, step, norm, look.colour)
