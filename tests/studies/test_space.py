"""What trials are drawn from: paired across methods, spread evenly, ∞ among the levels."""

import math

import numpy as np
import pytest

from clipbench.errors import UserError
from clipbench.studies.contest import contests
from clipbench.studies.space import Axis, points, read_axis


def test_an_axis_is_uniform_from_its_lower_end_to_its_upper_one():
    log, linear = Axis(0.01, 100, log=True), Axis(-1, 1, log=False)
    assert [log.at(u) for u in (0, 0.25, 0.5, 0.75)] == [0.01, 0.1, 1, 10]
    assert [linear.at(u) for u in (0, 0.25, 0.5)] == [-1, -0.5, 0]
    assert log.at(0.5, unit=3e-4) == 3e-4


def test_the_value_besides_takes_its_share_and_the_range_the_rest():
    axis = Axis(1, 100, log=True, also=math.inf, share=0.25)
    values = [axis.at(u) for u in np.arange(0, 1, 1 / 1000)]
    assert np.mean(np.isinf(values)) == 0.25
    assert values[0] == 1
    assert values[375] == 10  # the middle of the rest
    assert values == sorted(values)


@pytest.mark.parametrize("trials", [1, 5, 8, 64])
def test_a_trial_depends_on_neither_the_number_of_trials_nor_the_axes_behind(trials):
    long = points(["lr", "clipping_level", "beta"], 64, seed=3)
    short = points(["lr", "clipping_level"], trials, seed=3)
    for name in short:
        assert np.array_equal(short[name], long[name][:trials])


def test_two_to_the_k_trials_fall_one_into_each_part():
    """A (0, k, 1)-net in base 2: the property that defines Sobol's sequence."""
    for values in points(list("abcdef"), 32, seed=0).values():
        assert sorted((values * 32).astype(int)) == list(range(32))


def test_another_seed_draws_other_trials():
    assert not np.allclose(points(["lr"], 8, 0)["lr"], points(["lr"], 8, 1)["lr"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "must be a mapping, got 3"),
        ({"lg": [1, 2]}, r"unknown key 'lg'\. Did you mean 'log'"),
        ({"log": [1, 2], "linear": [1, 2]}, "takes one range"),
        ({"also": 1, "share": 0.5}, "takes one range"),
        ({"log": [2, 1]}, "the lower first"),
        ({"log": [1, "x"]}, "two numbers"),
        ({"linear": [1, math.inf]}, "two numbers"),
        ({"log": [0, 1]}, r"starts above 0, got \[0, 1\]"),
        ({"log": [1, 2], "also": math.inf}, "`also` and `share` go together"),
        ({"log": [1, 2], "also": 3, "share": 1}, "between 0 and 1"),
        ({"log": [1, 2], "also": "no", "share": 0.5}, "`also` is a number"),
    ],
)
def test_a_wrong_space_gets_one_clear_message(given, message):
    with pytest.raises(UserError, match=message):
        read_axis("space.lr", given)


@pytest.fixture(scope="module")
def standard():
    [contest] = contests(["task=cola", "study=standard", "study.repetitions=1"])
    return contest.tuning()


def drawn(plans, method, key):
    return [getattr(plan.settings.optim, key) for plan in plans if plan.settings.tag.method == method]


def test_every_method_has_the_same_budget_and_none_too(standard):
    methods = [plan.settings.tag.method for plan in standard]
    assert len(set(methods)) == 9
    assert all(methods.count(method) == 16 for method in methods)
    assert len({plan.run for plan in standard}) == len(standard)


def test_a_trial_has_the_same_values_for_every_method_that_shares_them(standard):
    for method in {plan.settings.tag.method for plan in standard}:
        assert drawn(standard, method, "lr") == drawn(standard, "none", "lr")
    assert drawn(standard, "quadratic_rand_norm", "clipping_level") == drawn(
        standard, "norm", "clipping_level"
    )
    assert drawn(standard, "linear_rand_auto", "p_autoclip") == drawn(standard, "auto", "p_autoclip")
    assert drawn(standard, "linear_rand_auto", "beta") == drawn(standard, "linear_rand_norm", "beta")


def test_no_clipping_is_in_every_space(standard):
    for method in ("norm", "linear_rand_norm", "quadratic_rand_norm", "layer_wise", "coordinate_wise"):
        assert drawn(standard, method, "clipping_level").count(math.inf) == 2  # 16 / 8
    for method in ("auto", "linear_rand_auto", "quadratic_rand_auto"):
        assert drawn(standard, method, "p_autoclip").count(1) == 2


def test_learning_rates_lie_around_the_tasks_own(standard):
    rates = drawn(standard, "none", "lr")
    assert 0.03e-3 <= min(rates) < 1e-3 / 10
    assert 10e-3 < max(rates) <= 30e-3
    assert drawn(standard, "norm", "clipping_level") != drawn(standard, "coordinate_wise", "clipping_level")


def test_the_overrides_of_a_run_make_it_again(standard):
    from clipbench.runs.plan import make_plan

    for plan in standard[::29]:
        assert make_plan(plan.overrides).run == plan.run
