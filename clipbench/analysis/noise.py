"""Is the gradient's noise heavy-tailed? What `clipbench tails` measured, in words, from one run's rows of the
table `tails`.
"""

from __future__ import annotations

import math

import pandas as pd

from clipbench import stats
from clipbench.errors import UserError
from clipbench.stats import Interval, Tail

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


def statistics_in_words(step: int, tail: Tail) -> str:
    """ "step 0   skewness 1.18 (0.9 to 1.5)   ρ_mR 4.1 (2.2 to 7)   ξ 0.02 (−0.15 to 0.3)": 95 %
    intervals.
    """
    parts = [
        f"step {step}",
        f"skewness {_text(tail.skewness)}",
        f"ρ_mR {_text(tail.rho)}, of χ {tail.rho_chi:.2g}",
        f"ξ {_text(tail.index)}",
    ]
    return "   ".join(parts)


def conclusion(tail: Tail) -> str:
    """What these batches allow to be said, and no more."""
    far = (
        f"far values {tail.rho.estimate:.2g} times as frequent as under a normal, "
        f"where Gaussian noise (χ) has {tail.rho_chi:.2g}"
    )
    if tail.verdict == "irregular":
        start = f"No tail law fits (p = {tail.fit:.2g}), so ξ says nothing"
        return f"{start}: batches stand apart, as those with a rare example do; {far}."
    if tail.verdict == "heavy":
        start = "Heavy tail: ξ is above 0, so the noise falls off more slowly than exponentially"
        return f"{start}; as a power law it has {_variance(tail.index)} variance."
    bound = _bound(tail)
    if tail.verdict == "outliers":
        shown = "not" if tail.index.high <= 0 else "not shown to be"
        return f"Skewed, {shown} heavy: {far}; {bound}."
    return f"No sign of a heavy tail: {far}, {_apart(tail)}; {bound}."


def _variance(index: Interval) -> str:
    """Of a power law with an index in this interval: it is finite below ½."""
    if index.high < 0.5:
        return "finite"
    return "perhaps infinite" if index.low < 0.5 else "infinite"


def _bound(tail: Tail) -> str:
    """What is said against a power tail."""
    high = tail.index.high
    if high >= 0.5:
        return (
            f"{len(tail.values)} batches are too few to exclude a power tail, even one of infinite variance"
        )
    if high <= 0:
        return "a power tail is excluded"
    return f"a power tail would have α above {1 / high:.1f}"


def _apart(tail: Tail) -> str:
    """How far values stand to those of Gaussian noise."""
    if tail.rho_chi in tail.rho:
        return "which these batches do not tell apart"
    if tail.rho.high < tail.rho_chi:
        return "so fewer than that"
    return "so more than that, and no more than a normal's"


def _text(interval: Interval) -> str:
    ends = f"{interval.low:.2f} to {interval.high:.2f}"
    text = f"{interval.estimate:.2f} ({ends})"
    return text.replace("-", "−").replace("inf", "∞")
