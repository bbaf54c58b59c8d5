"""Which trials are stopped where: rungs against hand-made counts, the best by sorting, whatever the order."""

import itertools
import math

import pytest

from clipbench.studies.halving import Rung, promoted, rungs


@pytest.mark.parametrize(
    ("trials", "steps", "eval_every", "eta", "expected"),
    [
        (8, 90, 10, 3, [(0, 30, 8), (30, None, 3)]),
        (9, 90, 10, 3, [(0, 10, 9), (10, 30, 3), (30, None, 1)]),
        (8, 100, 10, 3, [(0, 40, 8), (40, None, 3)]),  # 33.3 is rounded up to an evaluation
        (16, 90, 10, 3, [(0, 10, 16), (10, 30, 6), (30, None, 2)]),
        (8, 80, 10, 2, [(0, 10, 8), (10, 20, 4), (20, 40, 2), (40, None, 1)]),
        (27, 90, 30, 3, [(0, 30, 27), (30, None, 9)]),  # 3.3, 10 and 30 fall on one evaluation
        (8, 90, 90, 3, [(0, None, 8)]),  # the last evaluation is no rung
        (8, 90, 200, 3, [(0, None, 8)]),
        (2, 90, 10, 3, [(0, None, 2)]),  # too few to leave a third of
        (1, 90, 10, 2, [(0, None, 1)]),
        (64, 90, 10, 1, [(0, None, 64)]),  # off
    ],
)
def test_rungs_are_shares_of_the_steps_at_evaluations(trials, steps, eval_every, eta, expected):
    assert rungs(trials, steps, eval_every, eta) == tuple(itertools.starmap(Rung, expected))


def test_the_best_go_on_and_of_equals_the_smaller_number_whatever_the_order():
    values = {4: 0.5, 0: 0.1, 3: 0.5, 1: 0.9, 2: math.nan}
    for order in itertools.permutations(values):
        given = {number: values[number] for number in order}
        assert promoted(given, 2, higher_is_better=True) == [1, 3]
        assert promoted(given, 3, higher_is_better=False) == [0, 3, 4]
        assert promoted(given, 5, higher_is_better=True) == [0, 1, 3, 4]  # no number: out
    assert promoted({}, 3, higher_is_better=True) == []
