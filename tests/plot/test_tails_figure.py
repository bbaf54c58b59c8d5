"""The figure of `clipbench tails` shows every batch, and what is said claims no more than was measured."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from clipbench import stats
from clipbench.analysis import noise as findings
from clipbench.plot import style
from clipbench.plot import tails as plot


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def rows_of(*samples):
    about = {
        "run": "r0",
        "label": "cola (mini) · adamw · none · seed 0",
        "data": "",
        "passes": 2.0,
        "full_passes": 2.0,
        "drawn": "",
        "loss": 1.0,
        "grad_norm": 1.0,
        "full_norm": 0.5,
    }
    rows = []
    for i, sample in enumerate(samples):
        for j, value in enumerate(sample):
            rows.append(about | {"step": 100 * i, "batch": j, "noise_norm": value})
    return pd.DataFrame(rows)


def gaussian(rng, n):
    return np.linalg.norm(rng.normal(size=(n, 50)), axis=1)


def texts(fig):
    """All that stands above and between the panels, as one line."""
    found = []
    for part in fig.subfigs:
        found += [part.get_suptitle(), *(text.get_text() for text in part.texts)]
    return " ".join(" ".join(found).split())


@pytest.mark.parametrize("width", [6.75, 3.25])
def test_figure_has_four_panels_for_each_step_shows_every_batch_and_overlaps_nowhere(rng, width):
    heavy, light = rng.pareto(0.8, 300) + 1, rng.uniform(1, 2, 300)
    with style.drawing():
        fig = plot.figure(rows_of(heavy, light), width)
        fig.draw_without_rendering()
    assert fig.get_figwidth() == width
    assert [len(part.axes) for part in fig.subfigs] == [0, 4, 4, 0]
    said = texts(fig)
    assert "Step 0. Heavy tail" in said
    assert "Step 100. Not heavy" in said
    assert "CoLA (mini) · AdamW · none · seed 0 · 300 batches, 2 passes" in said
    assert "no augmentation" in said
    x, share = fig.axes[1].lines[0].get_data()
    np.testing.assert_allclose(x, np.sort(heavy))
    for at, above in zip(x[::50], share[::50], strict=True):
        assert above == pytest.approx(np.mean(heavy >= at))
    renderer = fig.canvas.get_renderer()
    drawn, panels = [], [ax.get_tightbbox(renderer) for ax in fig.axes]
    for part in fig.subfigs:
        drawn += [text.get_window_extent(renderer) for text in part.texts if text.get_text()]
        drawn += [legend.get_window_extent(renderer) for legend in part.legends]
    assert len(drawn) == 5  # name, notes, a head for each step, the legend
    for box in [*drawn, *panels]:
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= fig.bbox.x1 + 1
        assert box.y1 <= fig.bbox.y1 + 1
    boxes = [*drawn, *panels]
    for i, box in enumerate(boxes):
        assert not any(_overlap(box, other) for other in boxes[i + 1 :])


def _overlap(one, other):
    wide = min(one.x1, other.x1) - max(one.x0, other.x0)
    high = min(one.y1, other.y1) - max(one.y0, other.y0)
    return wide > 1 and high > 1


def test_the_error_rates_of_this_n_stand_in_the_figure(rng):
    with style.drawing():
        said = texts(plot.figure(rows_of(gaussian(rng, 252))))
    rates = stats.errors(240)
    assert "simulated with 240 batches" in said
    for name, share in rates.missed.items():
        assert f"{name}: {share:.2g} %" in said or f"{name}: {share:.0f} %" in said


def test_a_label_is_no_formula(rng):
    rows = rows_of(gaussian(rng, 100)).assign(label="my$x (mini) · sgd · a$b:C")
    with style.drawing():
        fig = plot.figure(rows)
        fig.draw_without_rendering()
    assert "my$x (mini) · SGD · a$b:C" in texts(fig)
    assert not fig.subfigs[0].texts[0].get_parse_math()


def test_what_is_part_of_the_noise_is_said(rng):
    rows = rows_of(rng.pareto(1.2, 300) + 1)
    assert "all training data, 2 passes" in findings.provenance(rows)
    assert "no augmentation" in findings.provenance(rows)
    less = rows.assign(full_passes=0.02, drawn="the draw of neighbours")
    assert "these batches only" in findings.provenance(less)
    assert "the draw of neighbours is part of the noise" in findings.provenance(less)


@pytest.mark.parametrize(
    ("data", "name", "sizes"),
    [
        ("/home/me/cifar10, 10 classes, 40/5/5 images", "me/cifar10", "10 classes, 40/5/5 images"),
        ("a graph of 9 nodes (C:\\me\\cora), 7 classes", "A graph of 9 nodes", "7 classes"),
        ("CIFAR-10, 10 classes", "CIFAR-10", "10 classes"),
    ],
)
def test_which_data_is_said_without_the_folder_it_lies_in(data, name, sizes):
    rows = rows_of([1.0]).assign(data=data)
    assert findings.title(rows).startswith(f"{name} · AdamW · none")
    assert findings.data_seen(rows) == f"Task cola (mini), {sizes}. "


@pytest.mark.parametrize("data", ["", None])
def test_where_no_data_were_recorded_the_task_is_named(data):
    rows = rows_of([1.0])
    for unknown in (rows.assign(data=data), rows.drop(columns="data")):
        assert findings.title(unknown).startswith("CoLA (mini) · AdamW")
        assert findings.data_seen(unknown) == ""


def said_of(values):
    return findings.conclusion(stats.tail(values))


def test_a_power_law_has_a_variance_only_where_both_intervals_say_so(rng):
    finite = stats.tail(scipy_stats.genpareto(0.25).rvs(20_000, random_state=rng) + 1)
    assert max(finite.heaviness.index.high, finite.heaviness.kept.high) < 0.5
    assert "finite variance. A lognormal, which is no power law" in findings.conclusion(finite)
    infinite = stats.tail(rng.pareto(1, 5000) + 1)
    assert min(infinite.heaviness.index.low, infinite.heaviness.kept.low) > 0.5
    assert "an infinite variance" in findings.conclusion(infinite)
    alpha = 1 / infinite.heaviness.index.estimate
    assert f"its α is {alpha:.1f} (" in findings.conclusion(infinite)
    some = said_of(rng.pareto(1.6, 2000) + 1)
    assert "whether the variance is finite (α > 2) is open" in some


def test_an_outlier_is_said_to_be_one(rng):
    norms = gaussian(rng, 240)
    norms[0] *= 8
    said = said_of(norms)
    assert said.startswith("Cannot tell from 240 batches")
    assert "not without the largest 3, which outliers alone would do" in said
    assert "nfinite variance." not in said


def test_sentences_claim_no_more_than_the_intervals(rng):
    border = stats.tail(rng.exponential(size=2000))
    said = findings.conclusion(border)
    assert said.startswith("Cannot tell")
    assert f"above {1 / border.heaviness.index.high:.2g}, a finite variance" in said
    few = stats.tail(rng.exponential(size=100))
    assert few.heaviness.index.high >= 0.5
    assert "infinite variance is not excluded" in findings.conclusion(few)
    light = said_of(rng.normal(9, 1, 2000))
    assert "Not heavy" in light
    assert "faster than exponentially" in light
    apart = said_of(np.r_[rng.normal(2, 0.3, 990), rng.normal(6, 0.1, 22)])
    assert "no tail law fits (p = 0.01)" in apart


def test_drawing_imports_no_torch():
    code = "import sys, clipbench.plot.tails; print(*sys.modules)"
    loaded = set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )
    assert "clipbench.stats.tails" in loaded
    assert "torch" not in loaded
