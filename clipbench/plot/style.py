"""What all figures share: fonts, axes, and the marks for what has no place on an axis. Colours and dashes:
looks.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from string import ascii_lowercase
from typing import Any, Literal

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import NullFormatter

from clipbench.escape import visible

Margins = tuple[float, float, float, float]

WIDTH = 7.2  # inches: two columns of a paper
GREY = "#8c8c8c"

RC = {
    "font.family": "DejaVu Sans",
    "font.size": 6.5,
    "axes.titlesize": 7,
    "axes.titlelocation": "left",
    "axes.labelsize": 6.5,
    "axes.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.width": 0.3,
    "ytick.minor.width": 0.3,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "lines.linewidth": 1.0,
    "legend.fontsize": 6.5,
    "legend.title_fontsize": 6.5,
    "legend.frameon": False,
    "figure.titlesize": 7.5,
}


@contextmanager
def drawing(settings: Mapping[str, Any] = RC) -> Iterator[None]:
    """Within, matplotlib draws by its own defaults and `settings`: neither a matplotlibrc of the user's nor
    what a script has set before reaches our figures.
    """
    with matplotlib.style.context(["default", dict(settings)]):
        yield


def figure(title: str, height: float, width: float = WIDTH, margins: Margins | None = None) -> Figure:
    """An empty figure, sizes in inches, laid out by its contents, or at once by `margins`: (left, right,
    bottom, top).

    Margins are for many panels: matplotlib needs seconds to measure them all. Fonts and lines are those of RC
    within `drawing`.
    """
    fig = Figure(figsize=(width, height), dpi=200, layout=None if margins else "constrained")
    FigureCanvasAgg(fig)
    if margins:
        left, right, bottom, top = margins
        fig.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)
        fig.suptitle(title, x=0.005, ha="left", y=1 - 0.05 / height, va="top")
    else:
        fig.suptitle(title, x=0.005, ha="left")
    return fig


def take_literally(fig: Figure) -> None:
    """Names are no formulas: a $ is a $, and a control character is made visible. To be called before `fig`
    is saved; ticks are left alone.
    """
    texts: list[Text] = list(fig.texts)
    legends = list(fig.legends)
    for ax in fig.axes:
        texts += [*ax.texts, ax.xaxis.label, ax.yaxis.label]
        for name in ("title", "_left_title", "_right_title"):
            texts.append(getattr(ax, name))
        legend = ax.get_legend()
        if legend is not None:
            legends.append(legend)
    for legend in legends:
        texts += [*legend.get_texts(), legend.get_title()]
    for text in texts:
        text.set_parse_math(False)
        text.set_text(visible(text.get_text()))


def grid(fig: Figure, n: int, columns: int, **spacing: Any) -> list[Axes]:
    """n panels in rows of `columns`."""
    columns = min(n, columns)
    rows = math.ceil(n / columns)
    axes = fig.subplots(rows, columns, squeeze=False, gridspec_kw=spacing).ravel()
    for ax in axes[n:]:
        ax.remove()
    return list(axes[:n])


def outer_labels(panels: Sequence[Axes], columns: int, x: bool = True) -> None:
    """Number the y axes of the first column alone and, if `x`, the x axes of the last row of each.

    The caller gives all panels the same limits. Shared axes would do so too, but each asks all others where
    its labels may stand.
    """
    for i, ax in enumerate(panels):
        if i % columns:
            ax.yaxis.set_major_formatter(NullFormatter())
        if x and i < len(panels) - columns:
            ax.xaxis.set_major_formatter(NullFormatter())


def binned(bins: np.ndarray, values: np.ndarray, shares: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """(the bins, from 0, that hold something; the quantiles of the values in each, shares × bins), as numpy
    has them, in one sort.
    """
    by_value = np.argsort(values)
    small = np.min_scalar_type(bins.max(initial=0))  # of few bins: then the sort is a radix sort
    by_bin = np.argsort(bins[by_value].astype(small), kind="stable")
    order = by_value[by_bin]
    ranked = values[order]
    filled, start, count = np.unique(bins[order], return_index=True, return_counts=True)
    place = np.asarray(shares)[:, None] * (count - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, count - 1)
    part = place % 1
    quantiles = (1 - part) * ranked[start + low] + part * ranked[start + high]
    return filled, quantiles


def letter(ax: Axes, i: int, title: str) -> None:
    """Title a panel "a  title"; after z comes aa."""
    name = ascii_lowercase[i % 26]
    if i >= 26:
        name = ascii_lowercase[i // 26 - 1] + name
    # Two texts: as math in one it would take far longer.
    indent = 3 + 4.5 * len(name)
    for x, text, weight in ((0, name, "bold"), (indent, title, "normal")):
        ax.annotate(
            text,
            (0, 1),
            (x, 4),
            "axes fraction",
            "offset points",
            fontsize=7,
            fontweight=weight,
            annotation_clip=False,
        )


def log_if_wide(ax: Axes, axis: Literal["x", "y"], values: Any) -> None:
    """A logarithmic axis where the values span more than a decade and a half. A zero stays on it; a negative
    value keeps it linear.
    """
    finite = _finite(values)
    positive = finite[finite > 0]
    if len(positive) == 0 or finite.min() < 0:
        return
    if positive.max() < 30 * positive.min():
        return
    scale = ax.set_xscale if axis == "x" else ax.set_yscale
    if len(positive) == len(finite):
        scale("log")
    else:
        scale("symlog", linthresh=positive.min())


def _finite(values: Any) -> np.ndarray:
    numbers = np.asarray(values, float)
    return numbers[np.isfinite(numbers)]


def cross(ax: Axes, x: float, y: float, colour: str) -> None:
    """✕ where a run diverged, at the edge of the panel if it is outside or not a number: at the top then."""
    low, high = ax.get_ylim()
    y = high if np.isnan(y) else min(max(y, low), high)
    ax.plot(
        [x],
        [y],
        marker="X",
        markersize=4,
        color=colour,
        markeredgecolor="white",
        markeredgewidth=0.3,
        clip_on=False,
        zorder=5,
    )


def number(value: float) -> str:
    """Three decimals, or four digits of what is 10 or more; a dash for NaN."""
    if np.isnan(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


def fit(ax: Axes, values: Any) -> None:
    """y limits around the finite values, with a margin that follows the axis' scale."""
    finite = _finite(values)
    if len(finite) == 0:
        return
    scale = ax.yaxis.get_transform()
    extremes = np.array([finite.min(), finite.max()])
    low, high = scale.transform(extremes)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    ends = np.array([low - margin, high + margin])
    ax.set_ylim(*scale.inverted().transform(ends))
