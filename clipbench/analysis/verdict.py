"""What the numbers of a ranking allow one to say, in words. Nothing is called a difference that its seeds
could not show.
"""

from __future__ import annotations

from dataclasses import dataclass

from clipbench.analysis.amounts import comparison_in_words, difference, listed, p_value
from clipbench.analysis.notes import FEWEST, divergences, notes_on, runs_diverged
from clipbench.analysis.ranking import Method, Ranking
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
    notes = tuple(notes_on(ranking))
    return Verdict(kind, sentence, notes, descriptive=not ranking.equal_budget)


def _impossible(ranking: Ranking) -> tuple[str, str] | None:
    """Kind and sentence where there is nothing to compare; None where there is."""
    reference, judged = ranking.reference, ranking.judged
    if not judged:
        start = "No verdict yet: only tuning runs are there."
        return "open", f"{start} The same `clipbench study` resumes with the final ones."
    if all(method.diverged == method.n for method in judged):
        every = "every run" if len(judged) > 1 else "each run"
        return "diverged", f"No verdict: {every} diverged. {_advice(ranking)}"
    if reference is None:
        start = "No verdict: there is no run without clipping to compare with."
        return "open", f"{start} Add optim.clipping_type=none."
    if reference.diverged == reference.n:
        return "diverged", _without_reference(reference, judged)
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


def _without_reference(reference: Method, judged: tuple[Method, ...]) -> str:
    ended = []
    for method in judged:
        if method is not reference:
            ended.append(f"{method.name} finished {method.n - method.diverged} of {method.n}")
    lost = f"Without clipping {runs_diverged(reference)} diverged, so there is no mean to compare with"
    return f"{lost}; {listed(ended)}."


def _compared(ranking: Ranking) -> tuple[str, str]:
    """Kind and sentence where at least one method has a mean difference to none."""
    n = ranking.most_pairs
    if n < FEWEST:
        return "few", _too_few(ranking, n)
    sure = {}
    for name, comparison in ranking.usable.items():
        gain = comparison.difference
        if comparison.different and gain.n >= FEWEST:
            sure[name] = gain.estimate
    idle = _idle(ranking)
    up, down = [], []
    for name in sorted(sure, key=lambda name: -abs(sure[name])):
        if sure[name] < 0:
            down.append(name)
        elif sure[name] > 0 and name not in idle:
            up.append(name)
    if up or down:
        return _difference(ranking, up, down)
    without_a_step = [name for name in sure if name in idle]
    return "same", _no_difference(ranking, without_a_step)


def _too_few(ranking: Ranking, n: int) -> str:
    """What the best method's few seeds show."""
    usable = ranking.usable
    best = max(usable, key=lambda name: usable[name].difference.estimate)
    found = difference(ranking, usable[best].difference)
    seeds = "One seed shows" if n == 1 else f"{n} seeds show"
    return f"Too few seeds for a verdict. {seeds} {best} at {found} (n={n})."


def _idle(ranking: Ranking) -> set[str]:
    """Methods that clipped no step: what they gain is no help of clipping."""
    if ranking.group.apart:
        return set()
    return {method.name for method in ranking.judged if method.clipped == 0}


def _difference(ranking: Ranking, up: list[str], down: list[str]) -> tuple[str, str]:
    """The first of each side in full, the others in short."""
    usable = ranking.usable
    full = []
    for names in (up, down):
        if names:
            full.append(comparison_in_words(ranking, names[0], usable[names[0]]))
    rest = []
    for name in up[1:] + down[1:]:
        found = difference(ranking, usable[name].difference, short=True)
        rest.append(f"{name} {found}")
    also = f" Also: {', '.join(rest)}." if rest else ""
    every = f"{'; '.join(full)}.{also}"
    if ranking.group.apart:
        return _side_by_side(ranking, up, down, every)
    if up and down:
        return "mixed", f"It depends on how one clips: {every}"
    free = {method.name for method in ranking.judged if method.without}
    if down and ranking.equal_budget and free.issuperset(down):
        why = "but no clipping was among its choices, so the search was too small."
        return "short", f"No verdict on clipping: {full[0]}, {why}{also}"
    clipping = "Clipping" if ranking.equal_budget else "In these runs clipping"
    kind = "helps" if up else "hurts"
    return kind, f"{clipping} {kind}: {every}"


def _side_by_side(ranking: Ranking, up: list[str], down: list[str], found: str) -> tuple[str, str]:
    """Of methods that stand as they are, those of several optimizers."""
    assert ranking.reference
    kind, where = "mixed", "Ahead of and behind"
    if not down:
        kind, where = "ahead", "Ahead of"
    elif not up:
        kind, where = "behind", "Behind"
    return kind, f"{where} {ranking.reference.name}: {found}"


def _no_difference(ranking: Ranking, idle: list[str]) -> str:
    """`idle`: what differs surely, but did not clip."""
    usable: dict[str, Comparison] = ranking.usable
    if idle:
        gain = comparison_in_words(ranking, idle[0], usable[idle[0]])
        return f"No difference that clipping made: {gain}, without clipping a step."
    name = max(usable, key=lambda name: abs(usable[name].difference.estimate))
    largest, found = usable[name], usable[name].difference
    sentence = f"No difference that {found.n} seeds could show."
    if found.estimate == 0:
        return sentence
    sentence += f" The largest is {comparison_in_words(ranking, name, largest)}"
    if 0 not in found:
        sentence += f"; p={p_value(largest.adjusted)}"
        count = len(ranking.comparisons) + len(ranking.missing)
        if count > 1:
            sentence += f" after Holm's correction for {count} comparisons"
    return sentence + "."
