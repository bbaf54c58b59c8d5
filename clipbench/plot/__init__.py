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

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib

from clipbench.errors import UserError, nearest
from clipbench.plot import style
from clipbench.plot.arms import sections
from clipbench.plot.comparison import comparison
from clipbench.plot.distribution import distribution
from clipbench.plot.groups import Group, Method, read_groups
from clipbench.plot.levels import levels
from clipbench.plot.report import Page
from clipbench.plot.trajectory import trajectory

__all__ = ["Group", "Method", "comparison", "distribution", "draw", "draw_run", "levels", "read_groups", "trajectory"]

FIGURES = {"comparison": comparison, "levels": levels, "norms": distribution, "clipping": trajectory}

FORMATS = ("png", "svg", "pdf")


def draw(results: Path, out: Path, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Write `report.html` and, for each group of runs, `<task>_<scale>_<optimizer>_<figure>.<format>` into `out`; return all paths.

    A study's final runs and defaults form a group, `<task>_<scale>_<optimizer>_<study>`; its tuning runs are in the report alone.
    `levels` is left out where no run clips. Files of `results` that cannot be read are skipped with a warning (results.Unreadable).
    UserError where `results` holds no finished run, `out` cannot be written or a format is not one of FORMATS.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise UserError(f"Unknown format '{unknown[0]}'.{nearest(unknown[0], FORMATS)} Known: {', '.join(FORMATS)}; several as png,pdf.")
    written = []
    page = Page(results)
    for group in read_groups(results):
        for section in sections(group):
            page.add(section)
        for name, figure in FIGURES.items():
            if not group.methods or (figure is levels and all(method.type == "none" for method in group.methods)):
                continue
            written += _write(group, name, out, formats)
    return [*written, _page(page, out)]


def draw_run(results: Path, run: str, out: Path) -> Path:
    """Write the comparison figure that `run` stands in, among all runs of its task, scale and optimizer, and return its path."""
    return next(path for group in read_groups(results, run) for path in _write(group, "comparison", out))


def _write(group: Group, name: str, out: Path, formats: Sequence[str] = ("png",)) -> list[Path]:
    paths = [out / f"{group.stem}_{name}.{each}" for each in formats]
    with _writing(out), matplotlib.rc_context(style.RC):
        figure = FIGURES[name](group)
        for path in paths:
            figure.savefig(path)
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
        raise UserError(f"Cannot write to {out}: {error.strerror or error}. Choose another folder with --out DIR.") from error
