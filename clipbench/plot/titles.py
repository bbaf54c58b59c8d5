"""What a figure shows, in words: which data, which optimizer, how many runs."""

from __future__ import annotations

from collections.abc import Sequence

from clipbench.analysis.group import Configuration, Group
from clipbench.analysis.names import metric_name, optimizer_name, task_name, title_of_data
from clipbench.analysis.ranking import Ranking


def title(group: Group) -> str:
    """The data, as the runs recorded them, then optimizer, place and study: "A generated grammar · AdamW"."""
    parts = [_source(group), optimizer_name(group.optimizer), group.place.title]
    if group.study:
        parts.append(f"study {group.study}")
    return " · ".join(filter(None, parts))


def notes(found: Sequence[Ranking], count: int) -> str:
    """Task and scale, sizes of the data, repetitions, and what is left out, as a line of small print.
    `count`: of the configurations that are drawn.
    """
    group = found[0].group
    parts = [" ".join(filter(None, [f"Task {group.task}", f"({group.scale})" if group.scale else ""]))]
    data = _data(group)
    if len(data) == 1:
        parts.append(data[0].partition(", ")[2])
    parts.append(repetitions(found, group.configurations))
    every = len(group.configurations)
    if count < every:
        chosen = sum(len(ranking.methods) for ranking in found)
        references = sum(ranking.reference is not None for ranking in found)
        what = f"no clipping and the best {count - references}" if references else f"the best {count}"
        if count == chosen:
            what = "each method's best"
        parts.append(f"{what} of {every} settings")
    parts += group.notes
    return "; ".join(filter(None, parts))


def order(found: Sequence[Ranking]) -> str:
    """How the methods stand in every figure and table."""
    return f"Methods in order of {headline(found[0].group, found[0].judged_on)}"


def repetitions(found: Sequence[Ranking], configurations: Sequence[Configuration]) -> str:
    """ "5 seeds", "3 to 5 repetitions"."""
    counts = {len(configuration.runs) for configuration in configurations}
    if not counts:
        return ""
    unit = found[0].unit
    first, last = min(counts), max(counts)
    amount = str(last) if first == last else f"{first} to {last}"
    return f"{amount} {unit}" if last == 1 else f"{amount} {unit}s"


def headline(group: Group, split: str = "validation") -> str:
    """ "validation MCC"."""
    return f"{split} {metric_name(group.headline or '')}".rstrip()


def _source(group: Group) -> str:
    sources = dict.fromkeys(map(title_of_data, _data(group)))
    return " and ".join(sources) or " ".join(filter(None, [task_name(group.task), group.scale]))


def _data(group: Group) -> list[str]:
    """What the runs recorded of their data."""
    if "data" not in group.runs:
        return []
    return sorted({text for text in group.runs["data"].dropna() if text})
