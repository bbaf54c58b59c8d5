"""Differences as text: in points or in the metric's own unit, to as many digits as their interval allows."""

from __future__ import annotations

import math

from clipbench.analysis.ranking import Ranking
from clipbench.record.rows import REFERENCE
from clipbench.stats import Comparison, Interval


def comparison_in_words(ranking: Ranking, name: str, comparison: Comparison) -> str:
    """ "auto +3.1 points of mcc over none, 95 % interval 1.2 to 5.0, n=5"."""
    found = comparison.difference
    ends = "without bounds"
    if math.isfinite(found.low):
        ends = interval(ranking, found)
    return f"{name} {difference(ranking, found)}, 95 % interval {ends}, n={found.n}"


def interval(ranking: Ranking, found: Interval) -> str:
    """ "1.2 to 5.0"."""
    low = amount(ranking, found.low, found)
    high = amount(ranking, found.high, found)
    return f"{low} to {high}"


def difference(ranking: Ranking, found: Interval, short: bool = False) -> str:
    """ "+3.1 points of mcc over none", or "0.210 perplexity worse than none" where less is better."""
    headline = ranking.group.headline
    unit = f"points of {headline}" if ranking.in_points else headline
    if ranking.sign < 0:
        size = amount(ranking, abs(found.estimate), found)
        side = "better" if found.estimate >= 0 else "worse"
        return f"{size} {unit} {side} than {reference_name(ranking)}"
    gain = amount(ranking, found.estimate, found, signed=True)
    if short:
        return gain
    return f"{gain} {unit} over {reference_name(ranking)}"


def reference_name(ranking: Ranking) -> str:
    """The name of what the methods are compared with."""
    return ranking.reference.name if ranking.reference else REFERENCE


def amount(ranking: Ranking, value: float, found: Interval, signed: bool = False) -> str:
    """A difference in points or in the metric's own unit, to what its interval allows, with a real minus."""
    if not math.isfinite(value):
        return "−∞" if value < 0 else "∞"
    scale = 100 if ranking.in_points else 1
    digits = _digits(ranking, found, scale)
    text = f"{scale * value:.{digits}f}"
    if float(text) == 0:
        return text.lstrip("-")
    if signed and value > 0:
        text = "+" + text
    return minus(text)


def _digits(ranking: Ranking, found: Interval, scale: int) -> int:
    """Decimals: the first digit of half the interval is shown, and an interval that leaves out 0 does not
    seem to touch it.
    """
    size = found.half if math.isfinite(found.half) else abs(found.estimate)
    first = 0  # the decimal that its first digit stands at
    if size:
        first = -math.floor(math.log10(scale * size))
    digits = max(0, min(first + 1, 8))
    if ranking.in_points:
        digits = max(1, min(first, 4))
    for end in (found.low, found.high):
        if end == 0 or not math.isfinite(end):
            continue
        while digits < 8 and round(scale * end, digits) == 0:
            digits += 1
    return digits


def p_value(p: float) -> str:
    """ "<.001", ".034", ".21"."""
    if p < 0.001:
        return "<.001"
    if p < 0.0995:
        return f"{p:.3f}".removeprefix("0")
    return f"{p:.2f}".removeprefix("0")


def minus(text: str) -> str:
    """With a real minus."""
    return text.replace("-", "−")


def listed(words: list[str]) -> str:
    """ "a, b and c"."""
    if not words:
        return ""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
