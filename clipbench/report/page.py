"""One self-contained page: what may be concluded, the numbers behind it, the curves, and where the runs come
from.

The text lies in templates/, where everything that is filled in is escaped.
"""

from __future__ import annotations

import base64
import colorsys
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.colors import to_hex, to_rgb
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
    html: str
    files: Sequence[str] = ()


class Page:
    """Rankings are added one at a time, so that a folder's steps need not be in memory together."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.resolve().name
        self.unfinished = len(unfinished_runs(folder))
        self.rankings: list[Ranking] = []
        self.parts: list[Part] = []

    def add(self, ranking: Ranking, part: str | None = None, files: Iterable[Path] = ()) -> None:
        """`part`: what `part_of` made of the ranking, in another process; `files`: its figures, in the folder
        that the page will lie in.
        """
        html = part_of(ranking) if part is None else part
        names = [path.name for path in files]
        self.parts.append(Part(f"at-{_anchor(ranking.title)}", html, names))
        self.rankings.append(ranking)

    def html(self) -> str:
        """The whole page, its styles, script and images in it."""
        source = files("clipbench.report")
        summary = []
        for ranking in self.rankings:
            verdict = judge(ranking)
            summary.append((ranking, verdict, badge(verdict)))
        parts = list(self.parts)
        for found in across(self.rankings):
            anchor = f"across-{_anchor_across(found.title)}"
            parts.append(Part(anchor, _part_across(found, anchor)))
        script = "\n" + source.joinpath("page.js").read_text(encoding="utf-8")
        return _fill(
            "page.html",
            name=self.name,
            unfinished=self.unfinished,
            summary=summary,
            parts_of_page=parts,
            changed=not all(ranking.group.place.trains for ranking in self.rankings),
            style=source.joinpath("page.css").read_text(encoding="utf-8"),
            script=script,
            script_hash=_hash(script),
        )


def _hash(script: str) -> str:
    """As a page's security policy names the one script that may run."""
    digest = hashlib.sha256(script.encode()).digest()
    return "sha256-" + base64.b64encode(digest).decode()


def part_of(ranking: Ranking) -> str:
    """A ranking's part of the page, its figures among it."""
    verdict = judge(ranking)
    looks = method_looks(ranking)
    return _fill(
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


def _part_across(found: Across, anchor: str) -> str:
    """The part on several tasks."""
    with drawing(RC):
        image = _image("performance profile: higher is better", several.profile(found))
    looks = several.looks(found)
    return _fill(
        "across.html",
        found=found,
        anchor=anchor,
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
        row = {"name": in_print(method.name, place), "colour": look.colour, "night": _night(look.colour)}
        found.append({**row, "dash": _strokes(look), "banded": method in banded})
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


def _anchor(text: str) -> str:
    return re.sub(r"\W+", "-", text)


def _anchor_across(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower())


def _night(colour: str) -> str:
    """The same hue on a dark ground: as light as it was dark, but never dimmer than text may be."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(colour))
    return str(to_hex(colorsys.hls_to_rgb(hue, max(0.62, 1 - lightness), saturation)))


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
    environment.filters |= {"anchor": _anchor, "strokes": _strokes, "night": _night, "method": in_print}
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.globals |= {"WIDTH": cells.WIDTH, "HEIGHT": cells.HEIGHT}
    return environment
