"""Is the gradient's noise heavy-tailed? What `clipbench tails` measured, drawn and put in words: a row of panels for each step."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter

from clipbench import stats
from clipbench.errors import UserError
from clipbench.plot import style
from clipbench.stats import Interval, Tail

COLOURS = {
    "normal": style.GREY,
    "chi": "#0072B2",
    "lognormal": "#D55E00",
    "exponential": "#009E73",
    "pareto": "#882255",
}
DASHES: dict[str, style.Dash] = {
    "normal": style.DASHES[1],
    "exponential": style.DASHES[2],
    "pareto": style.DASHES[3],
}
NAMES = {"chi": "χ", "pareto": "Pareto"}

NOISE = r"‖∇f$_\mathrm{B}$ − ∇f‖"
ROUNDING = 1e-5  # of a gradient in float32


def draw_tails(rows: pd.DataFrame, path: Path) -> Path:
    """Write the figure of one run's rows of `tails`. UserError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(style.RC):
            figure(rows).savefig(path)
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}. Choose another folder with results=DIR."
        ) from error
    return path


def samples(rows: pd.DataFrame) -> dict[int, Tail]:
    """{step: the analysis of ‖∇f_B − ∇f‖}. UserError where the batches do not differ."""
    found = {}
    for step, part in rows.groupby("step"):
        if part["noise_norm"].max() <= ROUNDING * part["grad_norm"].max():
            raise UserError(
                f"Step {step}: the batches have the same gradient, so there is no noise. Take a smaller batch_size."
            )
        try:
            found[int(step)] = stats.tail(part["noise_norm"])  # type: ignore[call-overload]
        except ValueError as error:
            raise UserError(f"Step {step}: the batches' gradients give nothing to draw. {error}") from error
    return found


def figure(rows: pd.DataFrame) -> Figure:
    """For each step: histogram with densities, P(‖noise‖ ≥ x) with fits, Q-Q, Hill's α over k with its band; numbers and a sentence."""
    first, tails = rows.iloc[0], samples(rows)
    fig = style.figure(f"{first['label']}   ·   {_amount(rows)}\n{made(rows)}", 0.65 + 2.2 * len(tails))
    parts = np.atleast_1d(fig.subfigures(len(tails), 1))  # type: ignore[arg-type]
    for i, (part, (step, tail)) in enumerate(zip(parts, tails.items(), strict=True)):
        at = rows[rows["step"] == step]
        words = f"{numbers(step, tail)}   ‖∇f‖ {at['full_norm'].iloc[0]:.3g}, median {NOISE} {np.median(tail.values):.3g}"
        said = textwrap.fill(conclusion(tail), 150)
        part.suptitle(f"{words}\n{said}", x=0.005, ha="left", fontsize=6.5)
        panels = part.subplots(1, 4)
        for number, (draw, ax) in enumerate(zip((_density, _ccdf, _quantiles, _hill), panels, strict=True)):
            title = draw(ax, tail)
            style.letter(ax, 4 * i + number, title)
    handles, labels = parts[0].axes[1].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return fig


def _amount(rows: pd.DataFrame) -> str:
    return f"{len(rows) // rows['step'].nunique()} batches, {_passes(float(rows['passes'].iloc[0]))}"


def _passes(passes: float) -> str:
    if np.isnan(passes):
        return "of data without end"
    return (
        "1 pass" if passes == 1 else f"{passes:g} passes" if passes > 1 else f"{100 * passes:.0f} % of a pass"
    )


def made(rows: pd.DataFrame) -> str:
    """What ∇f is the mean of, and what besides the choice of examples is in the noise."""
    first = rows.iloc[0]
    whole = first["full_passes"] >= 1
    mean = (
        f"the mean of all training data, {_passes(first['full_passes'])}"
        if whole
        else "the mean of these batches only"
    )
    return f"∇f: {mean}. Dropout off; {first['drawn'] + ' is part of the noise' if first['drawn'] else 'no augmentation or sampling'}."


def numbers(step: int, tail: Tail) -> str:
    """ "step 0   skewness 1.18 (0.9 to 1.5)   ρ_mR 4.1 (2.2 to 7)   ξ 0.02 (−0.15 to 0.3)": 95 % intervals."""
    return f"step {step}   skewness {_words(tail.skewness)}   ρ_mR {_words(tail.rho)}, of χ {tail.rho_chi:.2g}   ξ {_words(tail.index)}"


def conclusion(tail: Tail) -> str:
    """What these batches allow to be said, and no more."""
    n, low, high = len(tail.values), tail.index.low, tail.index.high
    far = f"far values {tail.rho.estimate:.2g} times as frequent as under a normal, where Gaussian noise (χ) has {tail.rho_chi:.2g}"
    if tail.verdict == "irregular":
        return f"No tail law fits (p = {tail.fit:.2g}), so ξ says nothing: batches stand apart, as those with a rare example do; {far}."
    if tail.verdict == "heavy":
        variance = "finite" if high < 0.5 else "perhaps infinite" if low < 0.5 else "infinite"
        return f"Heavy tail: ξ is above 0, so the noise falls off more slowly than exponentially; as a power law it has {variance} variance."
    bound = "a power tail is excluded" if high <= 0 else f"a power tail would have α above {1 / high:.1f}"
    if high >= 0.5:
        bound = f"{n} batches are too few to exclude a power tail, even one of infinite variance"
    if tail.verdict == "outliers":
        return f"Skewed, {'not' if high <= 0 else 'not shown to be'} heavy: {far}; {bound}."
    apart = "which these batches do not tell apart"
    if tail.rho_chi not in tail.rho:
        apart = (
            "so fewer than that"
            if tail.rho.high < tail.rho_chi
            else "so more than that, and no more than a normal's"
        )
    return f"No sign of a heavy tail: {far}, {apart}; {bound}."


def _words(interval: Interval) -> str:
    return f"{interval.estimate:.2f} ({interval.low:.2f} to {interval.high:.2f})".replace("-", "−").replace(
        "inf", "∞"
    )


def _density(ax: Axes, tail: Tail) -> str:
    x = np.linspace(tail.values[0], tail.values[-1], 400)
    ax.hist(tail.values, bins="fd" if len(tail.values) < 5000 else 80, density=True, color="#d9d9d9")
    for name in ("normal", "chi", "lognormal"):
        ax.plot(x, tail.fits[name].pdf(x), color=COLOURS[name], linestyle=DASHES.get(name, "-"))
    ax.set(yticks=[], xlabel=NOISE, ylim=(0, None))
    ax.spines["left"].set_visible(False)
    return "density"


def _ccdf(ax: Axes, tail: Tail) -> str:
    n = len(tail.values)
    share = 1 - np.arange(n) / n
    ax.plot(tail.values, share, ".", color="black", markersize=2, label="batches")
    x = np.geomspace(tail.values[0], tail.values[-1] * 1.15, 400)
    for name in COLOURS:
        ax.plot(
            x,
            tail.ccdf(name, x),
            color=COLOURS[name],
            linestyle=DASHES.get(name, "-"),
            label=NAMES.get(name, name),
            linewidth=0.9,
        )
    ax.set(xscale="log", yscale="log", ylim=(0.4 / n, 1.6), xlabel="x")
    _few_ticks(ax)
    return f"P({NOISE} ≥ x)"


def _quantiles(ax: Axes, tail: Tail) -> str:
    n = len(tail.values)
    at = (np.arange(n) + 0.5) / n
    for name in ("normal", "lognormal", "chi"):
        ax.plot(
            tail.fits[name].ppf(at), tail.values, ".", color=COLOURS[name], markersize=1.8, markeredgewidth=0
        )
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
    ax.axhline(2, color=COLOURS["pareto"], linewidth=0.6, linestyle=":")
    ax.annotate(
        "variance infinite below",
        (1, 2),
        (0, -1.5),
        ("axes fraction", "data"),
        "offset points",
        ha="right",
        va="top",
        fontsize=5,
        color=COLOURS["pareto"],
    )
    ax.axvline(max(5, int(stats.tails.TAIL * len(tail.values))), color=style.GREY, linewidth=0.5)
    ax.set(xscale="log", yscale="log", xlabel="k largest", ylim=(min(1.4, float(low[finite].min())), None))
    _few_ticks(ax)
    return "Hill's α, 95 % band"


def _around(ends: list[float]) -> tuple[float, float]:
    margin = 0.04 * (ends[1] - ends[0])
    return ends[0] - margin, ends[1] + margin


def _few_ticks(ax: Axes) -> None:
    """1, 2, 5 on logarithmic axes that span little, as plain numbers."""
    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        if high < 60 * low:
            ticks = [m * 10.0**e for e in range(-12, 13) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
            ticks = (
                ticks
                if len(ticks) > 1
                else [tick for tick in MaxNLocator(3).tick_values(low, high) if low <= tick <= high]
            )
            axis.set_major_locator(FixedLocator(ticks))
            axis.set_major_formatter(ScalarFormatter())
            axis.set_minor_locator(NullLocator())
