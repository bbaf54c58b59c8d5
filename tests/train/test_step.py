"""From batches to gradients: the accumulated one is the weighted mean of the batches' own, on every task; and
what runs make of it.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from functools import cache
from itertools import islice

import pytest
import torch
from test_train import CPU, learner, together, values
from tiny import Line
from torch import Tensor, nn

from clipbench.optim.laws import Waits
from clipbench.record.rows import EvalRow, RunEnd, StepRow
from clipbench.runs.build import build_task
from clipbench.runs.config import load
from clipbench.task import Task
from clipbench.task.metrics import MeanSquaredError
from clipbench.task.probe import first_batches
from clipbench.task.seeds import fresh_model, generator
from clipbench.task.tree import map_tensors
from clipbench.tasks.streams import Windows
from clipbench.tasks.voc import VOID, DigitScenes
from clipbench.train.batches import device_batches
from clipbench.train.evaluation import Evaluation, evaluate
from clipbench.train.step import Accumulate, Plain, make_step

SCENES = DigitScenes(batch_size=2, size=16, width=2)
NO_CAST = torch.autocast("cpu", enabled=False)


@cache
def task_named(name: str):
    small = {
        "voc": ["task.size=16", "task.width=4", "batch_size=6"],
        "imagenet": ["task.size=8", "batch_size=9"],
        "lm": ["task.width=16", "task.context=16", "batch_size=9"],
    }
    return build_task(load([f"task={name}", *small.get(name, [])]), CPU)


def in_float64(batch):
    return map_tensors(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, batch)


def cut(name: str, batch, n: int):
    """The first n of what a batch's loss is over; of a scene's pixels all below row n void."""
    if name == "reddit":
        return batch._replace(nodes=batch.nodes[:n], labels=batch.labels[:n])
    if name == "cola":
        inputs, labels = batch
        return {key: value[:n] for key, value in inputs.items()}, labels[:n]
    if name == "lm":
        return Windows(*(part[:n] for part in batch))
    images, targets = batch
    if name == "voc":
        masked = targets.clone()
        masked[:, n:] = VOID
        return images, masked
    return images[:n], targets[:n]


def counted(name: str, targets: Tensor) -> int:
    """By hand: pixels that are not void, 16 bytes a window, rows everywhere else."""
    if name == "lm":
        return 16 * len(targets)
    return int((targets != 255).sum()) if name == "voc" else targets.shape[0]


@pytest.mark.parametrize("name", ["cola", "imagenet", "lm", "reddit", "voc"])
def test_the_accumulated_gradient_is_the_mean_weighted_by_what_each_counts(name: str):
    task = task_named(name)
    model = fresh_model(task, 0).double().train()
    batches = [
        in_float64(cut(name, batch, n)) for batch, n in zip(first_batches(task, 0, 3), (4, 9, 7), strict=True)
    ]
    params = list(model.parameters())
    numerator, counts, losses = [torch.zeros_like(p) for p in params], [], []
    for batch in batches:
        outputs, targets = task.forward(model, batch)
        loss = task.loss(outputs, targets)
        counts.append(counted(name, targets))
        losses.append(loss.item() * counts[-1])
        grads = torch.autograd.grad(loss, params, allow_unused=True, materialize_grads=True)
        for total, grad in zip(numerator, grads, strict=True):
            total += grad * counts[-1]
    assert len(set(counts)) == 3
    optimizer = torch.optim.SGD(params, lr=0.1)
    measured = Accumulate(3)(task, model, optimizer, batches, NO_CAST)
    for p, total in zip(params, numerator, strict=True):
        found = torch.zeros_like(p) if p.grad is None else p.grad
        torch.testing.assert_close(found, total / sum(counts), rtol=1e-10, atol=1e-13)
    assert measured.loss.item() == pytest.approx(sum(losses) / sum(counts), rel=1e-12)
    assert len(measured.seen) == 3
    assert measured.loss.dtype == torch.float64


def test_batches_of_one_size_give_the_gradient_of_the_joined_batch():
    task = Line()
    model = fresh_model(task, 0).double().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [in_float64(batch) for batch in first_batches(task, 0, 4)]
    Accumulate(4)(task, model, optimizer, batches, NO_CAST)
    found = [p.grad.clone() for p in model.parameters()]
    optimizer.zero_grad()
    joined = tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
    Plain()(task, model, optimizer, [joined], NO_CAST)
    for one, p in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(one, p.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("void", [0, 1, 2])
def test_a_batch_that_counts_nothing_has_no_part(void: int):
    """First, between or last: its mean over nothing is NaN."""
    task = SCENES
    model = fresh_model(task, 0).double().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [in_float64(batch) for batch in first_batches(task, 0, 3)]
    others = [batch for i, batch in enumerate(batches) if i != void]
    expected = Accumulate(2)(task, model, optimizer, others, NO_CAST)
    grads = [p.grad.clone() for p in model.parameters()]
    optimizer.zero_grad()
    batches[void] = (batches[void][0], torch.full_like(batches[void][1], VOID))
    found = Accumulate(3)(task, model, optimizer, batches, NO_CAST)
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-12)
    for one, p in zip(grads, model.parameters(), strict=True):
        torch.testing.assert_close(p.grad, one, rtol=1e-9, atol=1e-13)


class Masked(Task):
    """A masked mean written out, which is 0/0 where the mask is empty."""

    headline = "mse"

    def model(self, rng):
        return torch.nn.Linear(3, 1)

    def train_batches(self, rng):
        raise NotImplementedError

    def eval_batches(self, split):
        raise NotImplementedError

    def forward(self, model, batch):
        return model(batch[0]).squeeze(1), batch[1]

    def loss(self, outputs, targets):
        mask = targets >= 0
        return ((outputs - targets) ** 2 * mask).sum() / mask.sum()

    def count(self, targets):
        return (targets >= 0).sum()

    def metrics(self):
        return {"mse": MeanSquaredError()}


@pytest.mark.parametrize("empty", [0, 1])
def test_a_mean_over_nothing_that_is_not_a_number_has_no_part_in_the_gradient(empty: int):
    task = Masked()
    model = task.model(None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    full = (torch.randn(4, 3), torch.rand(4))
    void = (torch.randn(4, 3), -torch.ones(4))
    batches = [void, full] if empty == 0 else [full, void]
    measured = Accumulate(2)(task, model, optimizer, batches, nullcontext())
    found = [p.grad.clone() for p in model.parameters()]
    optimizer.zero_grad()
    alone = Plain()(task, model, optimizer, [full], nullcontext())
    for grad, p in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(grad, p.grad)
    torch.testing.assert_close(measured.loss, alone.loss)


def test_a_million_things_a_batch_do_not_overflow_half_precision():
    """float16 ends at 65504: weights of n_i, and not of n_i / n_1, would pass it."""

    class Many(Line):
        def count(self, targets):
            return 1_000_000

    task = Many()
    model = fresh_model(task, 0).half().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [map_tensors(Tensor.half, batch) for batch in first_batches(task, 0, 2)]
    Accumulate(2)(task, model, optimizer, batches, NO_CAST)
    grads = [p.grad.float() for p in model.parameters()]
    assert all(bool(grad.isfinite().all()) for grad in grads)
    assert sum(grad.norm() for grad in grads) > 0.1


def test_the_key_gives_the_step():
    assert make_step(1) == Plain()
    assert (make_step(4), make_step(4).batches) == (Accumulate(4), 4)
    for wrong in (0, -1, 1.5, True, "2"):
        with pytest.raises(ValueError, match="accumulate must be a whole number of at least 1"):
            make_step(wrong)


def waits_of_a_step(step, task) -> int:
    one = learner(task, step=step)
    batches = device_batches(task, task.train_batches(generator(0, "data")), CPU)
    one.learn(*islice(batches, step.batches))
    second = list(islice(batches, step.batches))
    with Waits() as waits:
        one.learn(*second)
    return waits.count


@pytest.mark.parametrize("task", [Line(), SCENES], ids=["rows", "pixels"])
def test_accumulation_never_waits_for_the_device(task):
    assert waits_of_a_step(Accumulate(3), task) == waits_of_a_step(Plain(), task)


# --- runs


def accumulated(rule: str = "norm", steps: int = 12, task: Line | None = None, k: int = 3):
    task = task or Line()
    return together([learner(task, rule, steps=steps, step=make_step(k))], steps=steps, eval_every=6)[0]


def test_rows_of_an_accumulated_run_are_those_of_a_plain_loop():
    """By hand: three batches a step, dropout drawn on through them, the mean of their losses, clipped by
    torch.
    """
    task = Line()
    rows = [row for row in accumulated() if isinstance(row, StepRow)]
    model = fresh_model(task, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    batches = task.train_batches(generator(0, "data"))
    torch.manual_seed(generator(0, "dropout").initial_seed())
    squares = []
    for row in rows:
        optimizer.zero_grad()
        losses = []
        for x, y in islice(batches, 3):
            outputs = model(x)
            losses.append((outputs - y).square().mean())
            squares.append((outputs - y).detach().square())
        loss = torch.stack(losses).mean()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        assert (row.loss, row.grad_norm) == pytest.approx((loss.item(), norm.item()), rel=1e-4)
        assert row.epoch == pytest.approx(3 * row.step / 8)
        if row.step == 6:
            expected = torch.cat(squares).mean().item()
    found = [
        row for row in accumulated() if isinstance(row, EvalRow) and (row.step, row.split) == (6, "train")
    ]
    assert [row.value for row in found] == [pytest.approx(expected, rel=1e-4)]


@pytest.mark.parametrize("rule", ["norm", "linear_rand_norm"])
def test_an_accumulated_run_that_is_cut_and_resumed_is_the_run_bit_for_bit(rule: str):
    whole, task = accumulated(rule), Line()
    early = learner(task, rule, steps=12, step=Accumulate(3))
    found = together([early], steps=12, eval_every=6, until=5)[0]
    late = learner(task, rule, steps=12, step=Accumulate(3))
    late.load_state_dict(copy.deepcopy(early.state_dict()))
    found += together([late], steps=12, eval_every=6)[0]
    assert values(found) == values(whole)


def test_accumulating_side_by_side_is_accumulating_alone():
    task = Line()
    rules = ["none", "auto", "linear_rand_norm"]
    group = [learner(task, rule, steps=12, step=Accumulate(3)) for rule in rules]
    for rule, rows in zip(rules, together(group, steps=12, eval_every=6), strict=True):
        assert values(rows) == values(accumulated(rule))


def test_learners_of_two_paces_do_not_go_side_by_side():
    task = Line()
    with pytest.raises(ValueError, match=r"the same number of batches a step, got \[1, 3\]"):
        together([learner(task), learner(task, step=Accumulate(3))])


class Reduced(Line):
    """Returns sums only, as a language model with a large vocabulary would: a mean over half of the rows, the
    others masked.
    """

    def forward(self, model, batch):
        x, y = batch
        squares = (model(x) - y).square().flatten()
        weights = (y.flatten() > -1).to(squares.dtype)
        return {"loss_sum": (squares * weights).sum(), "count": weights.sum()}, y

    def loss(self, outputs, targets):
        return outputs["loss_sum"] / outputs["count"]

    def count(self, targets):
        return (targets > -1).sum()

    def metrics(self):
        return {"mse": SumOverCount()}


class SumOverCount:
    higher_is_better = False

    def __init__(self):
        self.reset()

    def reset(self):
        self.total, self.count = 0.0, 0.0

    def update(self, outputs, targets):
        self.total = self.total + outputs["loss_sum"]
        self.count = self.count + outputs["count"]

    def compute(self):
        return self.total / self.count


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("k", [1, 3])
def test_a_task_may_return_sums_only(precision: str, k: int):
    task = Reduced()
    one = learner(task, steps=40, step=make_step(k), precision=precision)
    rows = together([one], steps=40, eval_every=20)[0]
    assert rows[-1] == RunEnd("done", 40, rows[-1].seconds, 0)
    by_metric = {
        (row.split, row.metric): row.value for row in rows if isinstance(row, EvalRow) and row.step == 40
    }
    assert by_metric["val", "mse"] == pytest.approx(by_metric["val", "loss"], rel=1e-5)
    losses = [row.loss for row in rows if isinstance(row, StepRow)]
    assert sum(losses[-5:]) < sum(losses[:5]) / 2


class Parted(Reduced):
    """The test split in batches of unequal counts."""

    def eval_batches(self, split):
        for rows in (slice(160, 161), slice(161, 170), slice(170, 192)):
            yield self.x[rows], self.y[rows]


def test_evaluation_weighs_batches_by_what_they_count():
    task = Parted()
    one = learner(task)
    model = one.model.eval()
    x, y = task.x[160:], task.y[160:]
    seen = (y > -1).flatten()
    assert 0 < seen.sum() < len(y)
    with torch.no_grad():
        expected = (model(x) - y)[seen].square().mean().item()
    assert evaluate(one, "test") == pytest.approx({"loss": expected, "mse": expected}, rel=1e-5)


def test_an_evaluation_batch_of_void_alone_does_not_make_the_loss_nan():
    task = SCENES
    one = learner(task)
    evaluation, other = Evaluation(one), Evaluation(one)
    images, masks = next(iter(task.eval_batches("val")))
    evaluation.update((images, masks))
    other.update((images, masks))
    other.update((images, torch.full_like(masks, VOID)))
    assert other.values() == evaluation.values()


def test_targets_without_rows_need_a_count():
    class Rowless(Line):
        def forward(self, model, batch):
            return model(batch[0]), (batch[1].sum(), 3)

    task = Rowless()
    with pytest.raises(
        TypeError, match=r"Rowless\.forward gives targets that have no rows .* count\(targets\)"
    ):
        task.count(task.forward(nn.Linear(5, 1), (task.x, task.y))[1])
