"""Which steps count, and which share of them was clipped."""

import math

import numpy as np
import pandas as pd
import pytest

from clipbench.analysis.steps import clipped_share, is_skipped, without_skipped

NAN, INF = math.nan, math.inf


def test_skipped_steps_count_neither_as_clipped_nor_as_not():
    assert clipped_share([2.0, 1.0, 4.0, INF, NAN], [0.5, 1.0, 0.25, 0.0, 0.0]) == pytest.approx(2 / 3)


def test_rounding_of_a_norm_that_was_left_alone_is_no_clipping():
    factors = np.array([1 - 1e-7, 0.9], np.float32)
    assert clipped_share(np.ones(2, np.float32), factors) == 0.5


@pytest.mark.parametrize("norms", [[], [INF, NAN]])
def test_without_a_step_that_counts_there_is_no_share(norms):
    assert math.isnan(clipped_share(norms, [0.0] * len(norms)))


def test_columns_are_taken_by_place_whatever_their_index():
    steps = pd.DataFrame({"grad_norm": [INF, 1.0, 2.0], "clip_factor": [0.0, 1.0, 0.5]}, index=[7, 7, 3])
    assert clipped_share(steps["grad_norm"], steps["clip_factor"]) == 0.5
    assert without_skipped(steps)["clip_factor"].tolist() == [1.0, 0.5]


def test_a_single_norm():
    assert is_skipped(INF)
    assert is_skipped(NAN)
    assert not is_skipped(3.0)
