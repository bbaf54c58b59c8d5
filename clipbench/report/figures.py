"""One group of runs → the files of its figures, and its part of the page."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from clipbench.analysis.comparison import rankings
from clipbench.analysis.groups import read_group
from clipbench.analysis.ranking import Ranking
from clipbench.errors import Unreadable, UserError
from clipbench.plot import style
from clipbench.plot.comparison import comparison
from clipbench.plot.difference import comparable, difference
from clipbench.plot.distribution import distribution
from clipbench.plot.levels import levels, varied
from clipbench.plot.trajectory import trajectory
from clipbench.report.page import part_of

FIGURES: dict[str, Callable[[Sequence[Ranking], float], Figure]] = {
    "difference": difference,
    "comparison": comparison,
    "levels": levels,
    "norms": distribution,
    "clipping": trajectory,
}

Drawn = tuple[list[Path], list[tuple[Ranking, Markup]]]
"""The files written; each ranking with its part of the page."""


def draw_group(
    results: Path, runs: pd.DataFrame, out: Path, formats: Sequence[str], apart: bool, width: float
) -> Drawn:
    """Write the figures of a group's `runs`; its rankings come back without the steps that they were drawn
    from.
    """
    with _no_collections():
        group = read_group(results, runs, apart)
        bare = replace(group, steps=group.steps[:0], evals=group.evals[:0])
        every = rankings(group)
        found = []
        for ranking in every:
            found.append((replace(ranking, group=bare), part_of(ranking)))
        written = []
        for name in figures_of(every):
            written += write(every, name, out, formats, width)
    return written, found


def figures_of(found: Sequence[Ranking]) -> list[str]:
    """Their names: none of tuning runs alone, no difference without a pair, no levels from one, no curves of
    what has no training of its own.
    """
    if not found[0].group.configurations:
        return []
    names = list(FIGURES) if found[0].group.place.trains else ["difference", "levels"]
    if not comparable(found):
        names.remove("difference")
    if not varied(found):
        names.remove("levels")
    return names


def draw_group_aside(
    results: Path, runs: pd.DataFrame, out: Path, formats: Sequence[str], apart: bool, width: float
) -> tuple[Drawn, list[str]]:
    """`draw_group` in another process: what it would have warned of comes back with the rest."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Unreadable)
        drawn = draw_group(results, runs, out, formats, apart, width)
    messages = []
    for warning in caught:
        if issubclass(warning.category, Unreadable):
            messages.append(str(warning.message))
    return drawn, messages


@contextmanager
def _no_collections() -> Iterator[None]:
    """A figure is so many objects that looking for garbage among them takes a third of the time of drawing
    it: look at the end.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def write(
    found: Sequence[Ranking],
    name: str,
    out: Path,
    formats: Sequence[str] = ("png",),
    width: float = style.WIDTH,
) -> list[Path]:
    """One of FIGURES in each format, as `<task>_<scale>_<optimizer>_<name>.<format>`, `width` inches wide.
    UserError where `out` cannot be written. `found`: the rankings of one group.
    """
    stem = found[0].group.stem
    paths = [out / f"{stem}_{name}.{each}" for each in formats]
    with writing(out), style.drawing():
        figure = FIGURES[name](found, width)
        style.take_literally(figure)
        for path in paths:
            options: dict[str, Any] = {}
            if path.suffix == ".png":
                options["pil_kwargs"] = {"compress_level": 2}  # 6 takes longer than drawing
            figure.savefig(path, **options)
    return paths


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """The folder is there; UserError where it or what is written into it is refused."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"Cannot write to {out}: {reason}. Choose another folder with --out DIR.") from error
