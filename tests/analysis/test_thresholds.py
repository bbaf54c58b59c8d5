"""The level that a rule held ‖g‖ against is that of the rule itself."""

import numpy as np
import pandas as pd
import pytest
import torch

from clipbench.analysis.steps import measured_alone
from clipbench.analysis.thresholds import threshold
from clipbench.optim.auto import Auto


@pytest.mark.parametrize("window", [5, 10_000])
def test_the_quantile_is_that_of_the_rule(window):
    norms = np.random.default_rng(1).lognormal(size=30).astype(np.float32)
    rule = Auto(p_autoclip=0.35, window=window)
    state, expected = rule.init([torch.zeros(1)]), []
    for norm in norms:
        level, state = rule.level(torch.tensor(norm), state)
        expected.append(float(level))
    settings = {"clipping_type": "auto", "p_autoclip": 0.35, "optim.clip.window": window}
    found = threshold(settings, norms, np.arange(1, 31))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_step_that_was_skipped_is_no_part_of_the_memory():
    norms = np.array([1.0, np.inf, 3.0, np.nan])
    settings = {"clipping_type": "auto", "p_autoclip": 0.5}
    assert threshold(settings, norms, np.arange(1, 5)).tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize(
    "settings",
    [
        {"clipping_type": "layer_wise", "clipping_level": 1.0},
        {"clipping_type": "none", "clipping_level": None},
        {"clipping_type": "norm", "clipping_level": np.inf},
        {"clipping_type": "norm", "clipping_level": 1.0, "optim.clip_exempt": ("*.bias",)},
        {"clipping_type": "norm", "clipping_level": 1.0, "optim.clip_levels.embed*": 0.5},
        {"clipping_type": "auto", "p_autoclip": None},
    ],
)
def test_a_level_of_something_else_is_none_of_the_norm(settings):
    assert threshold(settings, np.ones(3), np.arange(1, 4)) is None


def runs(**columns):
    empty = {
        "lockstep": [1, 1],
        "host": ["a", "a"],
        "started": ["2026-01-01T00:00:00", "2026-01-01T01:00:00"],
    }
    empty["ended"] = ["2026-01-01T00:30:00", "2026-01-01T01:30:00"]
    return pd.DataFrame(empty | columns)


@pytest.mark.parametrize(
    ("changed", "alone"),
    [
        ({}, True),
        ({"lockstep": [1, 2]}, False),
        ({"lockstep": [None, None]}, True),
        ({"ended": ["2026-01-01T01:10:00", "2026-01-01T01:30:00"]}, False),
        ({"ended": ["2026-01-01T01:10:00", "2026-01-01T01:30:00"], "host": ["a", "b"]}, True),
        ({"started": [None, "nonsense"]}, True),
    ],
)
def test_seconds_compare_where_no_run_was_beside_another(changed, alone):
    assert measured_alone(runs(**changed)) == alone
