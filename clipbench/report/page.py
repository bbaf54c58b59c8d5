"""One self-contained page: what may be concluded, the numbers behind it, the curves, and where the runs come
from.

The text lies in templates/, where everything that is filled in is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from clipbench.analysis.across import Across, across
from clipbench.analysis.places import GRADIENT, Place
from clipbench.analysis.ranking import Method, Ranking
from clipbench.analysis.verdict import Verdict, judge
from clipbench.plot.looks import Look, in_print, method_looks
from clipbench.plot.style import drawing
from clipbench.record.folder import unfinished_runs
from clipbench.report import across as several
from clipbench.report import cells, data, panels, svg
from clipbench.report.chart import Chart, Rows
from clipbench.report.fill import anchor, fill, night, own, strokes
from clipbench.report.frame import BANDS, RC, Drawing, banded
from clipbench.report.provenance import facts, failures
from clipbench.report.sensitivity import sensitivity

BADGES = {
    "helps": "helps",
    "hurts": "hurts",
    "ahead": "ahead",
    "behind": "behind",
    "mixed": "depends",
    "equivalent": "equivalent",
    "undecided": "undecided",
    "unlearned": "nothing learned",
    "short": "search too small",
    "few": "too few seeds",
    "diverged": "diverged",
}
DESCRIBED = ("helps", "hurts", "ahead", "behind", "mixed", "equivalent")
"""Kinds of verdicts that without equal budgets are descriptive only."""

Draw = Callable[[Ranking], Iterable[Chart | Rows]]
Still = Callable[[Ranking], Iterable[Drawing]]

BLOCKS: dict[str, tuple[Draw, Still, str]] = {
    "Difference": (
        data.difference,
        panels.difference,
        "In the table's order; positive is better.",
    ),
    "Training": (
        data.curves,
        panels.curves,
        "Means; up to seven runs are thin lines, of more the 95 % t-interval of the mean is a band; "
        "seconds are medians, evaluation left out; "
        "✕ ends a run that diverged, no part of these.",
    ),
    "Sensitivity": (
        data.sensitivity,
        sensitivity,
        "Points are runs, lines are means, with 95 % bands where there are more than seven runs; "
        "marks on top say how many of the runs diverged where.",
    ),
    "Budget": (
        data.budget,
        panels.budget,
        "Validation, tuning runs only: the final runs above are others, on other seeds.",
    ),
    "What clipping did": (
        data.clipping,
        panels.clipping,
        "Over all runs. A factor of 1 leaves the gradient alone.",
    ),
}
"""What page.js draws, what stands in for it where there is no JavaScript, and what explains both."""


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
    """A named row of charts under a ranking's table, with the `text` that explains them; `images` are shown
    instead where there is no JavaScript.
    """

    name: str
    text: str
    charts: list[Chart | Rows]
    images: list[Image]


@dataclass(frozen=True)
class Part:
    """A section of the page and the names of the `files` that were drawn beside it."""

    anchor: str
    html: Markup
    files: Sequence[str] = ()


class Page:
    """Rankings are added one at a time, so that a folder's steps need not be in memory together."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.resolve().name
        self.unfinished = len(unfinished_runs(folder))
        self.rankings: list[Ranking] = []
        self.parts: list[Part] = []

    def add(self, ranking: Ranking, part: Markup | None = None, files: Iterable[Path] = ()) -> None:
        """`part`: what `part_of` made of the ranking, in another process; `files`: its figures, in the folder
        that the page will lie in.
        """
        html = part_of(ranking) if part is None else part
        names = [path.name for path in files]
        self.parts.append(Part(f"at-{anchor(ranking.title)}", html, names))
        self.rankings.append(ranking)

    def html(self) -> str:
        """The whole page, its styles, script and images in it."""
        summary = []
        for ranking in self.rankings:
            verdict = judge(ranking)
            summary.append((ranking, verdict, badge(verdict)))
        parts = list(self.parts)
        for found in across(self.rankings):
            place = f"across-{anchor(found.title)}"
            parts.append(Part(place, _part_across(found, place)))
        script = "\n" + own("page.js")
        page = fill(
            "page.html",
            name=self.name,
            unfinished=self.unfinished,
            summary=summary,
            parts_of_page=parts,
            changed=not all(ranking.group.place.trains for ranking in self.rankings),
            style=own("page.css"),
            script=script,
            script_hash=_hash(script),
        )
        return str(page)


def _hash(script: str) -> str:
    """As a page's security policy names the one script that may run."""
    digest = hashlib.sha256(script.encode()).digest()
    return "sha256-" + base64.b64encode(digest).decode()


def part_of(ranking: Ranking) -> Markup:
    """A ranking's part of the page, its figures among it."""
    verdict = judge(ranking)
    looks = method_looks(ranking)
    return fill(
        "ranking.html",
        ranking=ranking,
        verdict=verdict,
        badge=badge(verdict),
        looks=looks,
        methods=_methods(ranking.judged, looks, banded(ranking), ranking.group.place),
        columns=cells.columns(ranking),
        cells=cells.cells,
        flags=cells.flags,
        conditions=cells.conditions(ranking),
        blocks=_blocks(ranking) if ranking.methods else [],
        facts=facts(ranking),
        failures=failures(ranking),
    )


def _part_across(found: Across, place: str) -> Markup:
    """The part on several tasks."""
    with drawing(RC):
        image = _image("performance profile: higher is better", several.profile(found))
    looks = several.looks(found)
    return fill(
        "across.html",
        found=found,
        anchor=place,
        looks=looks,
        methods=_methods(found.methods, looks, _few(found.methods), GRADIENT),
        columns=several.COLUMNS,
        cells=several.cells,
        seeds=several.seeds(found),
        block=Block("Performance profile", "Band: stratified bootstrap.", list(data.profile(found)), [image]),
    )


def _few(methods: list[Method]) -> list[Method]:
    """Those that keep their bands among many: the best and no clipping."""
    if len(methods) <= BANDS:
        return methods
    return [method for method in methods if method is methods[0] or method.is_reference]


def _methods(
    methods: Iterable[Method], looks: Mapping[str, Look], banded: Sequence[Method], place: Place
) -> list[dict[str, Any]]:
    """What page.js knows of each method, in the order of the legend; `banded`: they show their runs or a band
    however many others are on view.
    """
    found = []
    for method in methods:
        look = looks[method.name]
        row = {"name": in_print(method.name, place), "colour": look.colour, "night": night(look.colour)}
        found.append({**row, "dash": strokes(look), "banded": method in banded})
    return found


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
        for name, (draw, still, text) in BLOCKS.items():
            images = [_image(caption, figure) for caption, figure in still(ranking)]
            charts = list(draw(ranking))
            if charts or images:
                blocks.append(Block(name, text, charts, images))
    return blocks


def _image(caption: str, figure: Figure) -> Image:
    what, _, more = caption.partition(": ")
    return Image(what, more, svg.data_uri(figure))
