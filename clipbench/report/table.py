"""The report's tables for a paper: Markdown, LaTeX (booktabs) or CSV, the last with every digit."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from clipbench.analysis.comparison import Arm, Section, sections
from clipbench.analysis.groups import read_groups
from clipbench.analysis.target import reached, target
from clipbench.analysis.verdict import amount, p_value, reference
from clipbench.errors import UserError, nearest
from clipbench.report.cells import milliseconds

HEADS = (
    "method",
    "settings",
    "n",
    "{split} {headline}",
    "gain over {none}{unit}",
    "p",
    "diverged",
    "clipped",
    "ms/step",
)

CAPTION = r"Mean $\pm$ 95\,\% $t$-interval over the seeds that came to an end; gain paired by seed; $p$ after Holm's correction."


def tables(results: Path, formats: Iterable[str], apart: bool = False) -> dict[str, str]:
    """{format: text} of every section of a results folder, `apart` as in `draw`. UserError: an unknown format, or no finished run."""
    formats = list(formats)
    if unknown := [name for name in formats if name not in FORMATS]:
        raise UserError(
            f"Unknown format '{unknown[0]}'.{nearest(unknown[0], FORMATS)} Known: {', '.join(FORMATS)}; several as md,csv."
        )
    found = [
        section for group in read_groups(results, apart=apart) for section in sections(group) if section.arms
    ]
    return {name: FORMATS[name](found) for name in formats}


def numbers(section: Section, arm: Arm) -> dict[str, Any]:
    """A row with its full precision; None where there is no such number."""
    comparison, settings, score = section.comparisons.get(arm.name), arm.method.settings, arm.score
    row = {
        "task": section.group.task,
        "scale": section.group.scale,
        "optimizer": section.group.optimizer,
        "study": section.group.study,
        "context": section.context,
        "method": arm.name,
        "lr": settings["lr"],
        "clipping_level": settings["clipping_level"],
        "p_autoclip": settings["p_autoclip"],
        "beta": settings["beta"],
        "split": section.split,
        "metric": section.group.headline,
        "n": arm.n,
        "finished": score.n,
        "mean": score.estimate,
        "low": score.low,
        "high": score.high,
        "diverged": arm.diverged / arm.n,
        "clipped": arm.clipped,
        "ms_per_step": arm.ms_per_step,
        "settings_tried": arm.tried,
        "at_edge": " ".join(arm.edges),
    }
    if comparison is not None:
        found = comparison.difference
        row |= {
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
    if (goal := target(section)) is not None:
        found_at = reached(section, arm, goal)
        row |= {"target": goal, "reached": found_at.count}
        row |= {"steps_to_target": found_at.steps.estimate, "seconds_to_target": found_at.seconds.estimate}
    unknown = {key for key, value in row.items() if isinstance(value, float) and not math.isfinite(value)} - {
        "clipping_level"
    }
    return {key: None if key in unknown else value for key, value in row.items()}


def as_csv(found: list[Section]) -> str:
    """One table of all; gains are in the metric's own unit, positive is better."""
    rows = [numbers(section, arm) for section in found for arm in section.arms]
    names = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def as_markdown(found: list[Section]) -> str:
    return "\n".join(_markdown(section) for section in found)


def _markdown(section: Section) -> str:
    escape: Callable[[str], str] = lambda text: re.sub(r"([\\|*_<>`])", r"\\\1", text)  # noqa: E731
    lines = [[escape(cell) for cell in line] for line in _cells(section)]
    rule = ["---", "---", *["---:"] * (len(lines[0]) - 2)]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])
    return f"**{escape(section.title)}**\n\n{rows}\n"


def as_latex(found: list[Section]) -> str:
    """A table for each section; needs the package booktabs."""
    return "\n".join(_latex(section) for section in found)


def _latex(section: Section) -> str:
    lines = [" & ".join(map(_tex, line)) + r" \\" for line in _cells(section)]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_tex(section.title)}. {CAPTION}}}",
            rf"  \begin{{tabular}}{{ll{'r' * (len(HEADS) - 2)}}}",
            r"    \toprule",
            f"    {lines[0]}",
            r"    \midrule",
            *(f"    {line}" for line in lines[1:]),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
TEX |= {
    "±": r"$\pm$",
    "−": "$-$",
    "∞": r"$\infty$",
    "β": r"$\beta$",
    "·": r"$\cdot$",
    "–": "--",
    "<": "$<$",
    ">": "$>$",
}
TEX |= {mark: f"\\{mark}" for mark in "&%$#_{}"}


def _tex(text: str) -> str:
    return "".join(TEX.get(mark, mark) for mark in text)


def _cells(section: Section) -> list[list[str]]:
    names = {"split": "test" if section.split == "test" else "validation", "headline": section.group.headline}
    names["none"] = reference(section)
    unit = " (points)" if section.in_points else ""
    return [
        [head.format(**names, unit=unit) for head in HEADS],
        *(_row(section, arm) for arm in section.arms),
    ]


def _row(section: Section, arm: Arm) -> list[str]:
    comparison, score = section.comparisons.get(arm.name), arm.score
    gain = p = "–"
    if comparison is not None and math.isfinite(comparison.difference.estimate):
        found = comparison.difference
        gain = amount(section, found.estimate, found, signed=True)
        if math.isfinite(found.low):
            gain += f" ({amount(section, found.low, found)} to {amount(section, found.high, found)})"
            p = p_value(comparison.adjusted)
    mean = (
        f"{score.estimate:.3f}" + (f" ± {score.half:.3f}" if math.isfinite(score.half) else "")
        if score.n
        else "–"
    )
    mean += f" (n={score.n})" if 0 < score.n < arm.n else ""
    edges = f" (at the edge: {', '.join(arm.edges).replace('clipping_level', 'level')})" if arm.edges else ""
    return [
        arm.name,
        arm.words.replace("  ", ", ") + edges,
        str(arm.n),
        mean.replace("-", "−"),
        gain,
        p,
        f"{arm.diverged} of {arm.n}" if arm.diverged else "0",
        f"{100 * arm.clipped:.3g} %" if math.isfinite(arm.clipped) else "–",
        milliseconds(arm.ms_per_step) if math.isfinite(arm.ms_per_step) else "–",
    ]


FORMATS: dict[str, Callable[[list[Section]], str]] = {"md": as_markdown, "latex": as_latex, "csv": as_csv}
