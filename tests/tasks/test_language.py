"""The generated language: its likelihood is one, its words are Zipf's, its sentences agree, and it stays."""

import hashlib
import math
import re
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from clipbench.tasks.language import ENDINGS, GENDERS, Language, zipf

LANGUAGE = Language()
TEXT = LANGUAGE.text(7, 120_000)


def derivations(text, state):
    """Every way to derive a text from a state, as probabilities. It asks branches and spelling alone."""
    if not text:
        return [Fraction(1)]
    found = []
    branches = LANGUAGE.branches(state)
    total = sum(branch.weight for branch in branches)
    for branch in branches:
        harmonic = sum(Fraction(1, rank) for rank in range(1, len(branch.words) + 1))
        for rank, word in enumerate(branch.words, 1):
            if text.startswith(word):
                p = Fraction(branch.weight, total) / (rank * harmonic)
                found += [p * rest for rest in derivations(text[len(word) :], branch.state)]
    return found


def test_a_text_has_one_derivation_and_its_probability_is_that_ones():
    words = re.findall(r"[^ \n]*[ \n]", TEXT)
    for count in (1, 7, 60, 200):
        text = "".join(words[:count])
        [p] = derivations(text, LANGUAGE.start)
        bits = math.log2(p.denominator) - math.log2(p.numerator)
        assert LANGUAGE.information(text) == pytest.approx(bits, rel=1e-12)


def strings(length):
    """Every text of so many words from the start."""
    texts = [("", LANGUAGE.start)]
    for _ in range(length):
        longer = []
        for text, state in texts:
            for word, (_, after) in LANGUAGE.bits[state].items():
                longer.append((text + word, after))
        texts = longer
    return [text for text, _ in texts]


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_the_texts_of_so_many_words_have_probabilities_of_sum_one(length):
    texts = strings(length)
    assert len(set(texts)) == len(texts)
    assert math.fsum(2 ** -LANGUAGE.information(text) for text in texts) == pytest.approx(1, rel=1e-9)


def test_in_every_state_the_probabilities_sum_to_one_and_no_word_stands_twice():
    for state in LANGUAGE.states:
        known = LANGUAGE.bits[state]
        assert len(known) == sum(len(branch.words) for branch in LANGUAGE.branches(state))
        assert math.fsum(2**-bits for bits, _ in known.values()) == pytest.approx(1, rel=1e-12)
        assert all(re.fullmatch(r"[^ \n]+[ \n]", word) for word in known)


def test_the_information_of_a_byte_is_the_entropy_rate():
    """Of the stationary distribution over the states, by linear algebra."""
    index = {state: i for i, state in enumerate(LANGUAGE.states)}
    n = len(index)
    moves, entropy, length = np.zeros((n, n)), np.zeros(n), np.zeros(n)
    for state, i in index.items():
        for word, (bits, after) in LANGUAGE.bits[state].items():
            p = 2**-bits
            moves[i, index[after]] += p
            entropy[i] += p * bits
            length[i] += p * len(word)
    system = np.vstack([moves.T - np.eye(n), np.ones(n)])
    share = np.linalg.lstsq(system, np.append(np.zeros(n), 1), rcond=None)[0]
    rate = share @ entropy / (share @ length)
    assert LANGUAGE.information(TEXT) / len(TEXT) == pytest.approx(rate, rel=0.01)


def test_words_of_a_class_fall_as_their_ranks():
    assert zipf(4) == [12, 6, 4, 3]
    counts = Counter(TEXT.split())
    for gender in range(len(GENDERS)):
        first, second = (word.strip() for word in LANGUAGE.determiners[gender])
        n = counts[first] + counts[second]
        assert counts[first] / n == pytest.approx(2 / 3, abs=4 * math.sqrt(2 / 9 / n))
    document = "".join(part for part in re.split(r"(?<=[.!]\n)", TEXT) if part.startswith(LANGUAGE.topics[0]))
    nouns = [f"{stem}{ENDINGS[0]}" for stem in LANGUAGE.nouns[0][0]]
    found = Counter(word for word in document.split() if word in nouns)
    expected = sum(found.values()) / sum(1 / rank for rank in range(1, len(nouns) + 1))
    for rank, noun in enumerate(nouns, 1):
        assert found[noun] == pytest.approx(expected / rank, abs=4.5 * math.sqrt(expected / rank))


def test_topics_rank_the_same_words_differently():
    ranks = [tuple(LANGUAGE.nouns[topic][0]) for topic in range(len(LANGUAGE.topics))]
    assert len(set(ranks)) == len(ranks)
    assert len({frozenset(each) for each in ranks}) == 1


def test_a_verb_agrees_with_the_subject_however_far_it_stands():
    gender_of = {word.strip(): g for g, words in enumerate(LANGUAGE.determiners) for word in words}
    stems = {*LANGUAGE.verbs[0], *LANGUAGE.speech}
    verbs = {
        f"{stem}{ending}{mark}": g for stem in stems for g, ending in enumerate(ENDINGS) for mark in ("", ":")
    }
    assert len(verbs) == 2 * len(ENDINGS) * len(stems)
    between = Counter()
    other = 0
    for clause in re.split(r"[.!:]\s", TEXT.replace(":", ": :")):
        words = clause.replace(":", "").split()
        if words and words[0].isupper():
            words = words[1:]
        verb = next((i for i, word in enumerate(words) if word in verbs), None)
        if verb is not None:
            assert verbs[words[verb]] == gender_of[words[0]], clause
            between[verb] += 1
            other += any(
                gender_of.get(word, verbs[words[verb]]) != verbs[words[verb]] for word in words[1:verb]
            )
    assert sum(between.values()) > 1000
    assert max(between) > 10
    assert other > 200  # a noun of another gender stood between


def test_what_is_not_in_the_language_is_refused():
    first, second, third = re.findall(r"[^ \n]*[ \n]", TEXT)[:3]
    for wrong in (second, first + second + second, first + "nobody "):
        with pytest.raises(ValueError, match="does not come in the state"):
            LANGUAGE.information(wrong)
    assert LANGUAGE.information(first + second + third) > 0


def test_it_is_the_same_on_every_machine_and_python():
    """Another language makes other runs of the same settings: a changed one takes another name."""
    found = hashlib.sha256("".join(LANGUAGE.text(seed, 50_000) for seed in range(3)).encode()).hexdigest()
    assert found == "d44bbccd136676d4c9550b7a0c863961bbd7ac0b9f9d0ac93482d98aa6bd7373"
