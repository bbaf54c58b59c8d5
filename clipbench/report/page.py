"""One self-contained page: what may be concluded, the numbers behind it, the curves, and how it was made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

import matplotlib
import numpy as np

from clipbench.analysis.comparison import Arm, Section
from clipbench.analysis.verdict import Verdict, judge
from clipbench.record.folder import unfinished_runs
from clipbench.report import panels, svg
from clipbench.report.across import Across, across, profile
from clipbench.report.cells import chip, columns, row, sortable
from clipbench.report.panels import Drawing
from clipbench.report.provenance import facts
from clipbench.report.sensitivity import sensitivity

BADGES = {"helps": "helps", "hurts": "hurts", "ahead": "ahead", "behind": "behind", "mixed": "depends"}
BADGES |= {
    "same": "no difference",
    "short": "search too small",
    "few": "too few seeds",
    "diverged": "diverged",
}
BLOCKS: dict[str, tuple[Callable[[Section], Iterable[Drawing]], str]] = {
    "Training": (
        panels.curves,
        "Mean over seeds with its 95 % t-interval; seconds are medians, evaluation left out; ✕ ends a run that diverged, no part of these.",
    ),
    "Sensitivity": (
        sensitivity,
        "Points are runs, lines are means with 95 % bands; rows on top say how many of the runs diverged where.",
    ),
    "Budget": (
        panels.budget,
        "Validation, tuning runs only: the final runs above are others, on other seeds.",
    ),
    "What clipping did": (panels.clipping, "Over all seeds. A factor of 1 leaves the gradient alone."),
}
READING = (
    "Each method is compared with none at none's own best learning rate, seed by seed: at one seed both start from the same weights and "
    "see the same batches. Intervals are 95 % t-intervals, p is of the paired t-test after Holm's correction over the section's methods, "
    "r the correlation of the paired seeds. P(better) is the chance that a run of the method beats a run of none, divergence being worse "
    "than any value. A verdict is given from three paired seeds on, and where the corrected p is at most .05."
)
SCALED = (
    "Scores of each task are scaled so that the mean of none is 0 and the best run seen is 1; intervals are 95 %, of a bootstrap over "
    "seeds within tasks, a method's paired with those of none. A run that diverged counts as −∞. With so few tasks a ranking is a "
    "description, not a law."
)


class Page:
    """Sections are added one at a time, so that a folder's steps need not be in memory together."""

    def __init__(self, folder: Path) -> None:
        self.name, self.begun = folder.resolve().name, len(unfinished_runs(folder))
        self.sections: list[Section] = []
        self.parts: list[str] = []

    def add(self, section: Section, part: str | None = None) -> None:
        """`part`: what `part_of` made of the section, in another process."""
        self.parts.append(part_of(section) if part is None else part)
        self.sections.append(section)

    def html(self) -> str:
        title = f"clipbench · {self.name}"
        source = files("clipbench.report")
        style, script = (
            source.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
        )
        left = f"Runs begun, but not ended: {self.begun}. They have no part in this page; clipbench status names them."
        unfinished = f'<p class="how">{left}</p>' if self.begun else ""
        several = "".join(_across(found) for found in across(self.sections))
        return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<header><p class="mark">clipbench</p><h1>{escape(self.name)}</h1>{unfinished}{self._summary()}</header>
<main>
{"".join(self.parts)}{several}<section class="reading"><h2>How to read this</h2><p>{escape(READING)}</p></section>
</main>
<dialog><figure><img alt=""><figcaption></figcaption></figure></dialog>
<script>
{script}</script>
</body>
</html>
"""

    def _summary(self) -> str:
        lines = [
            f'<li>{_badge(verdict)}<p><a href="#{_anchor(section)}">{escape(section.title)}</a> {escape(verdict.sentence)}</p></li>'
            for section, verdict in ((section, judge(section)) for section in self.sections)
        ]
        return f'<ul class="summary">{"".join(lines)}</ul>' if len(lines) > 1 else ""


def _badge(verdict: Verdict) -> str:
    picture = verdict.picture and verdict.kind in ("helps", "hurts", "ahead", "behind", "mixed", "same")
    words = "picture: " * picture + BADGES.get(verdict.kind, "no verdict")
    return f'<span class="badge {verdict.kind}{" picture" * picture}">{words}</span>'


def _anchor(section: Section) -> str:
    return "at-" + re.sub(r"\W+", "-", section.title)


def part_of(section: Section) -> str:
    """A section's part of the page, its figures among it."""
    verdict = judge(section)
    notes = "".join(f"<li>{escape(note)}</li>" for note in verdict.notes)
    with matplotlib.rc_context(panels.RC):
        cut = len(section.judged) > panels.BANDS
        bands = (
            f" Of more than {panels.BANDS} methods only none and {section.judged[0].name} keep their bands."
            if cut
            else ""
        )
        blocks = (
            [
                _block(name, list(make(section)), words + bands * (name == "Training"))
                for name, (make, words) in BLOCKS.items()
            ]
            if section.arms
            else []
        )
    return f"""<section id="{_anchor(section)}">
<h2>{escape(section.title)}</h2>
<p class="verdict">{_badge(verdict)} {escape(verdict.sentence)}</p>
<ul class="notes">{notes}</ul>
{_table(section) if section.arms else ""}
{_legend(section.judged)}
{"".join(blocks)}
{_made(section)}
</section>
"""


def _table(section: Section) -> str:
    heads = "".join(
        f'<th scope="col"{" class=text" * (not i)}><button title="{escape(note)}">{escape(name)}</button></th>'
        for i, (name, note) in enumerate(columns(section).items())
    )
    rows = "".join(row(section, arm) for arm in section.arms)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _legend(arms: Sequence[Arm]) -> str:
    return (
        '<p class="legend">' + "".join(f"<span>{chip(arm)}{escape(arm.name)}</span>" for arm in arms) + "</p>"
        if arms
        else ""
    )


def _block(name: str, drawings: list[Drawing], words: str) -> str:
    if not drawings:
        return ""
    figures = "".join(_figure(caption, figure) for caption, figure in drawings)
    return f'<div class="block"><h3>{escape(name)}</h3><p class="how">{escape(words)}</p><div class="panels">{figures}</div></div>'


def _figure(caption: str, figure: matplotlib.figure.Figure) -> str:
    what, _, more = caption.partition(": ")
    told = f"<b>{escape(what)}</b>" + (f" {escape(more)}" if more else "")
    button = f'<button class="enlarge"><img alt="{escape(caption)}" src="{svg.data_uri(figure)}"></button>'
    return f"<figure>{button}<figcaption>{told}</figcaption></figure>"


def _made(section: Section) -> str:
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts(section).items())
    failed = "".join(
        f"<li><code>{escape(str(run))}</code> {escape(((error or '').strip().splitlines() or ['no reason recorded'])[-1])}</li>"
        for run, error in section.group.failed["error"].items()
    )
    failures = f"<dt>failed</dt><dd><ul>{failed}</ul></dd>" if failed else ""
    return f"<details><summary>How it was made</summary><dl>{rows}{failures}</dl></details>"


def _across(found: Across) -> str:
    rows = "".join(
        f'<tr><th scope="row" class="text">{chip(each.arm)}{escape(each.arm.name)}</th>'
        + "".join(_interval(part) for part in (each.mean, each.median, each.gap))
        + f'<td data-v="{each.rank}">{each.rank:.1f}</td><td data-v="{each.wins}">{each.wins} of {len(found.tasks)}</td></tr>'
        for each in found.rows
    )
    names = ("method", "interquartile mean", "median", "optimality gap", "mean rank", "best on")
    heads = "".join(
        f'<th scope="col"{" class=text" * (not i)}><button>{name}</button></th>'
        for i, name in enumerate(names)
    )
    with matplotlib.rc_context(panels.RC):
        picture = _block(
            "Performance profile",
            [("performance profile: higher is better", profile(found))],
            "Band: stratified bootstrap.",
        )
    counts = sorted({len(values) for scores in found.scores.values() for values in scores.values()})
    seeds = f"n={counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "") + " seeds a task"
    left = f" Left out: {escape('; '.join(found.left_out))}." if found.left_out else ""
    return f"""<section id="across-{re.sub(r"[^a-z0-9]+", "-", found.title.lower())}">
<h2>Across {len(found.tasks)} tasks · {escape(found.title)}</h2>
<p class="how">{", ".join(found.tasks)}; {seeds}. {SCALED}{left}</p>
<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>
{_legend([each.arm for each in found.rows])}{picture}
</section>
"""


def _interval(found) -> str:  # type: ignore[no-untyped-def]
    def number(value: float) -> str:
        text = f"{value:.2f}"
        return (text.lstrip("-") if float(text) == 0 else text).replace("-", "−").replace("inf", "∞")

    ends = (
        f" <small>{number(found.low)} to {number(found.high)}</small>"
        if np.isfinite([found.low, found.high]).any()
        else ""
    )
    return f'<td data-v="{sortable(found.estimate)}">{number(found.estimate)}{ends}</td>'
