"""A row of the report's table."""

from __future__ import annotations

import math
from html import escape

import numpy as np

from clipbench.analysis.comparison import Arm, Section
from clipbench.analysis.target import reached, target
from clipbench.analysis.verdict import amount, p_value, reference
from clipbench.stats import Comparison, sign_flip_floor

WIDTH, HEIGHT = 96, 16  # of the interval drawn in a cell, pixels


def columns(section: Section) -> dict[str, str]:
    """Heading → what it means."""
    points, unit = (", points", "; a point is 0.01") if section.in_points else ("", "")
    return {
        "method": "with its chosen settings",
        "n": "seeds",
        f"{'test' if section.split == 'test' else 'validation'} {section.group.headline}": "mean over seeds ± 95 % t-interval",
        f"gain over {reference(section)}{points}": f"paired by seed, positive is better; 95 % t-interval{unit}",
        "": "the same, drawn: 0 is the line",
        "p": "paired t-test after Holm's correction",
        "exact p": "sign-flip test, uncorrected; it cannot go below 2/2ⁿ",
        "P(better)": "chance that a run of the method beats a run of none",
        "r": "correlation of the paired seeds",
        **_goal(section),
        "diverged": "runs that diverged",
        "clipped": "share of steps clipped",
        "ms/step": "median over runs, evaluation left out",
    }


def row(section: Section, arm: Arm) -> str:
    comparison = section.comparisons.get(arm.name)
    score = arm.score
    mean = (
        "–"
        if not score.n
        else f"{score.estimate:.3f}"
        if abs(score.estimate) < 10
        else f"{score.estimate:.4g}"
    )
    if math.isfinite(score.half):
        mean += (
            f" <small>± {score.half:.3f}</small>"
            if abs(score.half) < 10
            else f" <small>± {score.half:.4g}</small>"
        )
    partial = f"<small> of {arm.n}</small>" if score.n < arm.n else ""
    cells = [
        (arm.n, str(arm.n)),
        (score.estimate, mean.replace("-", "−") + (f" <small>n={score.n}</small>" if partial else "")),
        *_compared(section, comparison),
        *_reached(section, arm),
        (arm.diverged / arm.n, f"{arm.diverged} of {arm.n}" if arm.diverged else "0"),
        (arm.clipped, "–" if math.isnan(arm.clipped) else f"{100 * arm.clipped:.3g} %"),
        (arm.ms_per_step, "–" if math.isnan(arm.ms_per_step) else milliseconds(arm.ms_per_step)),
    ]
    flags = "".join(
        f' <span class="flag" title="the best may lie beyond what was tried">{escape(_flag(edge))} at edge</span>'
        for edge in arm.edges
    )
    head = f'<th scope="row" class="text">{chip(arm)}<span>{escape(arm.name)}<small>{escape(arm.words)}{flags}</small></span></th>'
    return (
        f"<tr>{head}"
        + "".join(f'<td data-v="{sortable(value)}">{text}</td>' for value, text in cells)
        + "</tr>"
    )


def milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _goal(section: Section) -> dict[str, str]:
    if (value := target(section)) is None:
        return {}
    note = f"median steps until validation {section.group.headline} was at {value:.4g}, none's in tuning; ∞: half of the runs never"
    return {"to target": note}


def _reached(section: Section, arm: Arm) -> list[tuple[float, str]]:
    if (value := target(section)) is None:
        return []
    found = reached(section, arm, value)
    at = found.steps.estimate
    if not math.isfinite(at):
        return [(at, f"∞<small>{found.count} of {arm.n} did</small>")]
    return [(at, f"{at:.4g}<small>{found.seconds.estimate:.3g} s, {found.count} of {arm.n}</small>")]


def _flag(edge: str) -> str:
    return {"clipping_level": "level", "p_autoclip": "p", "beta": "β"}.get(edge, edge)


def sortable(value: float) -> str:
    """A number as JavaScript reads it."""
    return "" if math.isnan(value) else repr(float(value)).replace("inf", "Infinity")


def _compared(section: Section, comparison: Comparison | None) -> list[tuple[float, str]]:
    if comparison is None:
        return [(math.nan, "")] * 6
    found = comparison.difference
    share = comparison.improvement
    correlation = comparison.correlation.estimate
    if not math.isfinite(found.estimate):
        rest = [(math.nan, "diverged"), (math.nan, ""), (math.nan, ""), (math.nan, "")]
    else:
        bounded = math.isfinite(found.low)
        fewer = f", n={found.n}" if found.n < max(arm.n for arm in section.judged) else ""
        ends = (
            f"<small>{amount(section, found.low, found)} to {amount(section, found.high, found)}{fewer}</small>"
            if bounded
            else ""
        )
        floor = sign_flip_floor(found.n)
        exact = f"{p_value(comparison.sign_p)}" + (
            "<small>floor</small>" if comparison.sign_p <= floor * 1.001 else ""
        )
        rest = [
            (found.estimate, amount(section, found.estimate, found, signed=True) + ends),
            (found.estimate, forest(section, comparison)),
            (
                comparison.adjusted,
                f"<b>{p_value(comparison.adjusted)}</b>"
                if comparison.different
                else p_value(comparison.adjusted),
            )
            if bounded
            else (math.nan, "–"),
            (comparison.sign_p, exact),
        ]
    return [
        *rest,
        (share.estimate, f"{share.estimate:.2f}<small>{share.low:.2f} to {share.high:.2f}</small>"),
        (correlation, "–" if math.isnan(correlation) else f"{correlation:.2f}".replace("-", "−")),
    ]


def chip(arm: Arm) -> str:
    """The method's line as the figures draw it."""
    dash = arm.dash
    pattern = (
        ""
        if isinstance(dash, str)
        else f' stroke-dasharray="{" ".join(f"{2 * part:g}" for part in dash[1])}"'
    )
    line = f'<line x1="0" y1="5" x2="22" y2="5" stroke="{arm.colour}" stroke-width="2.5"{pattern}/>'
    return f'<svg class="ink" width="22" height="10" viewBox="0 0 22 10" aria-hidden="true">{line}</svg>'


def forest(section: Section, comparison: Comparison) -> str:
    """The difference and its interval around the line of no difference, on one scale for the section."""
    found = [
        each.difference for each in section.comparisons.values() if math.isfinite(each.difference.estimate)
    ]
    ends = [abs(end) for each in found for end in (each.low, each.high) if math.isfinite(end)]
    widest = max([*ends, *(abs(each.estimate) for each in found)], default=0)
    scale = min(widest, 4 * float(np.median(ends or [widest]))) or 1.0

    def x(value: float) -> float:
        return round(WIDTH / 2 + (WIDTH / 2 - 4) * max(-1.0, min(1.0, value / scale)), 1)

    colour = next(arm.colour for arm in section.arms if section.comparisons.get(arm.name) is comparison)
    difference, middle = comparison.difference, HEIGHT / 2
    bar = f'<line x1="{x(difference.low)}" x2="{x(difference.high)}" y1="{middle}" y2="{middle}" stroke="{colour}" stroke-width="2"/>'
    return (
        f'<svg class="ink" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="interval">'
        f'<line x1="{WIDTH / 2}" x2="{WIDTH / 2}" y1="0" y2="{HEIGHT}" stroke="#999" stroke-width="1"/>'
        f'{bar if math.isfinite(difference.low) else ""}<circle cx="{x(difference.estimate)}" cy="{middle}" r="3.5" fill="{colour}"/></svg>'
    )
