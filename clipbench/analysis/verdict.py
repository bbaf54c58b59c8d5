"""What the numbers of a ranking allow one to say, in words. Nothing is called a difference that its seeds or
repetitions could not show; divergence is told before any mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from clipbench.analysis.amounts import comparison_in_words, difference, listed, p_value, reference_name, worth
from clipbench.analysis.names import is_fitted, metric_name
from clipbench.analysis.notes import divergences, notes_on
from clipbench.analysis.ranking import Ranking
from clipbench.stats import DIFFERENT, EQUIVALENT, FEWEST, UNDECIDED


@dataclass(frozen=True)
class Verdict:
    """`kind`: helps, hurts, mixed, equivalent, undecided, unlearned, short, few, diverged or open; of methods
    set side by side ahead or behind; `notes` limit `sentence`.

    `descriptive`: the methods had no equal chance to be tuned again and again, as they have in a study.
    """

    kind: str
    sentence: str
    notes: tuple[str, ...]
    descriptive: bool


@dataclass
class Found:
    """What is sure, by method: of divergence and of means. Each list has its clearest case first."""

    fewer: list[str] = field(default_factory=list)  # runs that diverge
    more: list[str] = field(default_factory=list)
    up: list[str] = field(default_factory=list)
    down: list[str] = field(default_factory=list)
    equivalent: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)  # differs, but clipped no step
    unlearned: list[str] = field(default_factory=list)  # differs below the baseline

    @property
    def kind(self) -> str:
        """helps, hurts or mixed; "" where nothing is sure."""
        better, worse = self.fewer + self.up, self.more + self.down
        if better and worse:
            return "mixed"
        if better or worse:
            return "helps" if better else "hurts"
        return ""


def judge(ranking: Ranking) -> Verdict:
    """The verdict on a ranking's methods, from their final runs alone."""
    kind, sentence = _impossible(ranking) or _compared(ranking)
    descriptive = not ranking.equal_budget or ranking.tuned_once
    return Verdict(kind, sentence, tuple(notes_on(ranking)), descriptive)


def _impossible(ranking: Ranking) -> tuple[str, str] | None:
    """Kind and sentence where there is nothing to compare; None where there is."""
    judged = ranking.judged
    if not judged:
        start = "No verdict yet: only tuning runs are there."
        return "open", f"{start} The same `clipbench study` resumes with the final ones."
    if all(method.diverged == method.n for method in judged):
        every = "every run" if len(judged) > 1 else "each run"
        return "diverged", f"No verdict: {every} diverged. {_advice(ranking)}"
    if ranking.group.is_recorded:
        why = "They may have begun at other weights and seen other batches."
        return "open", f"No verdict: nothing pairs runs of loops of one's own. {why}"
    if ranking.reference is None:
        return "open", _without_reference(ranking)
    if all(method.untested and method.scores.empty for method in judged):
        name = metric_name(ranking.group.headline)
        return "open", f"No verdict: the runs have no {name} that is a number."
    if not ranking.comparisons:
        place = ranking.group.place
        brief, kind = place.brief, "clipped" if place.trains else "transformed"
        if ranking.unlike:
            names, anew = listed(sorted(ranking.unlike)), "Run them anew into one folder."
            return "open", f"No verdict: {names} ran on other data or another version than {brief}. {anew}"
        alone = f"No {kind} run has a {ranking.unit} in common with {brief}"
        if len(judged) == 1:
            alone = f"There is no {kind} run"
        return "open", f"No verdict: {alone} to compare with {brief}."
    return None


def _without_reference(ranking: Ranking) -> str:
    place = ranking.group.place
    if not place.reference:
        return "No verdict: there is nothing that these methods could be compared with."
    if place.trains:
        missing = f"Add optim.{place.type_key}={place.reference}."
        return f"No verdict: there is no run without clipping to compare with. {missing}"
    return "No verdict: the runs of the models as trained are not in this folder, or have no end yet."


def _advice(ranking: Ranking) -> str:
    if ranking.group.study:
        return "Tune over smaller learning rates: study.space.lr=…"
    return "Lower the learning rate."


def _compared(ranking: Ranking) -> tuple[str, str]:
    """Kind and sentence where at least one method can be compared with none."""
    found = _found(ranking)
    means = _means(ranking, found)
    if ranking.most_pairs < FEWEST:
        means = _too_few(ranking)
    chance = "" if found.fewer or found.more else _chance(ranking)
    sure = _joined(_divergence(ranking, found), means)
    if found.unlearned and not found.kind:
        return "unlearned", _joined(_nothing_learned(ranking), chance, means)
    if _is_too_short(ranking, found):
        why = "No clipping was among the choices, so the search was too small."
        return "short", _joined(chance, f"No verdict on clipping: {sure}", why)
    if ranking.group.apart:
        return _side_by_side(ranking, found, chance, sure)
    if found.kind == "mixed":
        return "mixed", _joined(chance, f"It depends on {ranking.group.place.how}: {sure}")
    if found.kind:
        return found.kind, _joined(chance, f"{_start(ranking)} {found.kind}: {sure}")
    return _unsure_kind(ranking, found), _joined(chance, means)


def _joined(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


def _unsure_kind(ranking: Ranking, found: Found) -> str:
    if ranking.most_pairs < FEWEST:
        return "few"
    only_equivalent = found.equivalent and not found.undecided and not found.idle
    return EQUIVALENT if only_equivalent else UNDECIDED


def _found(ranking: Ranking) -> Found:
    found = Found()
    idle = _idle(ranking)
    names = sorted(ranking.comparisons, key=lambda name: -_size(ranking, name))
    for name in names:
        comparison = ranking.comparisons[name]
        divergence, gain = comparison.divergence, comparison.difference.estimate
        if divergence.different:
            fewer = divergence.count < divergence.reference_count
            (found.fewer if fewer else found.more).append(name)
        if comparison.outcome == EQUIVALENT:
            found.equivalent.append(name)
        elif comparison.outcome == UNDECIDED:
            found.undecided.append(name)
        elif comparison.outcome == DIFFERENT and name in idle:
            found.idle.append(name)
        elif comparison.outcome == DIFFERENT and not _learned(ranking, name):
            found.unlearned.append(name)
        elif comparison.outcome == DIFFERENT:
            (found.up if gain > 0 else found.down).append(name)
    return found


def _size(ranking: Ranking, name: str) -> float:
    gain = abs(ranking.comparisons[name].difference.estimate)
    return -1.0 if math.isnan(gain) else gain


def _idle(ranking: Ranking) -> set[str]:
    """Methods that clipped no step: what they gain or lose is not clipping's."""
    if ranking.group.apart:
        return set()
    return {method.name for method in ranking.judged if method.clipped == 0}


def _learned(ranking: Ranking, name: str) -> bool:
    """Whether the method or none is better than what anyone gets without learning; True where that is not
    known.
    """
    if math.isnan(ranking.baseline) or is_fitted(ranking.baseline_name):
        return True
    arms = [method for method in ranking.judged if method.name == name or method is ranking.reference]
    floor = ranking.sign * ranking.baseline
    return any(ranking.sign * arm.score.estimate > floor for arm in arms)


def _nothing_learned(ranking: Ranking) -> str:
    name = _baseline_name(ranking)
    return f"Nothing was learned: neither {reference_name(ranking)} nor a method beats the baseline ({name})."


def _baseline_name(ranking: Ranking) -> str:
    value = f"{ranking.baseline:.3g}"
    return f"{ranking.baseline_name}, {value}" if ranking.baseline_name else value


def _divergence(ranking: Ranking, found: Found) -> str:
    """Of the methods whose runs surely diverge more or less often than none's."""
    sure = []
    for name in found.fewer + found.more:
        case = ranking.comparisons[name].divergence
        other = f"{reference_name(ranking)} in {case.reference_count} of {case.reference_n}"
        text = f"{name} diverged in {case.count} of {case.n} runs, {other}"
        text += f" (Fisher's exact test, p={p_value(case.adjusted)}"
        if not math.isnan(case.mcnemar):
            text += f"; McNemar's, uncorrected, {p_value(case.mcnemar)}"
        sure.append(text + ")")
    return f"{'; '.join(sure)}." if sure else ""


def _chance(ranking: Ranking) -> str:
    """That runs diverged, where none of it is sure; "" where no run did."""
    every = divergences(ranking)
    if not every:
        return ""
    least = min(comparison.divergence.adjusted for comparison in ranking.comparisons.values())
    return f"Diverged: {', '.join(every)}; that could be chance (p={p_value(least)})."


def _too_few(ranking: Ranking) -> str:
    """What the best method's few pairs show."""
    usable, unit = ranking.usable, ranking.unit
    if not usable:
        both = f"both with and without {ranking.group.place.subject}"
        return f"No {unit} came to an end {both}, so there is no mean to compare."
    best = max(usable, key=lambda name: usable[name].difference.estimate)
    found = usable[best].difference
    seeds = f"One {unit} shows" if found.n == 1 else f"{found.n} {unit}s show"
    shown = f"{seeds} {best} at {difference(ranking, found)} (n={found.n})"
    return f"Too few {unit}s for a verdict on means. {shown}."


def _means(ranking: Ranking, found: Found) -> str:
    """Of the pairs in which both came to an end: what differs, what is equivalent, what is open."""
    parts = []
    if found.up or found.down:
        parts.append(_differences(ranking, found))
    elif found.undecided:
        parts.append(_undecided(ranking, found.undecided))
    elif found.equivalent:
        parts.append(_equivalent(ranking, found.equivalent))
    for name in found.idle:
        gain = comparison_in_words(ranking, name, ranking.comparisons[name])
        parts.append(f"No difference that clipping made: {gain}, without clipping a step.")
    if found.unlearned and found.kind:
        parts.append(f"Behind the baseline, as {ranking.group.place.brief} is: {listed(found.unlearned)}.")
    elif found.unlearned:
        name = found.unlearned[0]
        parts.append(f"Behind it, {comparison_in_words(ranking, name, ranking.comparisons[name])}.")
    if found.equivalent and (found.up or found.down or found.undecided):
        parts.append(f"Equivalent within ±{worth(ranking)}: {listed(found.equivalent)}.")
    if found.undecided and (found.up or found.down):
        parts.append(f"Undecided: {listed(found.undecided)}.")
    return " ".join(parts)


def _differences(ranking: Ranking, found: Found) -> str:
    """The first of each side in full, the others in short."""
    full = []
    for names in (found.up, found.down):
        if names:
            full.append(comparison_in_words(ranking, names[0], ranking.comparisons[names[0]]))
    rest = []
    for name in found.up[1:] + found.down[1:]:
        rest.append(f"{name} {difference(ranking, ranking.comparisons[name].difference, short=True)}")
    also = f" Also: {', '.join(rest)}." if rest else ""
    return f"{'; '.join(full)}.{also}"


def _undecided(ranking: Ranking, names: Sequence[str]) -> str:
    name = names[0]
    comparison = ranking.comparisons[name]
    largest = comparison_in_words(ranking, name, comparison)
    unit = ranking.unit
    subject = ranking.group.place.subject
    text = f"Undecided: {comparison.difference.n} {unit}s cannot tell whether {subject} matters. "
    text += f"The largest difference is {largest}"
    if comparison.needed is None:
        return f"{text}; more than 1000 {unit}s would be needed at this spread."
    needed = f"about {comparison.needed} {unit}s, fixed beforehand, would decide it"
    return f"{text}; at this spread {needed}."


def _equivalent(ranking: Ranking, names: Sequence[str]) -> str:
    largest = comparison_in_words(ranking, names[0], ranking.comparisons[names[0]])
    every = "Each method lies" if len(names) > 1 else f"{names[0]} lies"
    where = f"within ±{worth(ranking)} of {reference_name(ranking)}"
    return f"No difference worth telling. {every} {where}: at most {largest}."


def _is_too_short(ranking: Ranking, found: Found) -> bool:
    """Whether every tuned method that lost to none could have chosen no clipping."""
    lost = found.more + found.down
    free = {method.name for method in ranking.judged if method.without}
    return found.kind == "hurts" and ranking.equal_budget and free.issuperset(lost)


def _start(ranking: Ranking) -> str:
    subject = ranking.group.place.subject
    if not ranking.equal_budget:
        return f"In these runs {subject}"
    return f"At these settings {subject}" if ranking.tuned_once else f"{subject[:1].upper()}{subject[1:]}"


SIDES = {
    "helps": ("ahead", "Ahead of"),
    "hurts": ("behind", "Behind"),
    "mixed": ("mixed", "Ahead of and behind"),
}


def _side_by_side(ranking: Ranking, found: Found, chance: str, sure: str) -> tuple[str, str]:
    """Of methods that stand as they are, those of several optimizers."""
    if found.kind not in SIDES:
        return _unsure_kind(ranking, found), _joined(chance, sure)
    kind, where = SIDES[found.kind]
    return kind, _joined(chance, f"{where} {reference_name(ranking)}: {sure}")
