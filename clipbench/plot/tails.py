"""The figure of `clipbench tails`: a row of panels for each step."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter

from clipbench import stats
from clipbench.analysis.noise import amount, conclusion, numbers, provenance, samples
from clipbench.errors import UserError
from clipbench.plot import style
from clipbench.plot.looks import DASHES, Dash
from clipbench.stats import Tail

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


def draw_tails(rows: pd.DataFrame, path: Path) -> Path:
    """Write the figure of one run's rows of `tails`. UserError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(style.RC):
            figure(rows).savefig(path)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"Cannot write {path}: {reason}. Choose another folder with results=DIR.") from error
    return path


def figure(rows: pd.DataFrame) -> Figure:
    """For each step: histogram with densities, P(‖noise‖ ≥ x) with fits, Q-Q, Hill's α over k with its band;
    numbers and a sentence.
    """
    label, tails = rows["label"].iloc[0], samples(rows)
    title = f"{label}   ·   {amount(rows)}\n{provenance(rows)}"
    fig = style.figure(title, 0.65 + 2.2 * len(tails))
    parts = np.atleast_1d(fig.subfigures(len(tails), 1))  # type: ignore[arg-type]
    draws = (_density, _ccdf, _quantiles, _hill)
    for i, (part, (step, tail)) in enumerate(zip(parts, tails.items(), strict=True)):
        full_norm = rows["full_norm"][rows["step"] == step].iloc[0]
        norms = f"‖∇f‖ {full_norm:.3g}, median {NOISE} {np.median(tail.values):.3g}"
        sentence = textwrap.fill(conclusion(tail), 150)
        head = f"{numbers(step, tail)}   {norms}\n{sentence}"
        part.suptitle(head, x=0.005, ha="left", fontsize=6.5)
        for number, (draw, ax) in enumerate(zip(draws, part.subplots(1, 4), strict=True)):
            name = draw(ax, tail)
            style.letter(ax, 4 * i + number, name)
    handles, labels = parts[0].axes[1].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return fig


def _density(ax: Axes, tail: Tail) -> str:
    x = np.linspace(tail.values[0], tail.values[-1], 400)
    bins = "fd" if len(tail.values) < 5000 else 80
    ax.hist(tail.values, bins=bins, density=True, color="#d9d9d9")
    for name in ("normal", "chi", "lognormal"):
        ax.plot(x, tail.fits[name].pdf(x), color=COLOURS[name], linestyle=DASH[name])
    ax.set(yticks=[], xlabel=NOISE, ylim=(0, None))
    ax.spines["left"].set_visible(False)
    return "density"


def _ccdf(ax: Axes, tail: Tail) -> str:
    n = len(tail.values)
    share = 1 - np.arange(n) / n
    ax.plot(tail.values, share, ".", color="black", markersize=2, label="batches")
    x = np.geomspace(tail.values[0], tail.values[-1] * 1.15, 400)
    for name, colour in COLOURS.items():
        look: dict[str, Any] = {"color": colour, "linestyle": DASH[name], "linewidth": 0.9}
        ax.plot(x, tail.ccdf(name, x), label=NAMES.get(name, name), **look)
    ax.set(xscale="log", yscale="log", ylim=(0.4 / n, 1.6), xlabel="x")
    _few_ticks(ax)
    return f"P({NOISE} ≥ x)"


def _quantiles(ax: Axes, tail: Tail) -> str:
    n = len(tail.values)
    at = (np.arange(n) + 0.5) / n
    for name in ("normal", "lognormal", "chi"):
        look: dict[str, Any] = {"color": COLOURS[name], "markersize": 1.8, "markeredgewidth": 0}
        ax.plot(tail.fits[name].ppf(at), tail.values, ".", **look)
    ends = [tail.values[0], tail.values[-1]]
    ax.plot(ends, ends, color="black", linewidth=0.5)
    ax.set(xlabel="quantile of the fit", xlim=_around(ends), ylim=_around(ends))
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.yaxis.set_major_locator(MaxNLocator(4))
    return "Q-Q: batches on fits"


def _hill(ax: Axes, tail: Tail) -> str:
    k, alpha, low, high = stats.hill(tail.values)
    finite = np.isfinite(alpha)
    ax.fill_between(k[finite], low[finite], high[finite], color="black", alpha=0.15, linewidth=0)
    ax.plot(k, alpha, color="black")
    colour = COLOURS["pareto"]
    ax.axhline(2, color=colour, linewidth=0.6, linestyle=":")
    corner = ("axes fraction", "data")
    text: dict[str, Any] = {"ha": "right", "va": "top", "fontsize": 5, "color": colour}
    ax.annotate("variance infinite below", (1, 2), (0, -1.5), corner, "offset points", **text)
    tail_size = max(5, int(stats.tails.TAIL * len(tail.values)))
    ax.axvline(tail_size, color=style.GREY, linewidth=0.5)
    lowest = min(1.4, float(low[finite].min()))
    ax.set(xscale="log", yscale="log", xlabel="k largest", ylim=(lowest, None))
    _few_ticks(ax)
    return "Hill's α, 95 % band"


def _around(ends: list[float]) -> tuple[float, float]:
    margin = 0.04 * (ends[1] - ends[0])
    return ends[0] - margin, ends[1] + margin


def _few_ticks(ax: Axes) -> None:
    """1, 2, 5 on logarithmic axes that span little, as plain numbers."""
    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        if high >= 60 * low:
            continue
        axis.set_major_locator(FixedLocator(_ticks(low, high)))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_locator(NullLocator())


def _ticks(low: float, high: float) -> list[float]:
    ticks = []
    for exponent in range(-12, 13):
        for first in (1, 2, 5):
            tick = first * 10.0**exponent
            if low <= tick <= high:
                ticks.append(tick)
    if len(ticks) > 1:
        return ticks
    return [float(tick) for tick in MaxNLocator(3).tick_values(low, high) if low <= tick <= high]
