"""The report's table as Markdown and as LaTeX (booktabs), rounded for the reader."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from clipbench.analysis.amounts import amount, in_own_direction, interval, minus, p_value, reference_name
from clipbench.analysis.names import metric_name
from clipbench.analysis.ranking import Method, Ranking
from clipbench.escape import on_one_line
from clipbench.report.text import milliseconds, milliseconds_heading

CAPTION = (
    r"Mean $\pm$ 95\,\% $t$-interval over the runs that came to an end; "
    r"paired differences with simultaneous 95\,\% intervals; $p$ times the number of tests (Bonferroni)."
)
MARKS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "∞": r"$\infty$",
    "β": r"$\beta$",
    "·": r"$\cdot$",
    "–": "--",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "[": "{[}",  # at the beginning of a row it would be an argument of \\\\, as would a star
    "*": "{*}",
}
"""As LaTeX writes them."""


def as_markdown(found: list[Ranking]) -> str:
    """A pipe table under its title for each ranking, a blank line between them."""
    return "\n".join(_markdown(ranking) for ranking in found)


def _markdown(ranking: Ranking) -> str:
    head, *rows = _texts(ranking)
    rule = ["---", "---"] + ["---:"] * (len(head) - 2)
    lines = [_line(map(_escaped, head)), _line(rule)]
    for row in rows:
        lines.append(_line(map(_escaped, row)))
    table = "\n".join(lines)
    return f"**{_escaped(ranking.title)}**\n\n{table}\n"


def _line(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _escaped(text: str) -> str:
    return re.sub(r"([\\|*_<>`\[\]~$&])", r"\\\1", on_one_line(text))


def as_latex(found: list[Ranking]) -> str:
    """A table for each ranking; needs the package booktabs."""
    return "\n".join(_latex(ranking) for ranking in found)


def _latex(ranking: Ranking) -> str:
    """One floating table with its caption."""
    texts = _texts(ranking)
    rows = []
    for row in texts:
        cells = " & ".join(map(_tex, row))
        rows.append(rf"    {cells} \\")
    alignment = "ll" + "r" * (len(texts[0]) - 2)
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_tex(ranking.title)}. {CAPTION}}}",
        rf"  \begin{{tabular}}{{{alignment}}}",
        r"    \toprule",
        rows[0],
        r"    \midrule",
        *rows[1:],
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


def _tex(text: str) -> str:
    found = ""
    for mark in on_one_line(text):
        if mark in "&%$#_{}":
            found += f"\\{mark}"
        else:
            found += MARKS.get(mark, mark)
    return found


def _texts(ranking: Ranking) -> list[list[str]]:
    """The heading and a row for each method."""
    unit = " (points)" if ranking.in_points else ""
    direction = " (lower is better)" if ranking.sign < 0 else ""
    head = [
        "method",
        "settings",
        "n",
        f"{ranking.judged_on} {metric_name(ranking.group.headline)}{direction}",
        f"difference to {reference_name(ranking)}{unit}",
        "outcome",
        "p",
        "diverged",
    ]
    if ranking.group.place.trains:
        head += ["clipped", milliseconds_heading(ranking)]
    rows = [_row(ranking, method) for method in ranking.methods]
    return [head, *rows]


def _row(ranking: Ranking, method: Method) -> list[str]:
    settings = method.settings_in_words.replace("  ", ", ")
    if method.edges:
        edges = ", ".join(method.edges).replace("clipping_level", "level")
        settings += f" (at the edge: {edges})"
    row = [
        method.name,
        settings,
        str(method.n),
        minus(_mean(method)),
        *_compared(ranking, method),
        f"{method.diverged} of {method.n}" if method.diverged else "0",
    ]
    if ranking.group.place.trains:
        row.append(f"{100 * method.clipped:.3g} %" if math.isfinite(method.clipped) else "–")
        row.append(milliseconds(method.ms_per_step) if math.isfinite(method.ms_per_step) else "–")
    return row


def _mean(method: Method) -> str:
    score = method.score
    if not score.n:
        return "–"
    text = f"{score.estimate:.3f}"
    if math.isfinite(score.half):
        text += f" ± {score.half:.3f}"
    if score.n < method.n:
        text += f" (n={score.n})"
    return text


def _compared(ranking: Ranking, method: Method) -> tuple[str, str, str]:
    """Difference with its simultaneous interval, outcome, p; no more than the first below three pairs."""
    comparison = ranking.usable.get(method.name)
    if comparison is None:
        return "–", "–", "–"
    own = in_own_direction(ranking, comparison.difference)
    gain = amount(ranking, own.estimate, own, signed=True)
    if not comparison.outcome:
        return gain, "–", "–"
    ends = interval(ranking, comparison.difference)
    return f"{gain} ({ends})", comparison.outcome, p_value(comparison.adjusted)
