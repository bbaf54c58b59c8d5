"""Restarts and averaging within the bench: a run that is cut, its settings, what it evaluates."""

import copy

import pytest
import torch
from conftest import set_gradients
from optim_helpers import saved
from tiny import Line

from clipbench.errors import UserError
from clipbench.optim import ClippedSSTM, Restarter, clip_gradients, make_rule
from clipbench.record.rows import StepRow
from clipbench.runs.config import load
from clipbench.runs.plan import make_plan
from clipbench.task.seeds import device_generator, fresh_model, generator
from clipbench.train.batches import device_batches
from clipbench.train.evaluation import evaluate
from clipbench.train.learner import Learner
from clipbench.train.loop import train
from clipbench.train.schedule import Schedule

CPU = torch.device("cpu")


def learner(task, first=6, rule="linear_rand_norm"):
    model = fresh_model(task, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=True)
    clip_gradients(optimizer, make_rule(rule), rng=device_generator(0, "clip", CPU))
    return learner_of(task, model, optimizer, Restarter(first, 1.25) if first else None)


def learner_of(task, model, optimizer, restarter=None):
    settings = {"seed": 0, "device": CPU, "precision": "fp32", "max_loss": 1e4}
    schedule = Schedule("constant", 0, 30)
    return Learner(task, model, optimizer, schedule=schedule, restarter=restarter, **settings)


class ReadAt:
    """No step is left unread at one."""

    def __init__(self, step):
        self.step = step

    def reads_at(self, step):
        return step == self.step


def rows_of(one, until=30):
    """The losses by step that a learner makes from where it is up to the step `until`."""
    batches = device_batches(one.task, one.task.train_batches(generator(0, "data")), CPU, one.step)
    found = {}
    for rows in train([one], batches, steps=30, eval_every=10, readings=ReadAt(until)):
        for row in rows.get(one, []):
            if isinstance(row, StepRow):
                found[row.step] = row.loss
        if one.step == until:
            break
    return found


@pytest.fixture(scope="module")
def straight():
    """The losses of a run that restarts after 6 steps, and of one that never does."""
    return rows_of(learner(Line())), rows_of(learner(Line(), first=None))


def test_a_run_restarts(straight):
    restarted, plain = (list(losses.values()) for losses in straight)
    assert len(restarted) == 30
    assert restarted[:6] == plain[:6]
    assert restarted[6:] != plain[6:]


@pytest.mark.parametrize("cut", [6, 8, 13])
def test_a_run_that_is_cut_and_resumed_is_the_run(cut, straight):
    first, second = learner(Line()), learner(Line())
    found = rows_of(first, until=cut)
    second.load_state_dict(saved(first.state_dict()))
    found |= rows_of(second)
    assert found == straight[0]


@pytest.mark.parametrize(("name", "value"), [("first", 0), ("coeff", 0.5), ("max", -1)])
def test_a_wrong_setting_is_refused_by_its_key(name, value):
    with pytest.raises(UserError, match=f"restart.{name} must be"):
        load([f"restart.{name}={value}"])


def test_restarts_are_part_of_a_runs_identity_only_where_there_are_any():
    plain = make_plan([]).run
    assert make_plan(["restart.coeff=3", "restart.max=7"]).run == plain
    restarted = make_plan(["restart.first=50"]).run
    slower = make_plan(["restart.first=50", "restart.coeff=2"]).run
    assert len({plain, restarted, slower}) == 3
    assert '"restart": {"coeff": 1.25, "first": 50, "max": 2000}' in load(["restart.first=50"]).as_json()


def test_the_bench_evaluates_at_y():
    task = Line()
    model = fresh_model(task, 0)
    optimizer = ClippedSSTM(model.parameters(), lr=1.0, L=5.0)
    one = learner_of(task, model, optimizer)
    for step in range(5):
        set_gradients(model, step)
        optimizer.step()
    (x, y) = next(task.eval_batches("test"))
    at_y = copy.deepcopy(model).eval()
    with torch.no_grad():
        for p, q in zip(at_y.parameters(), model.parameters(), strict=True):
            p.copy_(optimizer.state[q]["y"])
        expected = (at_y(x) - y).square().mean().item()
        here = (model.eval()(x) - y).square().mean().item()
    assert evaluate(one, "test")["mse"] == pytest.approx(expected, rel=1e-6)
    assert abs(here - expected) > 1e-3
