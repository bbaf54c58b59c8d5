"""One stream of events: what happens to runs, in which order, and that it can travel."""

import pickle
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from clipbench.api import make_run
from clipbench.interrupt import never
from clipbench.record import tables
from clipbench.record.rows import EvalRow, StepRow
from clipbench.runs.checkpoint import RecordedRows
from clipbench.runs.events import Begun, Ended, MadeElsewhere, Progress, Refused, Resumed, Rows, last_rows
from clipbench.runs.lockstep import train_group
from clipbench.sweeps.grid import make_plans

OWN = Path(__file__).parents[1].joinpath("tiny.py")
WORDS = ["task=line", "steps=40", "eval_every=10", "seed=0", "optim.clipping_type=linear_rand_norm"]


def planned(*overrides):
    return make_plans([*WORDS, *overrides], Path())


def names(events):
    """Of their classes, rows that follow rows told once."""
    found = []
    for event in events:
        name = type(event).__name__
        if name != "Rows" or found[-1:] != ["Rows"]:
            found.append(name)
    return found


def rows_in(events, kind):
    found = []
    for event in events:
        if isinstance(event, Rows):
            found += [row for row in event.rows if isinstance(row, kind)]
    return found


def share_clipped(steps):
    """Of a table `steps`."""
    factors = steps["clip_factor"][np.isfinite(steps["grad_norm"])]
    return (factors < 1 - 1e-6).mean()


def test_of_one_run_all_rows_come_once_between_its_beginning_and_its_end(line):
    (plan,) = planned()
    events = list(train_group([plan]))
    assert names(events) == ["Begun", "Rows", "Ended"]
    assert {event.run for event in events} == {plan.run}
    steps = tables.read(plan.results, "steps")
    evals = tables.read(plan.results, "evals")
    assert [row.step for row in rows_in(events, StepRow)] == list(range(1, 41))
    assert [row.grad_norm for row in rows_in(events, StepRow)] == pytest.approx(steps["grad_norm"], rel=1e-6)
    told = [(row.step, row.split, row.metric) for row in rows_in(events, EvalRow)]
    assert told == list(zip(evals["step"], evals["split"], evals["metric"], strict=True))
    assert 0 < events[-2].clipped < 1
    assert events[-2].clipped == pytest.approx(share_clipped(steps))
    assert events[-1].row["status"] == "done"
    assert list(train_group([plan])) == [MadeElsewhere(plan.run, "", "done")]


def test_a_run_that_was_interrupted_goes_on_with_the_rows_before_and_counts_each_step_once(line):
    (plan,) = planned()
    calls = count()
    first = list(train_group([plan], lambda: next(calls) >= 25))
    assert names(first) == ["Begun", "Rows"]
    reached = plan.run_folder.checkpoint_step()
    second = list(train_group([plan]))
    assert names(second) == ["Resumed", "Rows", "Ended"]
    assert second[0] == Resumed(plan.run, reached)
    before = second[1]
    assert before.rows[0] == rows_in(first, StepRow)[-1]
    assert {row.step for row in before.rows[1:]} == {20}
    assert before.clipped == first[-1].clipped
    assert [row.step for row in rows_in(second[2:], StepRow)] == list(range(reached + 1, 41))
    assert second[-2].clipped == pytest.approx(share_clipped(tables.read(plan.results, "steps")))


def test_a_run_that_diverges_ends_and_the_others_of_its_group_go_on(line):
    plans = planned("optim.clipping_type=none", "optim.lr=0.01,1e30,0.02")
    events = list(train_group(plans))
    by_run = {plan.run: [event for event in events if event.run == plan.run] for plan in plans}
    assert [names(each) for each in by_run.values()] == [["Begun", "Rows", "Ended"]] * 3
    assert [each[-1].row["status"] for each in by_run.values()] == ["done", "diverged", "done"]
    ends = [event.run for event in events if isinstance(event, Ended)]
    assert ends[0] == plans[1].run
    after = events[events.index(by_run[plans[1].run][-1]) :]
    assert {row.step for row in rows_in(after, StepRow)} >= {40}


def test_a_run_that_is_lost_with_what_a_group_shares_ends_as_failed(line):
    (plan,) = planned("task.fail_at=15")
    heard = []
    row = make_run(plan, never, heard.append)
    assert (names(heard), heard[-1]) == (["Begun", "Rows", "Ended"], Ended(plan.run, row))
    assert row["status"] == "failed"


STEP = StepRow(1, 0.5, 0.1, 0.7, 2.0, 1.0, 0.5, 0.1)
EVAL = EvalRow(1, 0.1, "val", "mse", 0.25)
EVENTS = [
    Begun("r1"),
    Resumed("r1", 7),
    Rows("r1", (STEP, EVAL), 0.5),
    Ended("r1", {"status": "done", "steps": 40}),
    MadeElsewhere("r1", "process 1 on here"),
    MadeElsewhere("r1", "", "done"),
    Refused("r1", "There are no data."),
    Progress({"r0": "done"}, {"cpu #1": ("r1",)}, 3, frozenset({"r2"}), True),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_events_pickle_and_are_equal_then(event):
    assert pickle.loads(pickle.dumps(event)) == event


def test_what_a_report_needs_of_many_rows_is_small():
    evals = [replace(EVAL, step=step, metric=name) for step in (10, 20) for name in ("mse", "loss")]
    steps = [replace(STEP, step=step) for step in range(1, 5001)]
    first = Rows("r1", (*steps[:20], *evals), 0.25).thinned()
    assert first == Rows("r1", (steps[19], *evals[2:]), 0.25)
    both = Rows("r1", tuple(steps[20:]), 0.5).thinned(first)
    assert both == Rows("r1", (steps[-1], *evals[2:]), 0.5)
    assert len(pickle.dumps(both)) < 600
    assert last_rows([]) == ()


@pytest.mark.parametrize("number", [0, 3, 5000])  # of steps: none, as objects, as a tensor
def test_recorded_rows_know_their_last_step_and_how_many_were_clipped(number):
    factors = np.random.default_rng(0).choice([0.5, 1.0, 1.2], number)
    norms = np.where(np.arange(number) % 7 == 2, np.inf, 2.0)
    steps = []
    for index, (factor, norm) in enumerate(zip(factors, norms, strict=True)):
        steps.append(replace(STEP, step=index + 1, clip_factor=float(factor), grad_norm=float(norm)))
    rows, loaded = RecordedRows(), RecordedRows()
    rows.add(steps)
    loaded.load_state_dict(rows.state_dict())
    seen = np.isfinite(norms)
    for each in (rows, loaded):
        assert each.last_step == steps[-1:]
        assert each.share_clipped == ((factors < 1)[seen].mean() if number else 0)
    again = replace(STEP, step=number + 1, clip_factor=0.5)
    loaded.add([again])
    assert loaded.last_step == [again]
    assert loaded.clipped == (factors < 1)[seen].sum() + 1
