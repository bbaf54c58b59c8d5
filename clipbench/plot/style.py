"""What all figures share: sizes and fonts, the room that text takes, axes, and the marks for what has no
place on an axis. Colours and dashes: looks.py.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from string import ascii_lowercase
from typing import Any, Literal

import matplotlib.style
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from clipbench.escape import on_one_line, visible

Margins = tuple[float, float, float, float]

WIDTH = 6.75  # inches: the text of a paper; one of its two columns has 3.25
WIDE = 5.0  # from here on panels stand side by side
SMALLEST = 6.0  # points: what is still legible in print
GREY = "#757575"
FONT = "DejaVu Sans"

RC = {
    "font.family": FONT,
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
    "savefig.dpi": 300,  # what a journal asks of a bitmap
    "pdf.fonttype": 42,  # and of a PDF: fonts that can be searched and edited
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
        fig.suptitle(title, x=0.05 / width, ha="left", y=1 - 0.05 / height, va="top")
    else:
        fig.suptitle(title, x=0.005, ha="left")
    return fig


@lru_cache(maxsize=4096)
def inches(text: str, size: float | str, bold: bool = False) -> float:
    """How wide a line of text is at a size in points, or at one of matplotlib's by name."""
    if not text:
        return 0.0
    font = FontProperties(family=FONT, size=size, weight="bold" if bold else "normal")
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of letters that the font lacks: they are told of when they are drawn
        width, _, _ = text_to_path.get_text_width_height_descent(on_one_line(text), font, ismath=False)
    return float(width) / 72


def shortened(text: str, room: float, size: float | str) -> str:
    """As much of a line as fits into `room` inches, with an ellipsis where something is cut."""
    text = on_one_line(text)
    if inches(text, size) <= room:
        return text
    low, high = 0, min(len(text), 500)
    while low < high:
        middle = (low + high + 1) // 2
        fits = inches(text[:middle].rstrip() + "…", size) <= room
        low, high = (middle, high) if fits else (low, middle - 1)
    return text[:low].rstrip() + "…"


def wrapped(text: str, room: float, size: float | str, most: int = 4) -> list[str]:
    """Lines of at most `room` inches; a wider word is cut, and so is what comes after `most` lines."""
    lines: list[str] = []
    for word in visible(text).split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and inches(longer, size) <= room:
            lines[-1] = longer
        else:
            lines.append(shortened(word, room, size))
    if len(lines) > most:
        lines[most - 1] = shortened(f"{lines[most - 1]} {lines[most]}…", room, size)
    return lines[:most]


LINE = 0.125  # inches from one line of small text to the next


def titled(title: str, notes: str, panels: float, margins: Margins, width: float = WIDTH) -> Figure:
    """A figure whose panels are `panels` inches high within `margins`, under as many lines of title and notes
    as they need.
    """
    room = width - 0.1
    heads = wrapped(title, room, 7.5, most=2)
    small = wrapped(notes, room, SMALLEST)
    top = 0.06 + 0.14 * len(heads) + LINE * len(small)
    left, right, bottom, above = margins
    height = top + above + panels + bottom
    fig = figure("\n".join(heads), height, width, (left, right, bottom, top + above))
    y = height - 0.07 - 0.14 * len(heads)
    if small:
        place: dict[str, Any] = {"x": 0.05 / width, "y": y / height, "va": "top", "ha": "left"}
        fig.text(s="\n".join(small), fontsize=SMALLEST, color="#444444", linespacing=1.25, **place)
    return fig


class Legend:
    """Entries in rows, read as text is: from left to right, then down. `height`: inches that it takes, its
    heading among them.
    """

    def __init__(
        self, handles: Sequence[Artist], names: Sequence[str], width: float, heading: str = "", most: int = 4
    ) -> None:
        handle = 0.36  # inches, with the space between columns
        self.names = [shortened(name, width - handle - 0.1, 6.5) for name in names]
        widest = max((inches(name, 6.5) for name in self.names), default=0.0)
        self.columns = max(1, min(len(names), most, int((width - 0.05) / (widest + handle + 0.08))))
        self.heads = wrapped(heading, width - 0.1, SMALLEST) if heading else []
        self.handles, self.width = list(handles), width
        self.rows = math.ceil(len(names) / self.columns)
        self.height = 0.14 * self.rows + LINE * len(self.heads) + 0.07

    def draw(self, fig: Figure) -> None:
        """At the foot of the figure."""
        order = [i for column in range(self.columns) for i in range(column, len(self.names), self.columns)]
        fig.legend(
            [self.handles[i] for i in order],
            [self.names[i] for i in order],
            title="\n".join(self.heads) or None,
            title_fontsize=SMALLEST,
            loc="lower left",
            bbox_to_anchor=(0, 0),
            ncols=self.columns,
            alignment="left",
            borderaxespad=0.15,
            borderpad=0.2,
            labelspacing=0.35,
            handlelength=2.4,
            handletextpad=0.5,
            columnspacing=1.2,
        )


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


def named_ticks(ax: Axes, places: Sequence[float], names: Sequence[str], room: float) -> None:
    """A tick at each place of the x axis, whose limits and scale are set; `room`: its inches. A name that
    would run into the one before it is left out.
    """
    scale = ax.xaxis.get_transform()
    ends = scale.transform(np.array(ax.get_xlim(), float))
    at = (scale.transform(np.array(places, float)) - ends[0]) / (ends[1] - ends[0]) * room
    shown, last = [""] * len(names), -math.inf
    for i in np.argsort(at, kind="stable"):
        half = inches(names[i], 6) / 2
        if at[i] - half >= last + 0.04:
            shown[i], last = names[i], at[i] + half
    ax.set_xticks(list(places), shown)
    ax.xaxis.set_minor_locator(NullLocator())


def multiples(
    n: int, width: float = WIDTH, height: float = 1.2, widest: float = 1.7, notes: str = "", title: str = ""
) -> tuple[Figure, list[Axes], int]:
    """Small multiples: a figure of n panels of one size, in as many columns as keep them below `widest`
    inches. (figure, panels in reading order, columns)

    For panels on the same limits: `outer_labels(panels, columns)` then numbers the outer axes alone, and each
    `letter(ax, i, text)` titles one.
    """
    columns = min(n, math.ceil((width - 0.5) / widest))
    rows = math.ceil(n / columns)
    gap = 0.3
    fig = titled(title, notes, rows * height + (rows - 1) * gap, (0.5, 0.08, 0.36, 0.2), width)
    panels = grid(fig, n, columns, hspace=gap / height, wspace=0.12)
    return fig, panels, columns


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


def figure_of(ax: Axes) -> Figure:
    """The whole figure that a panel stands in."""
    found = ax.get_figure(root=True)
    assert isinstance(found, Figure)
    return found


def beside(fig: Figure, panels: Sequence[Axes], label: str) -> None:
    """One label for the y axes of all panels, at their middle."""
    boxes = [ax.get_position() for ax in panels]
    top, bottom = max(box.y1 for box in boxes), min(box.y0 for box in boxes)
    width, height = fig.get_size_inches()
    text = shortened(label, min(top, 1 - (top + bottom) / 2 + bottom) * height, 6.5)
    y = (top + bottom) / 2
    fig.text(0.05 / width, y, text, rotation=90, ha="left", va="center", fontsize=6.5)


def letter(ax: Axes, i: int, title: str) -> None:
    """Title a panel "a  title", cut to the panel's width; after z comes aa."""
    name = ascii_lowercase[i % 26]
    if i >= 26:
        name = ascii_lowercase[i // 26 - 1] + name
    # Two texts: as math in one it would take far longer.
    indent = 3 + 4.5 * len(name)
    fig = figure_of(ax)
    if fig.get_layout_engine() is None:  # else the panel's width is not known yet
        room = ax.get_position().width * fig.get_figwidth() - indent / 72
        title = shortened(title, max(room, 0.4), 7)
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


def decimals(values: Any) -> int:
    """How many all numbers of a figure have: three, fewer where one is 10, 100 or 1000 or more."""
    finite = np.abs(_finite(values))
    largest = float(finite.max(initial=0))
    return max(0, 3 - sum(largest >= bound for bound in (10, 100, 1000)))


def number(value: float, digits: int = 3) -> str:
    """To so many decimals, with a real minus; a dash for NaN."""
    if np.isnan(value):
        return "–"
    text = f"{value:.{digits}f}".replace("inf", "∞")
    return text.replace("-", "−" if text.strip("-0.") else "")


def also(ax: Axes, value: float, name: str, room: float) -> bool:
    """A dotted line across the panel at a value, as the baseline's, with its name; `room`: the panel's
    inches. False, and nothing drawn, where it would squeeze the rest into less than half of the axis.
    """
    if not np.isfinite(value):
        return False
    scale = ax.yaxis.get_transform()
    low, high = scale.transform(np.array(ax.get_ylim(), float))
    at = float(scale.transform(np.array([value], float))[0])
    if not low - (high - low) <= at <= high + (high - low):
        return False
    margin = (max(high, at) - min(low, at)) / 8  # the name has room there
    below = at < (low + high) / 2
    ends = np.array([min(low, at - margin), max(high, at + margin)])
    ax.set_ylim(*scale.inverted().transform(ends))
    ax.axhline(value, color="#444444", linewidth=0.7, linestyle=(0, (1, 2)), zorder=1.5)
    place = ax.get_yaxis_transform()
    text = shortened(name, room, SMALLEST)
    ax.annotate(
        text,
        (1, value),
        (0, -1.5 if below else 1.5),
        place,
        "offset points",
        ha="right",
        va="top" if below else "bottom",
        fontsize=SMALLEST,
        color="#444444",
    )
    return True


def few_ticks(axis: Axis, room: float) -> None:
    """Plain numbers on a logarithmic axis of `room` inches: decades where there are two or more, else 1, 2, 5
    times them, else what fits.
    """
    low, high = sorted(axis.get_view_interval())
    if not 0 < low < high < math.inf:
        return
    most = max(2, int(room / 0.35))
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ticks: list[float] = []
    for factors in ((1,), (1, 3), (1, 2, 5)):
        finer = [float(f"{factor}e{decade}") for decade in range(first, last + 1) for factor in factors]
        finer = [tick for tick in finer if low <= tick <= high]
        if len(ticks) < 2 or len(finer) <= most:
            ticks = finer
    if len(ticks) < 2:
        even = np.asarray(MaxNLocator(3).tick_values(low, high))
        ticks = even[(low <= even) & (even <= high)].tolist()
    while len(ticks) > most:
        ticks = ticks[::2]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    axis.set_minor_locator(NullLocator())


def plain(value: float) -> str:
    """ "0.05", "2000", and "1e−7" of what has more noughts."""
    return f"{value:g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e").replace("-", "−")


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
