"""What is said of a control follows from its interval and the positive one's."""

import sys
from pathlib import Path

import pytest

from clipbench.stats import Interval
from clipbench.studies.contest import contests

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def controls(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import controls

    yield controls
    sys.modules.pop("controls")


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (-0.1, 0.09, "came out"),
        (-0.3, -0.2, "came out"),
        (0.12, 0.3, "failed"),
        (-0.1, 0.2, "not decided"),
        (0.05, 0.15, "not decided"),
    ],
)
def test_a_negative_control_excludes_half_of_the_positive_ones_gain(controls, low, high, outcome):
    found = Interval((low + high) / 2, low, high, 8)
    assert controls.negative(found, Interval(0.2, 0.1, 0.3, 8)) == outcome


def test_without_a_gain_there_is_nothing_to_measure_by(controls):
    assert controls.negative(Interval(0, -1, 1, 8), Interval(-0.1, -0.2, 0.1, 8)) == "not decided"


def test_each_control_is_one_contest_of_the_study_that_was_fixed(controls):
    for settings in controls.CONTROLS.values():
        [contest] = contests([*controls.SHARED.split(), *settings.split()])
        assert (contest.study.name, contest.study.repetitions, contest.study.trials) == ("controls", 8, 8)
        assert contest.study.methods == ("none", "norm")
        assert contest.plan.settings.task.keywords["model"] in ("lstm", "rnn_tanh")
