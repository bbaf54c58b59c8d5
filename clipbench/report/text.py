"""Numbers and names as the report's tables print them."""

from __future__ import annotations

from clipbench.analysis.ranking import Ranking


def milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def milliseconds_heading(ranking: Ranking) -> str:
    """What was measured beside other runs does not tell how fast a method is, and says so."""
    return "ms/step" if ranking.measured_alone else "ms/step, beside other runs"


def short(value: float) -> str:
    """Three decimals, or four digits of what is 10 or more."""
    if abs(value) < 10:
        return f"{value:.3f}"
    return f"{value:.4g}"
