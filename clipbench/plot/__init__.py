"""Figures from the three tables alone. torch is never imported.

groups.py        tables → what one set of figures shows: methods, best first, with a colour each
style.py         palette, fonts, axes: what all figures share
comparison.py    a  loss, training and validation metric against step
levels.py        b  final metric against clipping level
distribution.py  c  gradient norms: histogram, density, tail, share of steps clipped
trajectory.py    d  gradient norm before and after clipping over time
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

from clipbench.errors import UserError
from clipbench.plot import style
from clipbench.plot.comparison import comparison
from clipbench.plot.distribution import distribution
from clipbench.plot.groups import Group, Method, read_groups
from clipbench.plot.levels import levels
from clipbench.plot.trajectory import trajectory

__all__ = ["Group", "Method", "comparison", "distribution", "draw", "draw_run", "levels", "read_groups", "trajectory"]

FIGURES = {"comparison": comparison, "levels": levels, "norms": distribution, "clipping": trajectory}


def draw(results: Path, out: Path) -> list[Path]:
    """Write `<task>_<scale>_<optimizer>_<figure>.png` into `out`, four for each such group of runs, and return their paths.

    A study's final runs and defaults form a group, `<task>_<scale>_<optimizer>_<study>`; its tuning runs are not drawn.

    `levels` is left out where no run clips. Files of `results` that cannot be read are skipped with a warning (results.Unreadable).
    UserError where `results` holds no finished run or `out` cannot be written.
    """
    written = []
    for group in read_groups(results):
        for name, figure in FIGURES.items():
            if figure is levels and all(method.type == "none" for method in group.methods):
                continue
            written.append(_write(group, name, out))
    return written


def draw_run(results: Path, run: str, out: Path) -> Path:
    """Write the comparison figure that `run` stands in, among all runs of its task, scale and optimizer, and return its path."""
    return next(
        _write(group, "comparison", out)
        for group in read_groups(results, tuning=True)
        if any(run in method.runs for method in group.methods)
    )


def _write(group: Group, name: str, out: Path) -> Path:
    path = out / f"{group.stem}_{name}.png"
    try:
        out.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(style.RC):
            FIGURES[name](group).savefig(path)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror or error}. Choose another folder with --out DIR.") from error
    return path
