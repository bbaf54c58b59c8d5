"""The loop: rows that say what happened, runs that can be paired, interrupted and repeated bit for bit."""

import copy
import math

import pytest
import torch
from tiny import Line

from clipbench.optim import RULES, clip_gradients, make_rule
from clipbench.seeds import device_generator, fresh_model, generator
from clipbench.train import End, EvalRow, Learner, Schedule, StepRow, train

CPU = torch.device("cpu")


def learner(task, rule="norm", seed=0, lr=0.05, **settings):
    model = fresh_model(task, seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, fused=True)
    clip_gradients(optimizer, make_rule(rule, **settings), rng=device_generator(seed, "clip", CPU))
    return Learner(task, model, optimizer, seed=seed, device=CPU, precision="fp32")


def rows_of(one, batches, steps=30, eval_every=10, schedule=None, max_loss=1e4):
    schedule = schedule or Schedule("constant", 0, steps)
    found = []
    for new in train(one, batches, steps=steps, eval_every=eval_every, schedule=schedule, max_loss=max_loss):
        found += new
    return found


def run(rule="norm", seed=0, task=None, steps=30, lr=0.05, schedule=None, **settings):
    task = task or Line()
    return rows_of(learner(task, rule, seed, lr, **settings), task.train_batches(generator(seed, "data")), steps, schedule=schedule)


def values(rows):
    """Everything but times."""
    return [
        (type(row).__name__, *(v if v == v else "nan" for k, v in vars(row).items() if k != "seconds"))
        if not isinstance(row, list)
        else row
        for row in rows
    ]


def test_one_row_a_step_and_evaluations_where_they_belong():
    rows = run()
    assert [row.step for row in rows if isinstance(row, StepRow)] == list(range(1, 31))
    assert sorted({(row.step, row.split) for row in rows if isinstance(row, EvalRow)}) == [
        (10, "train"),
        (10, "val"),
        (20, "train"),
        (20, "val"),
        (30, "test"),
        (30, "train"),
        (30, "val"),
    ]
    assert rows[-1] == End("done", 30, rows[-1].seconds, 0)
    seconds = [row.seconds for row in rows]
    assert seconds == sorted(seconds)


def test_rows_say_what_a_plain_loop_sees():
    """The same steps by hand: weights, batches and dropout from the same generators, clipping by torch."""
    task = Line()
    rows = [row for row in run(steps=12) if isinstance(row, StepRow)]
    model = fresh_model(task, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    batches = task.train_batches(generator(0, "data"))
    torch.manual_seed(generator(0, "dropout").initial_seed())
    for row, (x, y) in zip(rows, batches, strict=False):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        assert (row.loss, row.grad_norm) == pytest.approx((loss.item(), norm.item()), rel=1e-3)
        assert row.clipped_norm == pytest.approx(min(1.0, norm.item()), rel=1e-3)
        assert row.clip_factor == pytest.approx(row.clipped_norm / row.grad_norm)
        assert row.epoch == pytest.approx(row.step / 8)


@pytest.mark.parametrize("rule", RULES)
def test_the_same_seed_gives_the_same_run_whatever_the_global_one(rule):
    torch.manual_seed(1)
    first = values(run(rule, seed=3))
    torch.manual_seed(2)
    assert values(run(rule, seed=3)) == first
    assert values(run(rule, seed=4)) != first


def test_a_run_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    run()
    assert torch.equal(torch.rand(3), expected)


def test_methods_at_one_seed_start_alike_and_see_the_same_batches():
    """So the first loss, before any clipped step, is the same number."""
    firsts = {run(rule, seed=5)[0].loss for rule in RULES}
    assert len(firsts) == 1


def test_runs_side_by_side_are_the_runs_alone():
    """The loop gives up its turn after every step, so several can share one stream of batches."""
    task = Line()
    one, two = learner(task, "norm"), learner(task, "auto")
    shared = [copy.deepcopy(batch) for batch, _ in zip(task.train_batches(generator(0, "data")), range(30), strict=False)]
    loops = [train(each, iter(shared), steps=30, eval_every=10, schedule=Schedule("constant", 0, 30), max_loss=1e4) for each in (one, two)]
    together = [[], []]
    for pair in zip(*loops, strict=True):
        for found, new in zip(together, pair, strict=True):
            found += new
    assert [values(rows) for rows in together] == [values(run("norm")), values(run("auto"))]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("cut", [1, 10, 13])
def test_a_run_that_is_cut_and_resumed_is_the_run_bit_for_bit(rule, cut):
    whole = run(rule)
    task = Line()
    first = learner(task, rule)
    batches, found = task.train_batches(generator(0, "data")), []
    for new in train(first, batches, steps=30, eval_every=10, schedule=Schedule("constant", 0, 30), max_loss=1e4):
        found += new
        if first.step == cut:
            break
    found += first.read()
    second = learner(task, rule)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    found += rows_of(second, batches)
    key = lambda item: (item[1], item[0] != "StepRow", str(item))  # noqa: E731
    assert sorted(values(found)[:-1], key=key) == sorted(values(whole)[:-1], key=key)


def test_a_loss_that_is_not_finite_ends_the_run_as_diverged():
    rows = run(task=Line(explode_at=7))
    assert rows[-1].status == "diverged"
    assert rows[-1].steps == 7
    steps = [row for row in rows if isinstance(row, StepRow)]
    assert len(steps) == 7
    assert math.isinf(steps[-1].loss)
    assert rows[-1].skipped == 1


def test_a_loss_above_the_bound_ends_the_run_as_diverged():
    rows = run("none", lr=30.0)
    assert rows[-1].status == "diverged"
    last = [row for row in rows if isinstance(row, StepRow)][-1]
    assert not last.loss <= 1e4


def test_schedules_against_their_formulas():
    rates = [row.lr for row in run(steps=12, lr=1e-3, schedule=Schedule("cosine", 4, 12)) if isinstance(row, StepRow)]
    expected = [1e-3 * (i + 1) / 5 for i in range(4)] + [1e-3 * (1 + math.cos(math.pi * i / 8)) / 2 for i in range(8)]
    assert rates == pytest.approx(expected)
    assert [Schedule("linear", 0, 4)(i) for i in range(4)] == [1, 0.75, 0.5, 0.25]
    assert [Schedule("constant", 2, 9)(i) for i in (0, 1, 2, 8)] == pytest.approx([1 / 3, 2 / 3, 1, 1])


def test_uses_of_randomness_are_independent():
    numbers = {name: torch.rand(2, generator=generator(0, name)).tolist() for name in ("init", "data", "dropout", "clip")}
    assert len({tuple(value) for value in numbers.values()}) == 4


def test_bf16_trains():
    task = Line()
    one = learner(task)
    one.autocast = torch.autocast("cpu", torch.bfloat16)
    rows = rows_of(one, task.train_batches(generator(0, "data")), steps=60)
    losses = [row.loss for row in rows if isinstance(row, StepRow)]
    assert losses[-1] < losses[0] / 2


def test_evaluation_metrics_are_over_the_whole_split():
    task = Line()
    one = learner(task)
    one.model.eval()
    (x, y) = next(task.eval_batches("test"))
    with torch.no_grad():
        expected = (one.model(x) - y).square().mean().item()
    assert one.evaluate("test") == pytest.approx({"loss": expected, "mse": expected})
