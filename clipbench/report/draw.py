"""Figures and page of a results folder, from its three tables alone. torch is never imported, matplotlib when
something is drawn.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from clipbench.analysis.groups import read_groups
from clipbench.analysis.parts import parts
from clipbench.errors import Unreadable, UserError, nearest
from clipbench.processes import start_context, unblock_ends

if TYPE_CHECKING:
    from clipbench.report.figures import Drawn

FORMATS = ("png", "svg", "pdf")
WORKERS = min(4, os.cpu_count() or 1)
WIDTH = 6.75  # inches: both columns of a paper
UNITS = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4}
NARROWEST, WIDEST = 3.0, 12.0  # inches: what text of six points leaves room for, and a page across
MANY = 200  # a folder of fewer runs is drawn before a second process has started


def draw(
    results: Path, out: Path, formats: Sequence[str] = ("png",), apart: bool = False, width: float = WIDTH
) -> list[Path]:
    """Write `report.html` and, for each group of runs, `<task>_<scale>_<optimizer>_<figure>.<format>` into
    `out`; return all paths.

    `apart`: each configuration stands for itself, those of all optimizers in one figure,
    `<task>_<scale>_<figure>.<format>`. `width`: of the figures, in inches. A study's final runs and defaults
    form a group, `<task>_<scale>_<optimizer>_<study>`; its tuning runs are in the report alone. `levels` is
    left out where no type has two of them, `difference` where nothing can be paired. Files of `results` that
    cannot be read are skipped with a warning (errors.Unreadable). UserError where `results` holds no finished
    run, `out` cannot be written or a format is not one of FORMATS.
    """
    for name in formats:
        if name not in FORMATS:
            known = ", ".join(FORMATS)
            raise UserError(
                f"Unknown format '{name}'.{nearest(name, FORMATS)} Known: {known}; several as png,pdf."
            )
    side, groups = _aside(results), parts(results, apart=apart)
    from clipbench.report.figures import writing
    from clipbench.report.page import Page

    page, written = Page(results), []
    for paths, found in _each(results, groups, out, formats, side, apart, width):
        written += paths
        for ranking, html in found:
            page.add(ranking, html, paths)
    path, text = out / "report.html", page.html()
    with writing(out):
        path.write_text(text, encoding="utf-8")
    return [*written, path]


def in_inches(text: str) -> float:
    """ "3.25in", "8.25cm", "174mm" → inches. UserError for another unit, and for what is too narrow or too
    wide for a page.
    """
    number, unit = text[:-2].strip(), text[-2:]
    try:
        width = float(number) * UNITS[unit]
    except (ValueError, KeyError):
        width = float("nan")
    if not NARROWEST <= width <= WIDEST:
        raise UserError(
            f"--width {text}: a width has a unit and lies between {NARROWEST:g}in and {WIDEST:g}in, as "
            "3.25in (one column of a paper), 6.75in (both), 8.5cm or 174mm."
        )
    return width


def draw_run(results: Path, run: str, out: Path) -> Path | None:
    """Write the comparison figure that `run` stands in, among all runs of its task, scale and optimizer, and
    return its path. Of a model that was changed it is the difference to the model as trained; None without
    one.
    """
    from clipbench.analysis.comparison import rankings
    from clipbench.report.figures import figures_of, write

    group = next(read_groups(results, run))
    found = rankings(group)
    name = "comparison" if group.place.trains else "difference"
    if name not in figures_of(found):
        return None
    (path,) = write(found, name, out)
    return path


def _aside(results: Path) -> Any:
    """What starts other processes, where there are runs enough to be worth it; their imports begin at once,
    beside our reading.
    """
    if WORKERS < 2 or sum(1 for _ in (results / "runs").glob("*.parquet")) < MANY:
        return None
    return start_context(["clipbench.report.figures"])


def _each(
    results: Path,
    groups: Sequence[pd.DataFrame],
    out: Path,
    formats: Sequence[str],
    side: Any,
    apart: bool,
    width: float,
) -> Iterator[Drawn]:
    """What `draw_group` makes of each, one after the other or, with a context that starts processes, side by
    side.
    """
    from clipbench.report.figures import draw_group, draw_group_aside

    if side is None or len(groups) < 2:
        for runs in groups:
            yield draw_group(results, runs, out, formats, apart, width)
        return
    aside = partial(draw_group_aside, results, out=out, formats=formats, apart=apart, width=width)
    with ProcessPoolExecutor(min(len(groups), WORKERS), side, unblock_ends) as pool:
        for drawn, messages in pool.map(aside, groups):
            for message in messages:
                warnings.warn(message, Unreadable, stacklevel=2)
            yield drawn
