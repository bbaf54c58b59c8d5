"""A generated language whose likelihood is known: `task=lm scale=mini`.

Words of a class are drawn by Zipf's law. Which classes may come depends on a state, and the state on the
words so far: the topic that the document's heading named, the gender of the subject that its verb will agree
with, that of the noun at hand, and whether somebody is quoted. A word and the state tell the next state, and
every word ends with a blank or a new line and holds no other: so a text has one derivation at most, and its
probability is the product of its words'.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

from clipbench.tasks.draws import Draws

TOPICS = 4
GENDERS = (5, 3, 2)  # how often, in tenths
NOUNS, VERBS, SPEECH, ADJECTIVES, PREPOSITIONS, DETERMINERS = 12, 10, 3, 6, 4, 2
ENDINGS = ("a", "os", "en")  # of adjectives, nouns and verbs, by gender
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
SEED = 20260101


class State(NamedTuple):
    """What the words so far leave open."""

    place: str
    """What comes next: the name of a method of `Language`."""

    topic: int = 0
    quoted: bool = False
    subject: int | None = None
    """Gender of the subject whose verb has not come."""

    phrase: int | None = None
    """Gender of the noun that has not come."""


class Branch(NamedTuple):
    """A class of words that may come, and what comes after each of them."""

    weight: int
    """A whole number: how often, beside the other branches of the state."""

    words: Sequence[str]
    """By rank: the r-th is drawn as often as 1/r, by `zipf`."""

    state: State


def zipf(count: int) -> list[int]:
    """Whole numbers that fall as 1/rank: lcm(1, …, count)/rank."""
    unit = math.lcm(*range(1, count + 1))
    return [unit // rank for rank in range(1, count + 1)]


class Language:
    """Which words may come in a state, how likely each is, and the texts that follow."""

    start = State("heading")

    def __init__(self) -> None:
        draws = Draws(SEED)
        stems = _stems(draws)
        self.topics = [next(stems).upper() for _ in range(TOPICS)]
        determiners = _take(stems, DETERMINERS * len(GENDERS), 2)  # each of one gender
        self.determiners = [determiners[i :: len(GENDERS)] for i in range(len(GENDERS))]
        self.prepositions = _take(stems, PREPOSITIONS, 3)
        nouns = [_take(stems, NOUNS) for _ in GENDERS]
        verbs, adjectives = _take(stems, VERBS), _take(stems, ADJECTIVES)
        self.speech = _take(stems, SPEECH)
        self.nouns = [[_ranked(draws, each) for each in nouns] for _ in range(TOPICS)]
        self.verbs = [_ranked(draws, verbs) for _ in range(TOPICS)]
        self.adjectives = [_ranked(draws, adjectives) for _ in range(TOPICS)]

    def heading(self, state: State) -> list[Branch]:
        """A document's first word."""
        return [Branch(1, [f"{word}\n"], State("subject", i)) for i, word in enumerate(self.topics)]

    def subject(self, state: State) -> list[Branch]:
        return self._determiners(state, is_subject=True)

    def complement(self, state: State) -> list[Branch]:
        return self._determiners(state, is_subject=False)

    def _determiners(self, state: State, is_subject: bool) -> list[Branch]:
        found = []
        for gender, weight in enumerate(GENDERS):
            subject = gender if is_subject else state.subject
            after = state._replace(place="noun", subject=subject, phrase=gender)
            found.append(Branch(weight, _spelled(self.determiners[gender]), after))
        return found

    def noun(self, state: State) -> list[Branch]:
        """Of the topic, with its adjectives, all of one gender."""
        assert state.phrase is not None
        ending = ENDINGS[state.phrase]
        after = state._replace(place="end" if state.subject is None else "verb", phrase=None)
        return [
            Branch(3, _spelled(self.adjectives[state.topic], ending), state),
            Branch(7, _spelled(self.nouns[state.topic][state.phrase], ending), after),
        ]

    def verb(self, state: State) -> list[Branch]:
        """It agrees with the subject, whatever stands between them."""
        assert state.subject is not None
        ending = ENDINGS[state.subject]
        done = state._replace(subject=None)
        found = [
            Branch(3, _spelled(self.prepositions), state._replace(place="complement")),
            Branch(5, _spelled(self.verbs[state.topic], ending), done._replace(place="complement")),
        ]
        if not state.quoted:
            quoting = done._replace(place="subject", quoted=True)
            found.append(Branch(2, _spelled(self.speech, ending + ":"), quoting))
        return found

    def end(self, state: State) -> list[Branch]:
        """Of a sentence, or of a document: with "!" where somebody is quoted."""
        mark = "!" if state.quoted else "."
        return [
            Branch(9, [f"{mark} "], State("subject", state.topic)),
            Branch(1, [f"{mark}\n"], self.start),
        ]

    @cached_property
    def states(self) -> list[State]:
        """All that are reached from the start, which is the first."""
        found = [self.start]
        for state in found:
            for branch in self.branches(state):
                if branch.state not in found:
                    found.append(branch.state)
        return found

    def branches(self, state: State) -> list[Branch]:
        """What may come in a state: no word stands in two of them."""
        return getattr(self, state.place)(state)

    @cached_property
    def bits(self) -> dict[State, dict[str, tuple[float, State]]]:
        """{state: {word: (-log2 of its probability, the state after it)}}."""
        found = {}
        for state in self.states:
            branches = self.branches(state)
            total = sum(branch.weight for branch in branches)
            words: dict[str, tuple[float, State]] = {}
            for branch in branches:
                weights = zipf(len(branch.words))
                for word, weight in zip(branch.words, weights, strict=True):
                    rarity = total * sum(weights) / (branch.weight * weight)
                    words[word] = math.log2(rarity), branch.state
            found[state] = words
        return found

    def words(self, seed: int) -> Iterator[str]:
        """Of documents without end."""
        tables = {state: _Table(self.branches(state)) for state in self.states}
        draws, state = Draws(seed), self.start
        while True:
            word, state = tables[state].draw(draws)
            yield word

    def text(self, seed: int, size: int) -> str:
        """Whole documents, until there are `size` characters."""
        found: list[str] = []
        length = 0
        for word in self.words(seed):
            found.append(word)
            length += len(word)
            if length >= size and word[-1] == "\n" and word[0] in ".!":
                break
        return "".join(found)

    def information(self, text: str) -> float:
        """-log2 of the probability of a text that begins at the start. ValueError where the language has no
        such text.
        """
        bits, state = 0.0, self.start
        for word in re.findall(r"[^ \n]*[ \n]", text):
            if word not in self.bits[state]:
                raise ValueError(f"{word!r} does not come in the state {state}.")
            more, state = self.bits[state][word]
            bits += more
        return bits


class _Table:
    """The sums of weights of a state's branches and of their words."""

    def __init__(self, branches: Sequence[Branch]) -> None:
        self.sums = list(accumulate(branch.weight for branch in branches))
        self.branches = [
            (each.words, list(accumulate(zipf(len(each.words)))), each.state) for each in branches
        ]

    def draw(self, draws: Draws) -> tuple[str, State]:
        words, sums, state = self.branches[_drawn(draws, self.sums)]
        return words[_drawn(draws, sums)], state


def _ranked(draws: Draws, stems: Sequence[str]) -> list[str]:
    found = list(stems)
    draws.shuffle(found)
    return found


def _drawn(draws: Draws, sums: Sequence[int]) -> int:
    """An index, by weights of which these are the sums so far."""
    return bisect_right(sums, draws.below(sums[-1]))


def _stems(draws: Draws) -> Iterator[str]:
    """Different ones, of two or three syllables."""
    seen = set()
    while True:
        stem = ""
        for _ in range(2 + draws.below(2)):
            stem += draws.choice(CONSONANTS) + draws.choice(VOWELS)
        if stem not in seen:
            seen.add(stem)
            yield stem + draws.choice(CONSONANTS)


def _take(stems: Iterator[str], count: int, letters: int | None = None) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        stem = next(stems)[:letters]
        if stem not in found:
            found.append(stem)
    return found


def _spelled(stems: Sequence[str], ending: str = "") -> list[str]:
    return [f"{stem}{ending} " for stem in stems]
