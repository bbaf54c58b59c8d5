"""Figures and report from the three tables alone. torch is never imported.

groups.py        tables → what one set of figures shows: methods, best first, with a colour each
style.py         palette, fonts, axes: what all figures share
comparison.py    a  loss, training and validation metric against step
levels.py        b  final metric against clipping level
distribution.py  c  gradient norms: histogram, density, tail, share of steps clipped
trajectory.py    d  gradient norm before and after clipping over time

arms.py          groups → methods at their chosen settings, compared with none
verdict.py       what may be said, in words
report.py        the page; its small figures: panels.py, sensitivity.py; several tasks: across.py
table.py         the same for a paper
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

from clipbench.analysis.comparison import Section, sections
from clipbench.analysis.groups import Group, Method, parts, read_group, read_groups
from clipbench.errors import Unreadable, UserError, nearest
from clipbench.interrupt import starter
from clipbench.plot import style
from clipbench.plot.comparison import comparison
from clipbench.plot.distribution import distribution
from clipbench.plot.levels import levels
from clipbench.plot.trajectory import trajectory
from clipbench.report.page import Page, part_of

__all__ = [
    "Group",
    "Method",
    "comparison",
    "distribution",
    "draw",
    "draw_run",
    "levels",
    "read_groups",
    "trajectory",
]

FIGURES = {"comparison": comparison, "levels": levels, "norms": distribution, "clipping": trajectory}

FORMATS = ("png", "svg", "pdf")
WORKERS = min(4, os.cpu_count() or 1)
MANY = 200  # a folder of fewer runs is drawn before a second process has started


def draw(results: Path, out: Path, formats: Sequence[str] = ("png",), apart: bool = False) -> list[Path]:
    """Write `report.html` and, for each group of runs, `<task>_<scale>_<optimizer>_<figure>.<format>` into `out`; return all paths.

    `apart`: each setting stands for itself, those of all optimizers in one figure, `<task>_<scale>_<figure>.<format>`.
    A study's final runs and defaults form a group, `<task>_<scale>_<optimizer>_<study>`; its tuning runs are in the report alone.
    `levels` is left out where no run clips. Files of `results` that cannot be read are skipped with a warning (results.Unreadable).
    UserError where `results` holds no finished run, `out` cannot be written or a format is not one of FORMATS.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise UserError(
            f"Unknown format '{unknown[0]}'.{nearest(unknown[0], FORMATS)} Known: {', '.join(FORMATS)}; several as png,pdf."
        )
    page, written, side = Page(results), [], _aside(results)
    for paths, found in _each(results, parts(results, apart=apart), out, formats, side, apart):
        written += paths
        for section, html in found:
            page.add(section, html)
    return [*written, _page(page, out)]


Drawn = tuple[list[Path], list[tuple[Section, str]]]


def _aside(results: Path) -> Any:
    """What starts other processes, where there are runs enough to be worth it; their imports begin at once, beside our reading."""
    if WORKERS < 2 or sum(1 for _ in (results / "runs").glob("*.parquet")) < MANY:
        return None
    return starter(["clipbench.report.draw"])


def _each(
    results: Path, groups: Sequence[pd.DataFrame], out: Path, formats: Sequence[str], side: Any, apart: bool
) -> Iterator[Drawn]:
    """What `_draw_group` makes of each, one after the other or, with a context that starts processes, side by side."""
    if side is None or len(groups) < 2:
        yield from (_draw_group(results, runs, out, formats, apart) for runs in groups)
        return
    with ProcessPoolExecutor(min(len(groups), WORKERS), side) as pool:
        for drawn, messages in pool.map(
            partial(_draw_aside, results, out=out, formats=formats, apart=apart), groups
        ):
            for message in messages:
                warnings.warn(message, Unreadable, stacklevel=2)
            yield drawn


def _draw_aside(
    results: Path, runs: pd.DataFrame, out: Path, formats: Sequence[str], apart: bool
) -> tuple[Drawn, list[str]]:
    """In another process: what it would have warned of comes back with the rest."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Unreadable)
        drawn = _draw_group(results, runs, out, formats, apart)
    return drawn, [str(each.message) for each in caught if issubclass(each.category, Unreadable)]


def _draw_group(results: Path, runs: pd.DataFrame, out: Path, formats: Sequence[str], apart: bool) -> Drawn:
    """Its figures, and its sections of the page, which come without the steps that they were drawn from."""
    with _no_collections():
        group = read_group(results, runs, apart)
        drawn = [(section, part_of(section)) for section in sections(group)]
        bare = replace(group, steps=group.steps[:0], evals=group.evals[:0])
        written = []
        for name, figure in FIGURES.items():
            if group.methods and not (
                figure is levels and all(method.type == "none" for method in group.methods)
            ):
                written += _write(group, name, out, formats)
    return written, [(replace(section, group=bare), html) for section, html in drawn]


@contextmanager
def _no_collections() -> Iterator[None]:
    """A figure is so many objects that looking for garbage among them takes a third of the time of drawing it: look at the end."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def draw_run(results: Path, run: str, out: Path) -> Path:
    """Write the comparison figure that `run` stands in, among all runs of its task, scale and optimizer, and return its path."""
    return next(path for group in read_groups(results, run) for path in _write(group, "comparison", out))


def _write(group: Group, name: str, out: Path, formats: Sequence[str] = ("png",)) -> list[Path]:
    paths = [out / f"{group.stem}_{name}.{each}" for each in formats]
    with _writing(out), matplotlib.rc_context(style.RC):
        figure = FIGURES[name](group)
        for path in paths:
            options: dict[str, Any] = (
                {"pil_kwargs": {"compress_level": 2}} if path.suffix == ".png" else {}
            )  # 6 takes longer than drawing
            figure.savefig(path, **options)
    return paths


def _page(page: Page, out: Path) -> Path:
    path = out / "report.html"
    text = page.html()
    with _writing(out):
        path.write_text(text, encoding="utf-8")
    return path


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"Cannot write to {out}: {error.strerror or error}. Choose another folder with --out DIR."
        ) from error
