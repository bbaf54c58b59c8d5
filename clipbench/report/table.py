"""The report's tables for a paper: Markdown, LaTeX (booktabs) or CSV, the last with every digit. No
matplotlib, no torch.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from clipbench.analysis.amounts import in_own_direction
from clipbench.analysis.comparison import rankings
from clipbench.analysis.groups import read_groups
from clipbench.analysis.ranking import Method, Ranking
from clipbench.analysis.target import reached, target
from clipbench.errors import UserError, nearest
from clipbench.escape import on_one_line
from clipbench.record.rows import CLIP_KEYS
from clipbench.report.markup import as_latex, as_markdown

FORMULA = ("=", "+", "-", "@")


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


def full_row(ranking: Ranking, method: Method) -> dict[str, Any]:
    """A method's row with its full precision; None where there is no such number."""
    group, settings, score = ranking.group, method.configuration.settings, method.score
    row = {
        "task": group.task,
        "scale": group.scale,
        "optimizer": group.optimizer,
        "study": group.study,
        "context": ranking.context,
        "method": method.name,
        "lr": settings["lr"],
        **{key: settings[key] for key in CLIP_KEYS[1:]},
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
        "measured_alone": ranking.measured_alone,
        "settings_tried": method.tried,
        "at_edge": " ".join(method.edges),
        **_gain(ranking, method),
        **_to_target(ranking, method),
    }
    if not group.place.trains:
        row |= {"place": group.place.name, "measured_alone": None}
    for key, value in row.items():
        if key == "clipping_level":  # ∞ is one
            continue
        if isinstance(value, float) and not math.isfinite(value):
            row[key] = None
    return row


def _gain(ranking: Ranking, method: Method) -> dict[str, Any]:
    comparison = ranking.comparisons.get(method.name)
    if comparison is None:
        return {}
    found = in_own_direction(ranking, comparison.difference)
    return {
        "pairs": found.n,
        "difference": found.estimate,
        "difference_low": found.low,
        "difference_high": found.high,
        "outcome": comparison.outcome,
        "p": comparison.adjusted if comparison.outcome else None,
        "tests": comparison.tests,
        "worth_telling": comparison.worth,
        "resolution": comparison.resolution,
        "needed": comparison.needed,
        "p_divergence": comparison.divergence.adjusted,
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
    """One table of all; differences, intervals simultaneous, are in the metric's own unit and direction."""
    rows, names = [], {}
    for ranking in found:
        for method in ranking.methods:
            row = full_row(ranking, method)
            rows.append({name: _csv_cell(value) for name, value in row.items()})
            names.update(row)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _csv_cell(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula begins with an apostrophe, as it is written there."""
    if not isinstance(value, str):
        return value
    text = on_one_line(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text


FORMATS: dict[str, Callable[[list[Ranking]], str]] = {"md": as_markdown, "latex": as_latex, "csv": as_csv}
