"""The loop: rows that say what happened, runs that can be paired, interrupted and repeated bit for bit."""

import copy
import math
import weakref
from dataclasses import replace

import pytest
import torch
from tiny import Line

from clipbench.errors import UserError
from clipbench.optim import RULES, clip_gradients, make_rule
from clipbench.record.rows import EvalRow, RunEnd, StepRow
from clipbench.runs.checkpoint import COMPACT_AFTER, RecordedRows
from clipbench.task.seeds import device_generator, fresh_model, generator
from clipbench.train.batches import BatchTiming, Stopwatch, device_batches, waiting_time
from clipbench.train.evaluation import evaluate
from clipbench.train.learner import Learner
from clipbench.train.loop import train
from clipbench.train.schedule import Schedule

CPU = torch.device("cpu")


def learner(
    task,
    rule="norm",
    seed=0,
    lr=0.05,
    steps=30,
    schedule=None,
    max_loss=1e4,
    step=None,
    precision="fp32",
    **settings,
):
    model = fresh_model(task, seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, fused=True)
    clip_gradients(optimizer, make_rule(rule, **settings), rng=device_generator(seed, "clip", CPU))
    schedule = schedule or Schedule("constant", 0, steps)
    return Learner(
        task,
        model,
        optimizer,
        seed=seed,
        device=CPU,
        precision=precision,
        schedule=schedule,
        max_loss=max_loss,
        step=step,
    )


class ReadAt:
    """No step is left unread at one."""

    def __init__(self, step):
        self.step = step

    def reads_at(self, step):
        return step == self.step


def together(learners, steps=30, eval_every=10, seed=0, until=None):
    """Each learner's rows; cut once step `until` is read, if given."""
    task = learners[0].task
    start = min(one.step for one in learners) * learners[0].batches_per_step
    batches = device_batches(task, task.train_batches(generator(seed, "data")), CPU, start)
    found = {one: [] for one in learners}
    loop = train(learners, batches, steps=steps, eval_every=eval_every, readings=ReadAt(until))
    for new in loop:
        for one, rows in new.items():
            found[one] += rows
        if learners[0].step == until:
            assert not learners[0].unread
            break
    return list(found.values())


def run(rule="norm", seed=0, task=None, steps=30, lr=0.05, schedule=None, **settings):
    return together([learner(task or Line(), rule, seed, lr, steps, schedule, **settings)], steps, seed=seed)[
        0
    ]


def values(rows):
    """Everything but times, NaN as text."""
    found = []
    for row in rows:
        fields = vars(row) | {"seconds": None}
        found.append((type(row).__name__, *("nan" if v != v else v for v in fields.values())))
    return found


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
    assert rows[-1] == RunEnd("done", 30, rows[-1].seconds, 0)
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
    task = Line()
    rules = list(RULES)
    found = together([learner(task, rule) for rule in rules])
    for rule, rows in zip(rules, found, strict=True):
        assert values(rows) == values(run(rule)), rule


def test_one_that_diverges_or_raises_leaves_and_the_others_go_on_unchanged():
    task = Line()
    one, wild, broken, three = (
        learner(task),
        learner(task, "none", lr=30.0),
        learner(task),
        learner(task, "auto"),
    )
    step = broken.optimizer.step

    def fail():
        if broken.step == 12:
            raise RuntimeError("this one has had enough")
        return step()

    broken.optimizer.step = fail
    found = together([one, wild, broken, three])
    assert [values(found[0]), values(found[3])] == [values(run("norm")), values(run("auto"))]
    assert found[1][-1].status == "diverged"
    assert (found[2][-1].status, found[2][-1].steps) == ("failed", 12)
    assert "this one has had enough" in found[2][-1].error


def test_one_that_is_ahead_joins_when_its_step_comes():
    """After a crash, checkpoints of a group may be of different steps."""
    task = Line()
    ahead = learner(task, "auto")
    early = together([ahead], steps=13)[0]
    found = together([learner(task, "norm"), ahead])
    assert values(found[0]) == values(run("norm"))
    both = [row for row in early + found[1] if isinstance(row, StepRow)]
    assert values(both) == values(row for row in run("auto") if isinstance(row, StepRow))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("cut", [1, 10, 13])
def test_a_run_that_is_cut_and_resumed_is_the_run_bit_for_bit(rule, cut):
    whole = run(rule)
    task = Line()
    first = learner(task, rule)
    found = together([first], until=cut)[0]
    second = learner(task, rule)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    found += together([second])[0]
    assert values(found) == values(whole)


def test_a_waiting_time_that_other_runs_hide_is_added_again():
    """Worker processes make a batch every 50 ms.

    Alone, a run that needs 30 ms would wait 20; beside many others it never does.
    """
    stopwatch = Stopwatch(CPU)
    with stopwatch:
        pass
    timing = BatchTiming(stopwatch, interval=0.05)
    assert waiting_time([timing], own=0.03) == pytest.approx(0.02)
    assert waiting_time([timing], own=0.08) == stopwatch.seconds < 1e-3
    assert waiting_time([timing] * 3, own=0.03) == pytest.approx(0.12)  # three batches a step


def test_batches_that_end_are_a_mistake_of_the_tasks():
    task = Line()
    for start in (0, 3):  # while they are trained on, and while earlier ones are left out
        ending = iter([next(task.train_batches(generator(0, "data")))])
        batches = device_batches(task, ending, CPU, start)
        with pytest.raises(UserError, match="train_batches ended"):
            list(train([learner(task)], batches, steps=30, eval_every=10))


class Counting:
    """An iterator of a user's with members of `Batches`, without inheriting it."""

    interval = 0.25

    def __init__(self):
        self.next, self.closed = 0, False

    def __next__(self):
        self.next += 1
        return torch.tensor(self.next)

    def skip(self, number):
        self.next += number

    def close(self):
        self.closed = True


def test_what_an_iterator_can_do_is_used():
    """`skip` leaves batches out without making them, `interval` is known, `close` is called; a generator does
    without all.
    """
    source = Counting()
    batches = device_batches(Line(), source, CPU, start=100)
    first = next(batches)
    assert (first.batch.item(), first.timing.interval) == (101, 0.25)
    batches.close()
    assert source.closed
    plain = device_batches(Line(), (torch.tensor(i) for i in range(9)), CPU, start=4)
    first = next(plain)
    assert (first.batch.item(), first.timing.interval) == (4, 0.0)


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
    rates = [
        row.lr
        for row in run(steps=12, lr=1e-3, schedule=Schedule("cosine", 4, 12))
        if isinstance(row, StepRow)
    ]
    expected = [1e-3 * (i + 1) / 5 for i in range(4)] + [
        1e-3 * (1 + math.cos(math.pi * i / 8)) / 2 for i in range(8)
    ]
    assert rates == pytest.approx(expected)
    assert [Schedule("linear", 0, 4)(i) for i in range(4)] == [1, 0.75, 0.5, 0.25]
    assert [Schedule("constant", 2, 9)(i) for i in (0, 1, 2, 8)] == pytest.approx([1 / 3, 2 / 3, 1, 1])


def test_uses_of_randomness_are_independent():
    drawn = set()
    for name in ("init", "data", "dropout", "clip"):
        drawn.add(tuple(torch.rand(2, generator=generator(0, name)).tolist()))
    assert len(drawn) == 4


def test_bf16_trains():
    task = Line()
    one = learner(task)
    one.autocast = torch.autocast("cpu", torch.bfloat16)
    rows = together([one], steps=60)[0]
    losses = [row.loss for row in rows if isinstance(row, StepRow)]
    assert losses[-1] < losses[0] / 2


def test_evaluation_metrics_are_over_the_whole_split():
    task = Line()
    one = learner(task)
    one.model.eval()
    (x, y) = next(task.eval_batches("test"))
    with torch.no_grad():
        expected = (one.model(x) - y).square().mean().item()
    assert evaluate(one, "test") == pytest.approx({"loss": expected, "mse": expected})


def test_what_a_step_leaves_until_it_is_read_is_three_numbers():
    """64 steps may wait to be read: their inputs must not."""
    task = Line()
    one = learner(task)
    batches = device_batches(task, task.train_batches(generator(0, "data")), CPU)
    seen = []
    for _ in range(20):
        taken = next(batches)
        seen.append(weakref.ref(taken.batch[0]))
        one.learn(taken)
    del taken
    assert len(one.unread) == 20
    assert sum(ref() is not None for ref in seen) <= 1  # the generator's own, until it is asked again
    kept = [step.values for step in one.unread]
    assert all(values.numel() == 3 and values.untyped_storage().nbytes() == 12 for values in kept)


def test_many_steps_are_kept_in_64_bytes_each():
    rows, part, count = RecordedRows(), 64, 100_000
    for first in range(0, count, part):
        for step in range(first, min(first + part, count)):
            rows.add([StepRow(step + 1, 0.5, 1.5, 0.1, 2.0, 1.0, 0.5, 1e-3)])
    assert len(rows.steps) < COMPACT_AFTER + part
    assert sum(each.untyped_storage().nbytes() for each in rows.compact) <= 64 * count
    assert len(rows.state_dict()["steps"]) == count


def gradients_broken_from(step, until=10**9):
    """A task whose loss is finite and whose gradient is not, from one step to another."""

    class Broken(Line):
        def loss(self, outputs, targets):
            loss = super().loss(outputs, targets)
            if loss.requires_grad and step <= self.seen <= until:
                loss.register_hook(lambda gradient: gradient * math.inf)
            return loss

    return Broken()


@pytest.mark.parametrize(
    ("broken", "status"),
    [
        ((13, 10**9), "diverged"),  # every later step is skipped
        ((1, 10**9), "diverged"),
        ((28, 10**9), "diverged"),
        ((29, 10**9), "done"),  # the last two: they may be bad batches
        ((13, 29), "done"),  # the last step is taken
    ],
)
def test_a_run_that_takes_no_step_any_more_has_diverged(broken, status):
    one = learner(gradients_broken_from(*broken))
    [rows] = together([one])
    first, last = broken
    skipped = min(last, 30) - first + 1
    assert (rows[-1].status, rows[-1].steps, rows[-1].skipped) == (status, 30, skipped)
    assert [row.split for row in rows if isinstance(row, EvalRow) and row.step == 30].count("test") >= 1


def test_skipped_steps_are_counted_on_after_a_checkpoint():
    one = learner(gradients_broken_from(28))
    together([one], until=29)
    other = learner(gradients_broken_from(28))
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    [rows] = together([other])
    assert rows[-1].status == "diverged"


def test_training_to_a_step_and_on_from_there_is_training_at_once():
    def made(one, until):
        task, start = one.task, one.step
        batches = device_batches(task, task.train_batches(generator(0, "data")), CPU, start)
        found = []
        for new in train([one], batches, steps=30, eval_every=10, until=until):
            found += new.get(one, [])
        return found

    one = learner(Line())
    begin = made(one, 10)
    assert begin[-1] == RunEnd("stopped", 10, one.seconds, 0)
    other = learner(Line())
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    rows = begin[:-1] + made(other, None)
    [expected] = together([learner(Line())])
    assert [timeless(row) for row in rows] == [timeless(row) for row in expected]
    assert made(one, 10)[-1].status == "stopped"  # it is there already


def timeless(row):
    return replace(row, seconds=0.0)
