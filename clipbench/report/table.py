"""The report's tables for a paper: Markdown, LaTeX (booktabs) or CSV, the last with every digit. No
matplotlib, no torch.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from clipbench.analysis.amounts import amount, interval, minus, p_value, reference
from clipbench.analysis.comparison import Method, Ranking, rankings
from clipbench.analysis.groups import read_groups
from clipbench.analysis.target import reached, target
from clipbench.errors import UserError, nearest
from clipbench.report.text import milliseconds, split

CAPTION = (
    r"Mean $\pm$ 95\,\% $t$-interval over the seeds that came to an end; "
    "gain paired by seed; $p$ after Holm's correction."
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
}
"""As LaTeX writes them."""


def tables(results: Path, formats: Iterable[str], apart: bool = False) -> dict[str, str]:
    """{format: text} of every ranking of a results folder, `apart` as in `draw`. UserError: an unknown
    format, or no finished run.
    """
    formats = list(formats)
    for name in formats:
        if name not in FORMATS:
            known = ", ".join(FORMATS)
            raise UserError(
                f"Unknown format '{name}'.{nearest(name, FORMATS)} Known: {known}; several as md,csv."
            )
    found = []
    for group in read_groups(results, apart=apart):
        found += [ranking for ranking in rankings(group) if ranking.methods]
    return {name: FORMATS[name](found) for name in formats}


def numbers(ranking: Ranking, method: Method) -> dict[str, Any]:
    """A row with its full precision; None where there is no such number."""
    group, settings, score = ranking.group, method.configuration.settings, method.score
    row = {
        "task": group.task,
        "scale": group.scale,
        "optimizer": group.optimizer,
        "study": group.study,
        "context": ranking.context,
        "method": method.name,
        "lr": settings["lr"],
        "clipping_level": settings["clipping_level"],
        "p_autoclip": settings["p_autoclip"],
        "beta": settings["beta"],
        "split": ranking.split,
        "metric": group.headline,
        "n": method.n,
        "finished": score.n,
        "mean": score.estimate,
        "low": score.low,
        "high": score.high,
        "diverged": method.diverged / method.n,
        "clipped": method.clipped,
        "ms_per_step": method.ms_per_step,
        "settings_tried": method.tried,
        "at_edge": " ".join(method.edges),
        **_gain(ranking, method),
        **_to_target(ranking, method),
    }
    for key, value in row.items():
        if key != "clipping_level" and isinstance(value, float) and not math.isfinite(value):
            row[key] = None
    return row


def _gain(ranking: Ranking, method: Method) -> dict[str, Any]:
    comparison = ranking.comparisons.get(method.name)
    if comparison is None:
        return {}
    found = comparison.difference
    return {
        "pairs": found.n,
        "gain": found.estimate,
        "gain_low": found.low,
        "gain_high": found.high,
        "p": comparison.p,
        "p_holm": comparison.adjusted,
        "p_sign_flip": comparison.sign_p,
        "p_better": comparison.improvement.estimate,
        "correlation": comparison.correlation.estimate,
    }


def _to_target(ranking: Ranking, method: Method) -> dict[str, Any]:
    goal = target(ranking)
    if goal is None:
        return {}
    found = reached(ranking, method, goal)
    return {
        "target": goal,
        "reached": found.count,
        "steps_to_target": found.steps.estimate,
        "seconds_to_target": found.seconds.estimate,
    }


def as_csv(found: list[Ranking]) -> str:
    """One table of all; gains are in the metric's own unit, positive is better."""
    rows, names = [], {}
    for ranking in found:
        for method in ranking.methods:
            row = numbers(ranking, method)
            rows.append(row)
            names.update(row)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def as_markdown(found: list[Ranking]) -> str:
    return "\n".join(_markdown(ranking) for ranking in found)


def _markdown(ranking: Ranking) -> str:
    head, *rows = _texts(ranking)
    rule = ["---", "---", *["---:"] * (len(head) - 2)]
    lines = [_line([_escaped(text) for text in head]), _line(rule)]
    for row in rows:
        lines.append(_line([_escaped(text) for text in row]))
    table = "\n".join(lines)
    return f"**{_escaped(ranking.title)}**\n\n{table}\n"


def _line(texts: list[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _escaped(text: str) -> str:
    return re.sub(r"([\\|*_<>`])", r"\\\1", text)


def as_latex(found: list[Ranking]) -> str:
    """A table for each ranking; needs the package booktabs."""
    return "\n".join(_latex(ranking) for ranking in found)


def _latex(ranking: Ranking) -> str:
    """One floating table with its caption."""
    texts = _texts(ranking)
    head, *rows = [f"    {' & '.join(map(_tex, row))} \\\\" for row in texts]
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_tex(ranking.title)}. {CAPTION}}}",
        rf"  \begin{{tabular}}{{ll{'r' * (len(texts[0]) - 2)}}}",
        r"    \toprule",
        head,
        r"    \midrule",
        *rows,
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


def _tex(text: str) -> str:
    found = ""
    for mark in text:
        found += f"\\{mark}" if mark in "&%$#_{}" else MARKS.get(mark, mark)
    return found


def _texts(ranking: Ranking) -> list[list[str]]:
    """The heading and a row for each method."""
    unit = " (points)" if ranking.in_points else ""
    head = [
        "method",
        "settings",
        "n",
        f"{split(ranking)} {ranking.group.headline}",
        f"gain over {reference(ranking)}{unit}",
        "p",
        "diverged",
        "clipped",
        "ms/step",
    ]
    return [head, *(_row(ranking, method) for method in ranking.methods)]


def _row(ranking: Ranking, method: Method) -> list[str]:
    settings = method.settings_in_words.replace("  ", ", ")
    if method.edges:
        edges = ", ".join(method.edges).replace("clipping_level", "level")
        settings += f" (at the edge: {edges})"
    gain, p = _gain_and_p(ranking, method)
    return [
        method.name,
        settings,
        str(method.n),
        minus(_mean(method)),
        gain,
        p,
        f"{method.diverged} of {method.n}" if method.diverged else "0",
        f"{100 * method.clipped:.3g} %" if math.isfinite(method.clipped) else "–",
        milliseconds(method.ms_per_step) if math.isfinite(method.ms_per_step) else "–",
    ]


def _mean(method: Method) -> str:
    score = method.score
    if not score.n:
        return "–"
    text = f"{score.estimate:.3f}"
    if math.isfinite(score.half):
        text += f" ± {score.half:.3f}"
    return f"{text} (n={score.n})" if score.n < method.n else text


def _gain_and_p(ranking: Ranking, method: Method) -> tuple[str, str]:
    comparison = ranking.usable.get(method.name)
    if comparison is None:
        return "–", "–"
    found = comparison.difference
    gain = amount(ranking, found.estimate, found, signed=True)
    if not math.isfinite(found.low):
        return gain, "–"
    return f"{gain} ({interval(ranking, found)})", p_value(comparison.adjusted)


FORMATS: dict[str, Callable[[list[Ranking]], str]] = {"md": as_markdown, "latex": as_latex, "csv": as_csv}
