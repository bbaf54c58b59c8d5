"""What the numbers of a ranking allow one to say, in words. Nothing is called a difference that its seeds
could not show.
"""

from __future__ import annotations

from dataclasses import dataclass

from clipbench.analysis.amounts import difference, listed, p_value, told
from clipbench.analysis.comparison import Method, Ranking
from clipbench.analysis.notes import FEWEST, divergences, notes_on, runs_diverged
from clipbench.stats import Comparison


@dataclass(frozen=True)
class Verdict:
    """`kind`: helps, hurts, mixed, same, short, few, diverged or open; of methods set side by side ahead or
    behind; `notes` limit `sentence`.

    `descriptive`: the methods had no equal chance to be tuned, as they have in a study.
    """

    kind: str
    sentence: str
    notes: tuple[str, ...]
    descriptive: bool


def judge(ranking: Ranking) -> Verdict:
    """The verdict on a ranking's methods, from their final runs alone."""
    kind, sentence = _impossible(ranking) or _compared(ranking)
    return Verdict(kind, sentence, tuple(notes_on(ranking)), not ranking.equal_budget)


def _impossible(ranking: Ranking) -> tuple[str, str] | None:
    """Kind and sentence where there is nothing to compare; None where there is."""
    none, judged = ranking.none, ranking.judged
    if not judged:
        start = "No verdict yet: only tuning runs are there."
        return "open", f"{start} The same `clipbench study` goes on with the final ones."
    if all(method.diverged == method.n for method in judged):
        every = "every run" if len(judged) > 1 else "each run"
        return "diverged", f"No verdict: {every} diverged. {_advice(ranking)}"
    if none is None:
        start = "No verdict: there is no run without clipping to compare with."
        return "open", f"{start} Add optim.clipping_type=none."
    if none.diverged == none.n:
        return "diverged", _without_reference(none, judged)
    if not ranking.comparisons:
        alone = "No clipped run has a seed in common with none"
        if len(judged) == 1:
            alone = "There is no clipped run"
        return "open", f"No verdict: {alone} to compare with none."
    if not ranking.usable:
        diverged = divergences(ranking)
        if not diverged:
            return "open", f"No verdict: the runs have no {ranking.group.headline} that is a number."
        return (
            "diverged",
            f"No verdict: {listed(diverged)}, so no mean difference exists. {_advice(ranking)}",
        )
    return None


def _advice(ranking: Ranking) -> str:
    if ranking.group.study:
        return "Tune over smaller learning rates: study.space.lr=…"
    return "Lower the learning rate."


def _without_reference(none: Method, judged: tuple[Method, ...]) -> str:
    ended = []
    for method in judged:
        if method is not none:
            ended.append(f"{method.name} finished {method.n - method.diverged} of {method.n}")
    lost = f"Without clipping {runs_diverged(none)} diverged, so there is no mean to compare with"
    return f"{lost}; {listed(ended)}."


def _compared(ranking: Ranking) -> tuple[str, str]:
    """Kind and sentence where at least one method has a mean difference to none."""
    usable = ranking.usable
    n = max(each.difference.n for each in usable.values())
    if n < FEWEST:
        best = max(usable, key=lambda name: usable[name].difference.estimate)
        seeds = "One seed shows" if n == 1 else f"{n} seeds show"
        found = difference(ranking, usable[best].difference)
        return "few", f"Too few seeds for a verdict. {seeds} {best} at {found} (n={n})."
    sure = {}
    for name, each in usable.items():
        if each.different and each.difference.n >= FEWEST:
            sure[name] = each.difference.estimate
    idle = set()  # a method that clipped no step is no help of clipping
    if not ranking.group.apart:
        idle = {method.name for method in ranking.judged if method.clipped == 0}
    up = [name for name, gain in sure.items() if gain > 0 and name not in idle]
    down = [name for name, gain in sure.items() if gain < 0]
    up.sort(key=lambda name: -sure[name])
    down.sort(key=lambda name: sure[name])
    if up or down:
        return _difference(ranking, up, down)
    return "same", _no_difference(ranking, [name for name in sure if name in idle])


def _difference(ranking: Ranking, up: list[str], down: list[str]) -> tuple[str, str]:
    """The first of each side in full, the others in short."""
    usable = ranking.usable
    full = [told(ranking, names[0], usable[names[0]]) for names in (up, down) if names]
    rest = []
    for name in up[1:] + down[1:]:
        rest.append(f"{name} {difference(ranking, usable[name].difference, short=True)}")
    also = f" Also: {', '.join(rest)}." if rest else ""
    if ranking.group.apart:
        return _side_by_side(ranking, up, down, f"{'; '.join(full)}.{also}")
    if up and down:
        return "mixed", f"It depends on how one clips: {'; '.join(full)}.{also}"
    free = {method.name for method in ranking.judged if method.without}
    if down and ranking.equal_budget and set(down) <= free:
        why = "but no clipping was among its choices, so the search was too small."
        return "short", f"No verdict on clipping: {full[0]}, {why}{also}"
    clipping = "Clipping" if ranking.equal_budget else "In these runs clipping"
    kind = "helps" if up else "hurts"
    return kind, f"{clipping} {kind}: {full[0]}.{also}"


def _side_by_side(ranking: Ranking, up: list[str], down: list[str], found: str) -> tuple[str, str]:
    """Of methods that stand as they are, those of several optimizers."""
    assert ranking.none
    kind, where = "mixed", "Ahead of and behind"
    if not down:
        kind, where = "ahead", "Ahead of"
    elif not up:
        kind, where = "behind", "Behind"
    return kind, f"{where} {ranking.none.name}: {found}"


def _no_difference(ranking: Ranking, idle: list[str]) -> str:
    """`idle`: what differs surely, but did not clip."""
    usable: dict[str, Comparison] = ranking.usable
    if idle:
        largest = told(ranking, idle[0], usable[idle[0]])
        return f"No difference that clipping made: {largest}, without clipping a step."
    far = max(usable, key=lambda name: abs(usable[name].difference.estimate))
    found = usable[far].difference
    sentence = f"No difference that {found.n} seeds could show."
    if found.estimate == 0:
        return sentence
    sentence += f" The largest is {told(ranking, far, usable[far])}"
    if 0 not in found:
        sentence += f"; p={p_value(usable[far].adjusted)}"
        count = len(ranking.comparisons) + len(ranking.missing)
        if count > 1:
            sentence += f" after Holm's correction for {count} comparisons"
    return sentence + "."
