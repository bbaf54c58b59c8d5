"""Is the gradient's noise heavy-tailed? What `clipbench tails` measured, in words, from one run's rows of the
table `tails`.
"""

from __future__ import annotations

import math

import pandas as pd

from clipbench import stats
from clipbench.analysis.names import optimizer_name, task_name, title_of_data
from clipbench.errors import UserError
from clipbench.stats import Heaviness, Interval, Tail, errors
from clipbench.stats.heaviness import FITS

ROUNDING = 1e-5  # of a gradient in float32


def samples(rows: pd.DataFrame) -> dict[int, Tail]:
    """{step: the analysis of ‖∇f_B − ∇f‖}. UserError where the batches do not differ."""
    found = {}
    for _, part in rows.groupby("step"):
        step = int(part["step"].iloc[0])
        if part["noise_norm"].max() <= ROUNDING * part["grad_norm"].max():
            raise UserError(
                f"Step {step}: the batches have the same gradient, so there is no noise. "
                "Take a smaller batch_size."
            )
        try:
            found[step] = stats.tail(part["noise_norm"])
        except ValueError as error:
            raise UserError(f"Step {step}: the batches' gradients give nothing to draw. {error}") from error
    return found


def amount(rows: pd.DataFrame) -> str:
    """ "300 batches, 2 passes": of each step."""
    batches = len(rows) // rows["step"].nunique()
    passes = float(rows["passes"].iloc[0])
    return f"{batches} batches, {_passes(passes)}"


def _passes(passes: float) -> str:
    if math.isnan(passes):
        return "of data without end"
    if passes < 1:
        return f"{100 * passes:.0f} % of a pass"
    return "1 pass" if passes == 1 else f"{passes:g} passes"


def data_seen(rows: pd.DataFrame) -> str:
    """ "Task imagenet (full), 10 classes, 4320/540/540 images. ", or "" where no data were recorded."""
    data = _data(rows)
    if not data:
        return ""
    task = rows["label"].iloc[0].partition(" · ")[0]
    return f"Task {', '.join(filter(None, [task, data.partition(', ')[2]]))}. "


def _data(rows: pd.DataFrame) -> str:
    if "data" not in rows or pd.isna(rows["data"].iloc[0]):
        return ""
    return str(rows["data"].iloc[0])


def provenance(rows: pd.DataFrame) -> str:
    """What ∇f is the mean of, and what besides the choice of examples is in the noise."""
    first = rows.iloc[0]
    mean = "the mean of these batches only"
    if first["full_passes"] >= 1:
        mean = f"the mean of all training data, {_passes(first['full_passes'])}"
    drawn = "no augmentation or sampling"
    if first["drawn"]:
        drawn = f"{first['drawn']} is part of the noise"
    return f"∇f: {mean}. Dropout off; {drawn}."


def title(rows: pd.DataFrame) -> str:
    """ "CIFAR-10 · AdamW · norm clipping_level=1 · seed 0 · 240 batches, 1 pass": the data, or the task where
    none were recorded.
    """
    task, *rest = rows["label"].iloc[0].split(" · ")
    name, *scale = task.split(" ")
    shown = title_of_data(_data(rows)) or " ".join([task_name(name), *scale])
    return " · ".join([shown, *map(optimizer_name, rest), amount(rows)])


def statistics_in_words(tail: Tail) -> str:
    """ "skewness 1.18 (0.9 to 1.5); ρ_mR 4.1 (2.2 to 7); ξ 0.02 (−0.15 to 0.3)": 95 % intervals."""
    found = tail.heaviness
    parts = [
        f"skewness {_text(tail.skewness)}",
        f"ρ_mR {_text(tail.rho)}, of χ {tail.rho_chi:.2g}",
        f"ξ {_text(found.index)}, without the largest {found.without} {_text(found.kept)}",
    ]
    return "; ".join(parts)


def conclusion(tail: Tail) -> str:
    """What these batches allow to be said, and no more; and how often that is wrong."""
    found, n = tail.heaviness, len(tail.values)
    rates = errors(n)
    far = (
        f"far values are {tail.rho.estimate:.2g} times as frequent as under a normal, "
        f"where Gaussian noise (χ) has {tail.rho_chi:.2g}"
    )
    if found.outcome == "heavy":
        return (
            "Heavy tail: the largest quarter of the batches falls off more slowly than exponentially, with "
            f"and without the largest {found.without}. {_power(found)} Of lighter noise this is said in at "
            f"most {_share(rates.wrong)}, with outliers {_share(rates.wrong_outliers)}."
        )
    if found.outcome == "not heavy":
        return f"Not heavy: the largest quarter of the batches falls off faster than exponentially; {far}."
    easiest, hardest = min(rates.missed.values()), max(rates.missed.values())
    missed = (
        f"With {rates.n} batches a heavy tail is missed in {easiest:.0f} to {_share(hardest)} of samples."
    )
    start = f"Cannot tell from {n} batches whether the tail is heavy"
    return f"{start}: {_why(found)}; {far}. {missed}"


def error_rates(n: int) -> str:
    """How often the rule is wrong at n batches, or at the largest number below that was measured."""
    rates = errors(n)
    missed = "; ".join(f"{name}: {_share(share)}" for name, share in rates.missed.items())
    return (
        f'Error rates of "heavy", simulated with {rates.n} batches. Wrong: at most {_share(rates.wrong)} '
        f"(Gaussian, χ, exponential), {_share(rates.wrong_outliers)} with outliers. Missed: {missed}."
    )


def _share(per_cent: float) -> str:
    return f"{per_cent:.2g} %" if per_cent < 10 else f"{per_cent:.0f} %"


def _power(found: Heaviness) -> str:
    """What the index means if the tail is a power law, P(‖noise‖ > x) ~ x^−α with α = 1/ξ."""
    ends = _alphas(found.index), _alphas(found.kept)
    index = f"Read as a power law, its α is {ends[0]}, without these {ends[1]}"
    if max(found.index.high, found.kept.high) < 0.5:
        return f"{index}: a finite variance. A lognormal, which is no power law, can look the same."
    if min(found.index.low, found.kept.low) >= 0.5:
        return f"{index}: an infinite variance."
    return (
        f"{index}: whether the variance is finite (α > 2) is open, and a lognormal, whose variance is, can "
        "look the same."
    )


def _alphas(index: Interval) -> str:
    """1/ξ with its ends, of an interval above 0."""
    return f"{1 / index.estimate:.1f} ({1 / index.high:.1f} to {1 / index.low:.1f})"


def _why(found: Heaviness) -> str:
    """Why it cannot be told."""
    if found.tied:
        return "most of the larger values are equal"
    if found.fit <= FITS:
        apart = "batches stand apart, as those with a rare example do"
        return f"no tail law fits (p = {found.fit:.2g}), {apart}"
    if found.slow:
        largest = f"the largest {found.without}"
        return f"it looks so, but not without {largest}, which outliers alone would do; {_bound(found.index)}"
    return f"its index ξ may lie on either side of 0; {_bound(found.index)}"


def _bound(index: Interval) -> str:
    """What is said against a power tail, by an interval whose upper end is above 0."""
    if index.high >= 0.5:
        return "even a power tail of infinite variance is not excluded"
    return f"a power tail would have α above {1 / index.high:.2g}, a finite variance"


def _text(interval: Interval) -> str:
    ends = f"{interval.low:.2f} to {interval.high:.2f}"
    text = f"{interval.estimate:.2f} ({ends})"
    return text.replace("-", "−").replace("inf", "∞")
