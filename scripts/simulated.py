"""Whole studies whose truth is known: drawn, tuned, run and judged, many at once.

    draw      tuning of every method in every repetition, and the final values of what it chose
    called    what stats.compare says of these values, for all studies together
    ranking_of  one study as the report sees it

`choose` and `called` say of many studies what analysis.choice.best_first and stats.compare say of each:
`check` compares them, and the verdict's sentence with them. A value's unit is the standard deviation that the
runs of one method have beside what their seed gives to all methods. Greater is better.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from scipy import special
from scipy import stats as distributions

from clipbench import stats
from clipbench.analysis.choice import Candidate, best_first
from clipbench.analysis.group import Configuration, Group
from clipbench.analysis.ranking import Method, Ranking
from clipbench.analysis.settings import RESOLVED
from clipbench.analysis.verdict import judge
from clipbench.stats.paired import ROUNDING
from clipbench.studies.space import points

Rng = np.random.Generator

LEVEL = 0.95
SHARED = 2.0  # standard deviation of what a seed gives to all methods
TEST_NOISE = 0.5  # of the value on test, from its examples
BEST = 0.5  # where the learning rate is best, on its axis from 0 to 1
DRAWS = 256  # different sequences of draws that repetitions take theirs from
TOGETHER = 2**21  # tuning runs in memory at a time


@dataclass(frozen=True)
class Truth:
    """What studies are drawn from. All methods are alike but for what is said of `gain` and `diverging`.

    A tuning run has the value −4·sensitivity·(u − BEST)², u the place of its learning rate, and noise; the
    final run of the one that was chosen likewise, and what its seed gives to all.
    """

    methods: int = 2  # beside none
    trials: int = 8
    tuned_once: bool = False  # one choice runs at all final seeds, as before tuning was repeated
    halving: int = 1  # at a third of the steps the best one in so many goes on
    sensitivity: float = 10.0  # what is lost at either end of the space of learning rates
    tuning_noise: float = 1.0  # standard deviation of a tuning run's own noise
    validation_noise: float = TEST_NOISE
    skewed: str = ""  # whose own noise is lognormal, skewness 3.7: "all", or of final runs, thrice, "methods"
    resolution: float = 0.0  # values are whole multiples of it
    examples: int = 0  # the metric is the share right of so many, if not 0
    rate: float = math.nan  # the share right that is expected at the best learning rate
    states_resolution: bool = True
    diverging: tuple[float, float] = (0.0, 0.0)  # chance of a final run of none, of a method
    why: str = "chance"  # or "seed": runs of a poor seed diverge; "value": those that would have ended worst
    cliff: float = 1.0  # runs with a learning rate beyond it diverge in one case of two
    gain: float = 0.0  # of the first methods, `better` of them, over none
    better: int = 0
    rare: float = 1.0  # the gain comes in so many of the repetitions, and is so much larger
    worth: float = math.nan

    @property
    def unit(self) -> float:
        """A value's unit as a share, where the metric is one: half the deviation that its examples give."""
        if not self.examples:
            return 1.0
        return 0.5 * math.sqrt(self.rate * (1 - self.rate) / self.examples)

    @property
    def step(self) -> float | None:
        """What the metric states as its resolution."""
        if not self.states_resolution:
            return None
        return 1 / self.examples if self.examples else self.resolution

    @property
    def gains(self) -> np.ndarray:
        """The true difference of each method to none. (methods,)"""
        return np.where(np.arange(self.methods) < self.better, self.gain, 0.0)


def draw(truth: Truth, repetitions: int, studies: int, rng: Rng) -> np.ndarray:
    """Final values, NaN where the run diverged; none's come first. (studies, 1 + methods, repetitions)"""
    runs = (1 + truth.methods) * repetitions * truth.trials
    parts = []
    for start in range(0, studies, max(1, TOGETHER // runs)):
        some = min(max(1, TOGETHER // runs), studies - start)
        parts.append(_final(truth, *_choices(truth, repetitions, some, rng), rng))
    return np.concatenate(parts)


def _choices(truth: Truth, repetitions: int, studies: int, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """(what the chosen learning rate loses, whether it lies beyond the cliff), as `draw` has its values."""
    u, values, diverged = tune(truth, 1 if truth.tuned_once else repetitions, studies, rng)
    chosen = choose(values, diverged)
    at = np.take_along_axis(np.broadcast_to(u[:, None], values.shape), chosen[..., None], -1)[..., 0]
    if truth.tuned_once:
        at = np.repeat(at, repetitions, -1)
    return _loss(truth, at), at > truth.cliff


def _loss(truth: Truth, u: np.ndarray) -> np.ndarray:
    return 4 * truth.sensitivity * (u - BEST) ** 2


def tune(truth: Truth, repetitions: int, studies: int, rng: Rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places of the learning rates, which methods share, (studies, repetitions, trials); and validation
    values of their runs and whether these diverged, (studies, 1 + methods, repetitions, trials). NaN is a
    trial that was stopped early.
    """
    u = _sequences(truth.trials)[rng.integers(DRAWS, size=(studies, repetitions))]
    shape = (studies, 1 + truth.methods, repetitions, truth.trials)
    exact = np.broadcast_to(-_loss(truth, u)[:, None], shape)
    noise = _skewed if truth.skewed == "all" else _normal
    # Half of the variance is the seed's, which methods share.
    own = math.sqrt(0.5) * (noise(rng, (shape[0], 1, *shape[2:])) + noise(rng, shape))
    values = _measured(truth, exact + truth.tuning_noise * own, truth.validation_noise, rng)
    diverged = rng.random(shape) < min(truth.diverging)
    if truth.cliff < 1:
        diverged |= (u[:, None] > truth.cliff) & (rng.random(shape) < 0.5)
    if truth.halving > 1:
        early = exact / 3 + 2 * truth.tuning_noise * noise(rng, shape)
        early = np.where(diverged, -math.inf, early)
        kept = math.ceil(truth.trials / truth.halving)
        least = np.sort(early, -1)[..., -kept, None]
        values = np.where(early < least, math.nan, values)
    return u, values, diverged


def choose(values: np.ndarray, diverged: np.ndarray) -> np.ndarray:
    """`best_first` of trials with a run each: those that ended come first, then by value, then in order;
    NaN is last. (…, trials) → (…)
    """
    place = np.where(np.isnan(values), -1e300, values)
    place = np.where(diverged, -math.inf, place)
    return np.argmax(place, -1)


@cache
def _sequences(trials: int) -> np.ndarray:
    """(DRAWS, trials)"""
    return np.array([points(("lr",), trials, seed)["lr"] for seed in range(DRAWS)])


def _normal(rng: Rng, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape)


def _skewed(rng: Rng, shape: tuple[int, ...]) -> np.ndarray:
    """Lognormal with σ = 0.8: skewness 3.7; mean 0, standard deviation 1; the long tail is that of the
    losses.
    """
    variance = (math.exp(0.64) - 1) * math.exp(0.64)
    return (math.exp(0.32) - np.exp(0.8 * rng.standard_normal(shape))) / math.sqrt(variance)


def _final(truth: Truth, loss: np.ndarray, beyond: np.ndarray, rng: Rng) -> np.ndarray:
    studies, _, repetitions = loss.shape
    seed = rng.standard_normal((studies, 1, repetitions))
    own = _skewed(rng, loss.shape) if truth.skewed == "all" else _normal(rng, loss.shape)
    if truth.skewed == "methods":
        own[:, 1:] = 3 * _skewed(rng, own[:, 1:].shape)
    values = -loss + SHARED * seed + own
    gains = np.broadcast_to(truth.gains[:, None], (studies, truth.methods, repetitions)) / truth.rare
    if truth.rare < 1:
        gains = np.where(rng.random(gains.shape) < truth.rare, gains, 0.0)
    values[:, 1:] += gains / truth.unit
    values = _measured(truth, values, TEST_NOISE, rng)
    chances = np.full((1 + truth.methods, 1), truth.diverging[1])
    chances[0] = truth.diverging[0]
    place = rng.standard_normal(loss.shape)
    if truth.why == "seed":
        place = math.sqrt(0.8) * seed + math.sqrt(0.2) * place
    elif truth.why == "value":
        place = own
    diverged = place < special.ndtri(chances)
    diverged |= beyond & (rng.random(loss.shape) < 0.5)
    return np.where(diverged, math.nan, values)


def _measured(truth: Truth, values: np.ndarray, noise: float, rng: Rng) -> np.ndarray:
    """As a metric shows them: on its examples, in steps of its resolution. Noise above that on test is of as
    many times fewer examples.
    """
    if truth.examples:
        examples = round(truth.examples * (TEST_NOISE / noise) ** 2)
        rate = np.clip(truth.rate + truth.unit * values, 0, 1)
        return rng.binomial(examples, rate) / examples
    values = values + noise * rng.standard_normal(values.shape)
    if truth.resolution:
        values = truth.resolution * np.round(values / truth.resolution)
    return values


@dataclass(frozen=True)
class Called:
    """What is sure of each method against none. (studies, methods)

    Of means: `up`, `down`, `equivalent`; of runs that diverge: `fewer`, `more`. `pairs`: both ended.
    """

    up: np.ndarray
    down: np.ndarray
    equivalent: np.ndarray
    fewer: np.ndarray
    more: np.ndarray
    pairs: np.ndarray

    def false(self, truth: Truth) -> np.ndarray:
        """Studies that call anything that is not so. (studies,)

        Of means: a sign where there is no difference or the other one; equivalence of what differs by `worth`
        or more. Of divergence: a side that has not the smaller chance.
        """
        gains = truth.gains
        wrong = (self.up & (gains <= 0)) | (self.down & (gains >= 0))
        wrong |= self.equivalent & (np.abs(gains) >= truth.worth)
        none, method = truth.diverging
        wrong |= self.fewer & (method >= none)
        wrong |= self.more & (method <= none)
        return np.asarray(wrong.any(1))


def called(values: np.ndarray, truth: Truth) -> Called:
    """`stats.compare` of many studies. (studies, 1 + methods, repetitions)"""
    ours, theirs = values[:, 1:], values[:, :1]
    ended = np.isfinite(ours) & np.isfinite(theirs)
    pairs = ended.sum(-1)
    enough = pairs >= stats.FEWEST
    diverged = np.isnan(ours).any(-1) | np.isnan(theirs).any(-1)
    each = (1 - LEVEL) / np.maximum(1, (enough.astype(int) + diverged).sum(1))[:, None]

    step = truth.step
    resolution = _least_gaps(values) if step is None else np.full((len(values), 1), step)
    d = np.where(ended, ours, 0) - np.where(ended, theirs, 0)
    size = np.maximum(np.abs(np.where(ended, ours, 0)).max(-1), np.abs(np.where(ended, theirs, 0)).max(-1))
    d[np.abs(d) <= np.maximum(ROUNDING * size, resolution / 2)[..., None]] = 0
    n = np.maximum(pairs, 2)
    mean = d.sum(-1) / n
    squares = (np.where(ended, d - mean[..., None], 0) ** 2).sum(-1)
    error = np.maximum(np.sqrt(squares / (n - 1)), resolution) / np.sqrt(n)
    half = special.stdtrit(n - 1, 1 - each / 2) * error
    equivalent = enough & (-truth.worth < mean - half) & (mean + half < truth.worth)
    different = enough & ~equivalent & (np.abs(mean) > half)

    table = _fisher(values.shape[-1])
    counts, other = np.isnan(ours).sum(-1), np.isnan(theirs).sum(-1)
    sure = table[counts, other] <= each * (1 + 1e-12)
    return Called(
        different & (mean > 0),
        different & (mean < 0),
        equivalent,
        sure & (counts < other),
        sure & (counts > other),
        pairs,
    )


@cache
def _fisher(n: int) -> np.ndarray:
    """Fisher's exact p for so many diverged of n against so many of n. (n + 1, n + 1)"""
    table = np.ones((n + 1, n + 1))
    for count in range(n + 1):
        for other in range(count):
            p = distributions.fisher_exact([[count, n - count], [other, n - other]]).pvalue
            table[count, other] = table[other, count] = p
    return table


def _least_gaps(values: np.ndarray) -> np.ndarray:
    """stats.paired.least_gap of each study. (studies, 1)"""
    flat = np.sort(values.reshape(len(values), -1))  # NaN last
    gaps = np.diff(flat)
    largest = np.nanmax(np.abs(values), axis=(1, 2), initial=0)[:, None]
    gaps = np.where(gaps > ROUNDING * largest, gaps, math.inf)
    least = gaps.min(1, keepdims=True)
    return np.where(np.isfinite(least), least, 0.0)


def check(values: np.ndarray, truth: Truth, found: Called, studies: int, verdicts: int) -> None:
    """AssertionError where in the first studies `stats.compare`, or the verdict, says other than `found`."""
    for i in range(min(studies, len(values))):
        none, methods = values[i, 0], named(values[i])
        compared = stats.compare(none, methods, LEVEL, truth.step, truth.worth)
        for j, comparison in enumerate(compared.values()):
            expected = _outcome(found, i, j)
            assert comparison.outcome == expected, (truth, i, j, comparison, expected)
            sure = bool(found.fewer[i, j] or found.more[i, j])
            assert comparison.divergence.different == sure, (truth, i, j, comparison)
        if i < verdicts:
            verdict = judge(ranking_of(values[i], truth))
            assert verdict.kind == _kind(values[i], found, i), (truth, i, verdict)


def check_choice(values: np.ndarray, diverged: np.ndarray, studies: int) -> None:
    """AssertionError where in the first studies `best_first` chooses another trial than `choose`."""
    chosen = choose(values, diverged)
    for place in np.ndindex(studies, *chosen.shape[1:]):
        candidates = list(_candidates(values[place], diverged[place]))
        assert best_first(candidates, True)[0].what == chosen[place], (values[place], diverged[place])


def _candidates(values: np.ndarray, diverged: np.ndarray) -> Iterator[Candidate]:
    for trial, (value, is_lost) in enumerate(zip(values, diverged, strict=True)):
        yield Candidate(trial, 1, int(is_lost), math.nan if is_lost else float(value))


def _outcome(found: Called, i: int, j: int) -> str:
    if found.pairs[i, j] < stats.FEWEST:
        return ""
    if found.equivalent[i, j]:
        return stats.EQUIVALENT
    return stats.DIFFERENT if found.up[i, j] or found.down[i, j] else stats.UNDECIDED


def _kind(values: np.ndarray, found: Called, i: int) -> str:
    """The verdict's, from what is sure of each method."""
    if np.isnan(values).all():
        return "diverged"
    better = bool((found.up[i] | found.fewer[i]).any())
    worse = bool((found.down[i] | found.more[i]).any())
    if better or worse:
        return "mixed" if better and worse else "helps" if better else "hurts"
    enough = found.pairs[i] >= stats.FEWEST
    if not enough.any():
        return "few"
    return stats.EQUIVALENT if found.equivalent[i][enough].all() else stats.UNDECIDED


def named(values: np.ndarray) -> dict[str, np.ndarray]:
    """The methods of one study. {name: (repetitions,)}"""
    return {f"method {j}": values[j] for j in range(1, len(values))}


def ranking_of(values: np.ndarray, truth: Truth) -> Ranking:
    """What the report makes of the final runs of one study. (1 + methods, repetitions)"""
    rows, methods = [], []
    for name, scores in {"none": values[0], **named(values)}.items():
        ids = [f"{name}, {repetition}" for repetition in range(len(scores))]
        methods.append(_method(name, scores, ids))
        for repetition, run in enumerate(ids):
            rows.append({"run": run, "method": name, "repetition": repetition})
    step = math.nan if truth.step is None else truth.step
    runs = pd.DataFrame(rows).assign(resolution=step, worth=truth.worth).set_index("run")
    nothing = pd.DataFrame({"method": []})
    group = Group(
        task="made up",
        scale="",
        optimizer="",
        headline="metric",
        configurations=(),
        steps=nothing,
        evals=nothing,
        higher_is_better=True,
        notes=(),
        study="simulated",
        runs=runs,
        tuning=nothing,
        failed=nothing,
        apart=False,
    )
    return Ranking(group, "", tuple(methods), tuple(each.configuration for each in methods), "test")


def _method(name: str, scores: np.ndarray, ids: list[str]) -> Method:
    is_none = name == "none"
    done = [run for run, value in zip(ids, scores, strict=True) if not math.isnan(value)]
    diverged = [run for run in ids if run not in done]
    configuration = Configuration(
        label=name,
        settings={**dict.fromkeys(RESOLVED), "clipping_type": "none" if is_none else "norm", "lr": 0.1},
        done=tuple(done),
        diverged=tuple(diverged),
        finals=scores[~np.isnan(scores)],
        variant=0,
        variants=1,
        name=name,
        role="final",
    )
    return Method(
        configuration=configuration,
        tried=1,
        edges={},
        scores=pd.Series(scores),
        clipped=0.0 if is_none else 0.5,
        without=False,
        ms_per_step=1.0,
        skipped=0,
    )
