"""Gradient norm before and after clipping over time, and the level: one panel per configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clipbench.analysis.group import Configuration
from clipbench.analysis.ranking import Ranking
from clipbench.analysis.thresholds import median_level
from clipbench.plot import style, titles
from clipbench.plot.looks import Line, Look, named, shown

BINS = 120  # of steps: what a panel of this size can show
LEVEL = (0, (2, 1))


def trajectory(found: Sequence[Ranking], width: float = style.WIDTH) -> Figure:
    """Median, and the range as a shade, over the steps of a bin and all runs: grey before clipping, coloured
    after it; dashed black, the level η.

    The range keeps every spike, which a mean would hide. ▲ marks a norm that is not finite, ✕ the end of a
    run that diverged.
    """
    group, lines = found[0].group, shown(found)
    configurations = [configuration for configuration, _ in lines]
    every = group.steps_of(*configurations)
    settings = group.runs["settings"]
    levels = [median_level(group.steps_of(each), settings) for each in configurations]
    names = [named(configuration) for configuration in configurations]
    columns = _columns(names, width)
    rows = math.ceil(len(lines) / columns)
    legend = style.Legend(*_legend(lines, every, levels), width)
    height, gap = 1.0, 0.3
    margins = (0.5, 0.1, 0.36 + legend.height, 0.2)
    panels_height = rows * height + (rows - 1) * gap
    fig = style.titled(titles.title(group), titles.notes(found, len(lines)), panels_height, margins, width)
    panels = style.grid(fig, len(lines), columns, hspace=gap / height, wspace=0.1)
    ends = _ends(every, levels)
    last = max(1, int(every["step"].max())) if len(every) else 1
    bin_width = math.ceil((last + 1) / BINS)
    for i, (ax, (configuration, look)) in enumerate(zip(panels, lines, strict=True)):
        style.letter(ax, i, names[i])
        style.log_if_wide(ax, "y", ends)
        style.fit(ax, ends)
        ax.set_xlim(-0.04 * last, 1.04 * last)
        ax.minorticks_off()  # many panels of them would take longer than all the rest
        if ax.get_xscale() == "linear":
            ax.locator_params(axis="x", nbins=4)
        if ax.get_yscale() == "log":
            style.few_ticks(ax.yaxis, height)
        steps = group.steps_of(configuration)
        _range(ax, steps, "grad_norm", bin_width, style.GREY)
        _range(ax, steps, "clipped_norm", bin_width, look.colour)
        if len(levels[i]):
            ax.plot(levels[i].index, levels[i], color="black", linewidth=0.8, linestyle=LEVEL, label="level")
        _marks(ax, steps, configuration, look)
    style.outer_labels(panels, columns)
    for ax in panels[-columns:]:
        ax.set_xlabel("step")
    style.beside(fig, panels, "gradient norm")
    legend.draw(fig)
    return fig


def _columns(names: Sequence[str], width: float) -> int:
    """As many as leave the titles room, but panels of at least 1.2 inches."""
    longest = max(style.inches(name, 7) for name in names) + 0.25
    room = width - 0.6
    most = min(max(1, int(room / 1.2)), 4)
    while most > 1 and room / most - 0.1 < min(longest, 1.15):
        most -= 1
    return min(most, len(names))


def _legend(
    lines: Sequence[Line], steps: pd.DataFrame, levels: Sequence[pd.Series]
) -> tuple[list[Artist], list[str]]:
    clipped = [look for configuration, look in lines if not configuration.is_reference]
    colour = clipped[0].colour if clipped else lines[0][1].colour
    handles: dict[str, Artist] = {
        "before clipping": Line2D([], [], color=style.GREY),
        "after, in the method's colour": Line2D([], [], color=colour),
    }
    if any(len(level) for level in levels):
        handles["level η"] = Line2D([], [], color="black", linewidth=0.8, linestyle=LEVEL)
    mark: dict[str, Any] = {"color": "black", "linestyle": ""}
    if not np.isfinite(steps["grad_norm"]).all():
        handles["norm not finite"] = Line2D([], [], marker="^", markersize=2.5, **mark)
    if any(configuration.diverged for configuration, _ in lines):
        handles["diverged"] = Line2D([], [], marker="X", markersize=4, **mark)
    return list(handles.values()), list(handles)


def _ends(steps: pd.DataFrame, levels: Sequence[pd.Series]) -> np.ndarray:
    """The least positive, the least and the largest finite norm, and the levels within a decade of them: what
    an axis must hold.
    """
    norms = steps[["grad_norm", "clipped_norm"]].to_numpy()
    finite = norms[np.isfinite(norms)].astype(float)
    ends: list[float] = []
    for values in (finite[finite > 0], finite):
        if len(values):
            ends += [values.min(), values.max()]
    for level in levels:
        for end in (level.min(), level.max()) if len(level) else ():
            if ends and max(ends[0], 1e-300) / 10 <= end <= 10 * ends[1]:
                ends.append(end)
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
