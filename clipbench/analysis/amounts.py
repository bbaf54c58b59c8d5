"""Differences as text: in points or in the metric's own unit and direction, to as many digits as their
interval allows.
"""

from __future__ import annotations

import math

from clipbench.analysis.names import metric_name
from clipbench.analysis.ranking import Ranking
from clipbench.stats import Comparison, Interval


def comparison_in_words(ranking: Ranking, name: str, comparison: Comparison) -> str:
    """ "auto +3.1 points of MCC against no clipping (95 % interval 1.2 to 5.0, n=5)"."""
    found = comparison.difference
    about = []
    if ranking.sign < 0:
        about.append("lower is better")
    if math.isfinite(found.low):
        about.append(f"95 % interval {interval(ranking, found)}")
    about.append(f"n={found.n}")
    return f"{name} {difference(ranking, found)} ({', '.join(about)})"


def interval(ranking: Ranking, found: Interval) -> str:
    """ "1.2 to 5.0", in the metric's own direction."""
    own = in_own_direction(ranking, found)
    return f"{amount(ranking, own.low, own)} to {amount(ranking, own.high, own)}"


def difference(ranking: Ranking, found: Interval, short: bool = False) -> str:
    """ "+3.1 points of MCC against no clipping", in the metric's own direction; `short`: the number alone."""
    own = in_own_direction(ranking, found)
    size = amount(ranking, own.estimate, own, signed=True)
    if short:
        return size
    name = metric_name(ranking.group.headline)
    unit = f"points of {name}" if ranking.in_points else name
    return f"{size} {unit} against {reference_name(ranking)}"


def in_own_direction(ranking: Ranking, found: Interval) -> Interval:
    """A difference in which positive is better, as one of the metric itself."""
    if ranking.sign > 0:
        return found
    return Interval(-found.estimate, -found.high, -found.low, found.n)


def reference_name(ranking: Ranking) -> str:
    """The name in print of what the methods are compared with."""
    place = ranking.group.place
    return place.in_words(ranking.reference.name) if ranking.reference else place.words


def worth(ranking: Ranking) -> str:
    """The smallest difference worth telling, with its unit: "0.1 points of MCC"."""
    name = metric_name(ranking.group.headline)
    if ranking.in_points:
        return f"{100 * ranking.worth:.2g} points of {name}"
    return f"{ranking.worth:.2g} {name}"


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
