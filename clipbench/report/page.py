"""One self-contained page: what may be concluded, the numbers behind it, the curves, and where the runs come
from.

The text lies in templates/, where everything that is filled in is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from clipbench.analysis.across import Across, across
from clipbench.analysis.ranking import Ranking
from clipbench.analysis.verdict import Verdict, judge
from clipbench.plot.looks import Look, method_looks
from clipbench.plot.style import drawing
from clipbench.record.folder import unfinished_runs
from clipbench.report import across as several
from clipbench.report import cells, panels, svg
from clipbench.report.frame import BANDS, RC, Drawing
from clipbench.report.provenance import facts, failures
from clipbench.report.sensitivity import sensitivity

BADGES = {
    "helps": "helps",
    "hurts": "hurts",
    "ahead": "ahead",
    "behind": "behind",
    "mixed": "depends",
    "same": "no difference",
    "short": "search too small",
    "few": "too few seeds",
    "diverged": "diverged",
}
DESCRIBED = ("helps", "hurts", "ahead", "behind", "mixed", "same")
"""Kinds of verdicts that without equal budgets are descriptive only."""

BLOCKS: dict[str, tuple[Callable[[Ranking], Iterable[Drawing]], str]] = {
    "Difference": (
        panels.difference,
        "In the table's order; dots from the top by number, positive is better.",
    ),
    "Training": (
        panels.curves,
        "Means; up to seven runs are thin lines, of more the 95 % t-interval of the mean is a band; "
        "seconds are medians, evaluation left out; "
        "✕ ends a run that diverged, no part of these.",
    ),
    "Sensitivity": (
        sensitivity,
        "Points are runs, lines are means, with 95 % bands where there are more than seven runs; "
        "rows on top say how many of the runs diverged where.",
    ),
    "Budget": (
        panels.budget,
        "Validation, tuning runs only: the final runs above are others, on other seeds.",
    ),
    "What clipping did": (panels.clipping, "Over all seeds. A factor of 1 leaves the gradient alone."),
}


@dataclass(frozen=True)
class Badge:
    """A verdict in a word or two. `kind` is its class in page.css; dashed where it is `descriptive` only."""

    kind: str
    text: str
    descriptive: bool


@dataclass(frozen=True)
class Image:
    """`what` it shows, in bold, and `more`; `data`: for a `src`."""

    what: str
    more: str
    data: str

    @property
    def caption(self) -> str:
        return f"{self.what}: {self.more}" if self.more else self.what


@dataclass(frozen=True)
class Block:
    """A named row of images under a ranking's table, with the `text` that explains them."""

    name: str
    text: str
    images: list[Image]


class Page:
    """Rankings are added one at a time, so that a folder's steps need not be in memory together."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.resolve().name
        self.unfinished = len(unfinished_runs(folder))
        self.rankings: list[Ranking] = []
        self.parts: list[str] = []

    def add(self, ranking: Ranking, part: str | None = None) -> None:
        """`part`: what `part_of` made of the ranking, in another process."""
        self.parts.append(part_of(ranking) if part is None else part)
        self.rankings.append(ranking)

    def html(self) -> str:
        """The whole page, its styles, script and images in it."""
        source = files("clipbench.report")
        summary = []
        for ranking in self.rankings:
            verdict = judge(ranking)
            summary.append((ranking, verdict, badge(verdict)))
        parts_across = map(_part_across, across(self.rankings))
        return _fill(
            "page.html",
            name=self.name,
            unfinished=self.unfinished,
            summary=summary,
            parts_of_page=[*self.parts, *parts_across],
            style=source.joinpath("page.css").read_text(encoding="utf-8"),
            script=source.joinpath("page.js").read_text(encoding="utf-8"),
        )


def part_of(ranking: Ranking) -> str:
    """A ranking's part of the page, its figures among it."""
    verdict = judge(ranking)
    return _fill(
        "ranking.html",
        ranking=ranking,
        verdict=verdict,
        badge=badge(verdict),
        looks=method_looks(ranking),
        columns=cells.columns(ranking),
        cells=cells.cells,
        flags=cells.flags,
        blocks=_blocks(ranking) if ranking.methods else [],
        facts=facts(ranking),
        failures=failures(ranking),
    )


def _part_across(found: Across) -> str:
    """The part on several tasks."""
    with drawing(RC):
        image = _image("performance profile: higher is better", several.profile(found))
    return _fill(
        "across.html",
        found=found,
        looks=several.looks(found),
        columns=several.COLUMNS,
        cells=several.cells,
        seeds=several.seeds(found),
        block=Block("Performance profile", "Band: stratified bootstrap.", [image]),
    )


def badge(verdict: Verdict) -> Badge:
    """What stands in a frame before the sentence."""
    descriptive = verdict.descriptive and verdict.kind in DESCRIBED
    text = BADGES.get(verdict.kind, "no verdict")
    if descriptive:
        text = f"descriptive: {text}"
    return Badge(verdict.kind, text, descriptive)


def _blocks(ranking: Ranking) -> list[Block]:
    """The figures under their headings; a heading without figures is left out."""
    blocks = []
    with drawing(RC):
        for name, (draw, text) in BLOCKS.items():
            images = [_image(caption, figure) for caption, figure in draw(ranking)]
            if name == "Training" and len(ranking.judged) > BANDS:
                best = ranking.judged[0].name
                text += f" Of more than {BANDS} methods only no clipping and {best} show their runs."
            if images:
                blocks.append(Block(name, text, images))
    return blocks


def _image(caption: str, figure: Figure) -> Image:
    what, _, more = caption.partition(": ")
    return Image(what, more, svg.data_uri(figure))


def _anchor(text: str) -> str:
    return re.sub(r"\W+", "-", text)


def _anchor_across(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower())


def _strokes(look: Look) -> str:
    """A dash as SVG has it, at twice the width; "" for a solid line."""
    if isinstance(look.dash, str):
        return ""
    return " ".join(f"{2 * part:g}" for part in look.dash[1])


def _fill(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    """Templates by name; what is filled in is escaped, and what a template asks for must be given."""
    environment = Environment(
        loader=PackageLoader("clipbench.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"anchor": _anchor, "anchor_across": _anchor_across, "strokes": _strokes}
    environment.globals |= {"WIDTH": cells.WIDTH, "HEIGHT": cells.HEIGHT}
    return environment
