"""Where runs diverge along a setting: on top of a panel a row for each method, deeper where more did."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from clipbench.analysis.ranking import Method, Ranking
from clipbench.plot import style
from clipbench.plot.looks import Look, method_looks
from clipbench.report.frame import MARGINS, SIZE

GRID = 8  # values of a setting that are places of their own; more are put into bins of trials
OWN = 12  # values of a setting that have a cell of their own in such a row
ROW, GAP = 0.1, 0.05  # inches: of a method on top of the panel, and below the rows
WIDTH = SIZE[0] - MARGINS[0] - MARGINS[1]
HEIGHT = SIZE[1] - MARGINS[2] - MARGINS[3]  # of the panel's axes, inches

Cell = tuple[float, float, np.ndarray]  # ends along the axis, from 0 to 1; whether each run lies in it


def is_grid(ranking: Ranking, values: pd.Series) -> bool:
    """Whether a setting took few values, chosen by hand."""
    return ranking.group.tuning.empty and values.nunique() <= GRID


def beyond(runs: pd.DataFrame, setting: str) -> float:
    """Where ∞ stands: a little beyond the last value."""
    values = runs[setting]
    finite = values[np.isfinite(values) & (values > 0)]
    if finite.empty:
        return 1.0
    smallest, largest = finite.min(), finite.max()
    ratio = max(1.3, (largest / smallest) ** 0.08)
    return float(largest * ratio**2)


def divergence(
    fig: Figure, ax: Axes, ranking: Ranking, runs: pd.DataFrame, setting: str, methods: Sequence[Method]
) -> bool:
    """Add a row for each method, in the legend's order: how many of its runs diverged where. Whether any did;
    if not, nothing changes.
    """
    if not runs["diverged"].any():
        return False
    width, _ = SIZE
    _, _, bottom, _ = MARGINS
    total = SIZE[1] + GAP + ROW * len(methods)
    fig.set_size_inches(width, total)
    fig.subplots_adjust(bottom=bottom / total, top=(bottom + HEIGHT) / total)
    looks, end = method_looks(ranking), beyond(runs, setting)
    for i, method in enumerate(reversed(methods)):
        own = runs[(runs["name"] == method.name) & (runs[setting] > 0)]
        places = own[setting].clip(upper=end)
        cells = _cells(ax, ranking, places)
        y = 1 + (GAP + ROW * i) / HEIGHT
        _row(ax, y, cells, own["diverged"].to_numpy(), looks[method.name])
    middle = 1 + (GAP + ROW * len(methods) / 2) / HEIGHT
    corner = ("axes fraction", "offset points")
    ax.annotate("diverged", (0, middle), (-3, 0), *corner, ha="right", va="center", fontsize=6.5)
    return True


def _row(ax: Axes, y: float, cells: list[Cell], diverged: np.ndarray, look: Look) -> None:
    """A line over what was tried; on it a box where runs diverged, with how many of how many where there is
    room.
    """
    place: dict[str, Any] = {"transform": ax.transAxes, "clip_on": False}
    tried: list[float] = []
    for low, high, _ in cells:
        tried += [low, high]
    middle = y + 0.45 * ROW / HEIGHT
    ax.plot(tried, [middle] * len(tried), linewidth=0.6, **look.line, **place)
    for low, high, there in cells:
        part = diverged[there]
        if not part.any():
            continue
        box: dict[str, Any] = {
            "xy": (low + 0.002, y),
            "width": high - low - 0.004,
            "height": 0.9 * ROW / HEIGHT,
            "linewidth": 0,
        }
        depth = 0.1 + 0.45 * part.mean()
        ax.add_patch(Rectangle(facecolor="white", zorder=3, **box, **place))
        ax.add_patch(Rectangle(facecolor=look.colour, alpha=depth, zorder=4, **box, **place))
        counts = f"{part.sum()}/{len(part)}"
        room = WIDTH * (high - low)
        if len(part) > 1 and 0.055 * len(counts) < room:
            centre = (low + high) / 2
            base = y + 0.42 * ROW / HEIGHT
            ax.text(
                centre,
                base,
                counts,
                fontsize=style.SMALLEST,
                ha="center",
                va="center_baseline",
                zorder=5,
                **place,
            )


def _cells(ax: Axes, ranking: Ranking, x: pd.Series) -> list[Cell]:
    """One for each value of x, of many trials one for four or more in a row."""
    if x.empty:
        return []
    points = np.column_stack([x, np.zeros(len(x))])
    to_axes = ax.transScale + ax.transLimits
    along = to_axes.transform(points)[:, 0].round(9)
    values = np.unique(along)
    count = len(values)
    if count > OWN and not is_grid(ranking, x):
        count = min(OWN, count // 4)
    parts = np.array_split(values, count)
    between = [(left[-1] + right[0]) / 2 for left, right in pairwise(parts)]
    before, after = 0.04, 0.04
    if between:
        before = between[0] - values[0]
        after = values[-1] - between[-1]
    first = max(0.0, values[0] - before)
    last = min(1.0, values[-1] + after)
    cells = []
    ends = pairwise([first, *between, last])
    for part, (low, high) in zip(parts, ends, strict=True):
        cells.append((low, high, np.isin(along, part)))
    return cells
