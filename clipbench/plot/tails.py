"""The figure of `clipbench tails`: a row of panels for each step."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from clipbench import stats
from clipbench.analysis.noise import (
    conclusion,
    data_seen,
    error_rates,
    provenance,
    samples,
    statistics_in_words,
    title,
)
from clipbench.errors import UserError
from clipbench.escape import visible
from clipbench.plot import style
from clipbench.plot.looks import DASHES, Dash
from clipbench.stats import Tail
from clipbench.stats.pareto import tail_size

COLOURS = {
    "normal": style.GREY,
    "chi": "#0072B2",
    "lognormal": "#D55E00",
    "exponential": "#009E73",
    "pareto": "#882255",
}
DASH: dict[str, Dash] = {
    "normal": DASHES[1],
    "chi": "-",
    "lognormal": "-",
    "exponential": DASHES[2],
    "pareto": DASHES[3],
}
NAMES = {"chi": "χ", "pareto": "Pareto"}

NOISE = r"‖∇f$_\mathrm{B}$ − ∇f‖"
FULL = 6.75  # inches: the text of a paper; a column has 3.25
WIDE = 5.0  # from here on the four panels of a step stand side by side
PANEL = 1.6  # inches, with its labels
LINE = 0.118  # inches from one line of small print to the next
SMALL = 6.2  # points
LETTERS = 21  # of small print, in an inch
MARGIN = 0.04  # inches
DARK = "#444444"


def draw_tails(rows: pd.DataFrame, path: Path, width: float = FULL) -> Path:
    """Write the figure of one run's rows of `tails`, `width` inches wide. UserError where it cannot be
    written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with style.drawing():
            figure(rows, width).savefig(path)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"Cannot write {path}: {reason}. Choose another folder with results=DIR.") from error
    return path


def figure(rows: pd.DataFrame, width: float = FULL) -> Figure:
    """For each step: histogram with densities, P(‖noise‖ ≥ x) with fits, Q-Q, Hill's α over k with its band;
    numbers and a sentence. Above, what is drawn and how often the sentence is wrong.
    """
    tails = samples(rows)
    heads = {}
    for step, tail in tails.items():
        full_norm = rows["full_norm"][rows["step"] == step].iloc[0]
        heads[step] = _head(step, tail, full_norm, width)
    name = _lines(visible(title(rows)), 0.8 * width)
    size = len(rows) // len(tails)
    notes = _lines(visible(f"{data_seen(rows)}{provenance(rows)} {error_rates(size)}"), width)
    columns = 4 if width >= WIDE else 2
    legend = LINE * math.ceil((len(COLOURS) + 1) / (6 if width >= WIDE else 3)) + 0.1
    top = 0.15 * len(name) + LINE * len(notes) + 0.1
    heights = [LINE * len(head) + 0.1 + PANEL * 4 / columns for head in heads.values()]
    total = top + sum(heights) + legend
    fig = style.figure("", total, width)
    parts = np.atleast_1d(fig.subfigures(len(tails) + 2, 1, height_ratios=[top, *heights, legend]))  # type: ignore[arg-type]
    _write(parts[0], name, 0.05, size=7.5)
    _write(parts[0], notes, 0.05 + 0.15 * len(name), colour=DARK)
    letter = 0
    for part, head, tail in zip(parts[1:-1], heads.values(), tails.values(), strict=True):
        part.suptitle("\n".join(head), x=MARGIN / width, ha="left", fontsize=SMALL)
        panels = part.subplots(4 // columns, columns).ravel()
        for draw, ax in zip((_density, _ccdf, _quantiles, _hill), panels, strict=True):
            style.letter(ax, letter, draw(ax, tail))
            letter += 1
            for axis, room in ((ax.xaxis, width / columns), (ax.yaxis, PANEL)):
                if axis.get_scale() == "log":
                    style.few_ticks(axis, room)
    handles, labels = panels[1].get_legend_handles_labels()
    parts[-1].legend(handles, labels, loc="center", ncols=6 if width >= WIDE else 3)
    return fig


def _write(
    part: SubFigure, lines: list[str], down: float, size: float = SMALL, colour: str = "black"
) -> None:
    """Lines at the left, from `down` inches below the top on. They are no formulas."""
    height, width = part.bbox.height / part.dpi, part.bbox.width / part.dpi
    part.text(
        MARGIN / width,
        1 - down / height,
        "\n".join(lines),
        va="top",
        fontsize=size,
        color=colour,
        linespacing=1.3,
        parse_math=False,
    )


def _head(step: int, tail: Tail, full_norm: float, width: float) -> list[str]:
    """What stands over the panels of a step: what may be concluded, and below it its numbers."""
    median = np.median(tail.values)
    norms = f"‖∇f‖\u00a0{full_norm:.3g}, median norm of the noise\u00a0{median:.3g}"
    sentence = _lines(f"Step {step}. {conclusion(tail)}", width)
    numbers = _lines(f"{statistics_in_words(tail)}; {norms}", width)
    return [line.replace("ρ_mR", r"ρ$_\mathrm{mR}$") for line in sentence + numbers]


def _lines(text: str, width: float) -> list[str]:
    """As many characters of small print as fit in a line. A number stays with its sign and unit."""
    for apart, together in ((" = ", "\u00a0=\u00a0"), (" %", "\u00a0%"), ("ξ ", "ξ\u00a0")):
        text = text.replace(apart, together)
    return textwrap.wrap(text, int(LETTERS * width))


def _density(ax: Axes, tail: Tail) -> str:
    smallest, largest = tail.values[0], tail.values[-1]
    x = np.linspace(smallest, largest, 400)
    bins = "fd" if len(tail.values) < 5000 else 80
    ax.hist(tail.values, bins=bins, density=True, color="#d9d9d9")
    for name in ("normal", "chi", "lognormal"):
        density = tail.fits[name].pdf(x)
        ax.plot(x, density, color=COLOURS[name], linestyle=DASH[name])
    ax.set(yticks=[], xlabel=NOISE, ylim=(0, None))
    ax.spines["left"].set_visible(False)
    return "density"


def _ccdf(ax: Axes, tail: Tail) -> str:
    """The share of batches at or above each norm, and that of the fits."""
    n = len(tail.values)
    share = 1 - np.arange(n) / n
    ax.plot(tail.values, share, ".", color="black", markersize=2, label="batches")
    smallest, largest = tail.values[0], tail.values[-1]
    x = np.geomspace(smallest, largest * 1.15, 400)
    for name, colour in COLOURS.items():
        ax.plot(
            x,
            tail.ccdf(name, x),
            label=NAMES.get(name, name),
            color=colour,
            linestyle=DASH[name],
            linewidth=0.9,
        )
    ax.set(xscale="log", yscale="log")
    ax.set(ylim=(0.4 / n, 1.6), xlabel="x")
    return f"P({NOISE} ≥ x)"


def _quantiles(ax: Axes, tail: Tail) -> str:
    """The batches on the quantiles of each fit: on the line where it holds."""
    n = len(tail.values)
    at = (np.arange(n) + 0.5) / n
    for name in ("normal", "lognormal", "chi"):
        expected = tail.fits[name].ppf(at)
        ax.plot(
            expected,
            tail.values,
            ".",
            color=COLOURS[name],
            markersize=1.8,
            markeredgewidth=0,
        )
    ends = [tail.values[0], tail.values[-1]]
    ax.plot(ends, ends, color="black", linewidth=0.5)
    limits = _around(*ends)
    ax.set(xlabel="quantile of the fit", xlim=limits, ylim=limits)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.yaxis.set_major_locator(MaxNLocator(4))
    return "Q-Q: batches on fits"


def _hill(ax: Axes, tail: Tail) -> str:
    """Hill's α with its band, the line below which no variance exists, and the size of the tail."""
    k, alpha, low, high = stats.hill(tail.values)
    finite = np.isfinite(alpha)
    ax.fill_between(k[finite], low[finite], high[finite], color="black", alpha=0.15, linewidth=0)
    ax.plot(k, alpha, color="black")
    colour = COLOURS["pareto"]
    ax.axhline(2, color=colour, linewidth=0.6, linestyle=":")
    ax.annotate(
        "infinite variance",
        (0, 2),
        (2, -1.5),
        ("axes fraction", "data"),
        "offset points",
        ha="left",
        va="top",
        fontsize=6,
        color=colour,
    )
    ax.axvline(tail_size(len(tail.values)), color=style.GREY, linewidth=0.5)
    lowest = min(1.4, float(low[finite].min()))
    ax.set(xscale="log", yscale="log")
    ax.set(xlabel="k largest; the line: the tail", ylim=(lowest, None))
    return "Hill's α, 95 % band"


def _around(low: float, high: float) -> tuple[float, float]:
    margin = 0.04 * (high - low)
    return low - margin, high + margin
