"""The gradient's noise at fixed weights: ‖∇f_B − ∇f‖ over many batches B, before training and after so many
of a run's steps.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from clipbench.errors import UserError
from clipbench.output import listening
from clipbench.record import tables
from clipbench.record.files import check_writable, table_path
from clipbench.record.rows import NoiseRow, RunEnd
from clipbench.record.unread import READ_EVERY_STEPS
from clipbench.runs.build import build_learner, build_task, find_device
from clipbench.runs.plan import Plan, changed_since
from clipbench.runs.weights import KeptWeightsLost, load_weights
from clipbench.stats.tails import LEAST
from clipbench.task import Batch, Task
from clipbench.task.seeds import generator
from clipbench.task.tree import widened
from clipbench.train.batches import device_batches
from clipbench.train.learner import Learner

Batches = Callable[[int], Iterator[Batch]]  # the first so many, the same at every call
Tick = Callable[[str, int, int], None]  # what is being done, how much of it is done, of how much


SETTLING = 100  # batches for the statistics of batch normalisation
FURTHER = 10  # ∇f takes a whole pass where one has at most so many times the batches to measure


def parse_steps(given: str | None, steps: int) -> list[int]:
    """ "0,100,500" → [0, 100, 500]; None → start, half-way and end. UserError for what is no step of a run of
    `steps`.
    """
    if given is None:
        return sorted({0, steps // 2, steps})
    try:
        at = sorted({int(part) for part in given.split(",")})
    except ValueError:
        raise UserError(
            f"--at takes numbers of training steps separated by commas, as in --at 0,100,500; got '{given}'."
        ) from None
    if at[0] < 0 or at[-1] > steps:
        raise UserError(f"--at {given}: the run has steps 0 to {steps}. Leave the others out or set steps=.")
    return at


def measure_noise(
    plan: Plan, at: Sequence[int], count: int, tick: Tick | None = None, kept: bool = False
) -> pd.DataFrame:
    """Measure where it has not been done with as many batches yet, and write results/tails/<run>.parquet
    after each step of `at`. Its rows.

    `kept`: at the weights that the run has kept instead, so that nothing is trained; `at` is its last step.

    At least `count` batches: whole passes through the training set where it has fewer, or `count` of them
    where it has more. ∇f is the mean over whole passes all the same, unless one has more than ten times
    `count` batches: then over the measured ones. An incomplete last batch, which training leaves out, has no
    part in it. UserError for too few batches, or where the run diverges.
    """
    if count < LEAST:
        raise UserError(f"--batches {count}: at least {LEAST} are needed, 1000 to see a tail.")
    check_writable(plan.results)
    rows = _measured_before(plan)
    found = Counter(row["step"] for row in rows)
    missing = [step for step in at if found[step] < count]
    if missing:
        for step, measured in _measure(plan, missing, count, listening(tick), kept):
            rows = [row for row in rows if row["step"] != step] + measured
            rows.sort(key=lambda row: (row["step"], row["batch"]))
            tables.write_rows(plan.results, "tails", plan.run, rows)
    table = tables.read(plan.results, "tails", runs=[plan.run])
    return table[table["step"].isin(at)]


def _measured_before(plan: Plan) -> list[dict[str, Any]]:
    if not table_path(plan.results, "tails", plan.run).exists():
        return []
    rows = tables.read(plan.results, "tails", runs=[plan.run]).to_dict("records")
    return [row for row in rows if pd.notna(row["drawn"])]  # earlier versions measured on augmented batches


def _measure(
    plan: Plan, at: Sequence[int], count: int, tick: Tick, kept: bool
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """(step, rows) at each step of `at`, while the run trains from one to the next. UserError where it
    diverges before.
    """
    settings = plan.settings
    device = find_device(settings.device)
    torch.set_num_threads(settings.threads)
    task = build_task(settings, device)
    if change := changed_since(plan):
        raise UserError(change)
    learner = build_learner(settings, plan.rule, task, device)
    if kept:
        take_kept_weights(learner, plan)
    epoch = float(task.steps_per_epoch) if math.isfinite(task.steps_per_epoch) else math.nan
    number, full = amounts(epoch, count)

    def first_batches(number: int) -> Iterator[Batch]:
        batches = task.plain_batches(generator(settings.seed, "tails"))
        with closing(device_batches(task, batches, device)) as placed:
            for each in islice(placed, number):
                yield each.batch

    batches = task.train_batches(generator(settings.seed, "data"))
    with closing(device_batches(task, batches, device)) as training:
        for step in at:
            while learner.step < step:
                learner.learn(*islice(training, settings.accumulate))
                _check(learner, step)
                tick("training", learner.step, step)
            model = fixed(task, learner.model, first_batches, full)
            progress = partial(_tick_measured, tick, step, full + number)
            about: dict[str, Any] = {
                "label": plan.label,
                "data": task.data,
                "step": step,
                "drawn": task.drawn,
                "passes": number / epoch,
                "full_passes": full / epoch,
            }
            rows = []
            for i, norms in enumerate(batch_norms(task, model, first_batches, number, full, progress)):
                columns = about | {"batch": i} | norms
                rows.append(asdict(NoiseRow(**columns)))
            yield step, rows


def take_kept_weights(learner: Learner, plan: Plan) -> None:
    """Put the learner where the run ended. UserError where its weights are not kept."""
    try:
        load_weights(learner.model, plan.model_path)
    except KeptWeightsLost as error:
        raise UserError(
            f"{plan.label}: {error}. {plan.command} keep=model trains it again and keeps them."
        ) from error
    learner.step = plan.settings.steps


def _tick_measured(tick: Tick, step: int, total: int, done: int) -> None:
    tick(f"step {step}", done, total)


def amounts(epoch: float, count: int) -> tuple[int, int]:
    """(batches to measure, batches that ∇f is the mean of) where a pass has `epoch` batches, NaN: no end."""
    if not epoch <= FURTHER * count:
        return count, count
    number = int(epoch) * math.ceil(count / epoch) if count >= epoch else count
    return number, max(number, int(epoch))


def _check(learner: Learner, step: int) -> None:
    """UserError where the run has diverged, as far as has been read: now and then, and at `step`."""
    if len(learner.unread) < READ_EVERY_STEPS and learner.step < step:
        return
    rows = learner.read()
    if rows and isinstance(rows[-1], RunEnd):
        steps = rows[-1].steps
        raise UserError(
            f"The run diverged at step {steps}. Give earlier steps, as in --at 0,{steps // 2}, or lower "
            "optim.lr."
        )


def fixed(task: Task, model: nn.Module, batches: Batches, available: int) -> nn.Module:
    """A copy in evaluation mode, so that f is the mean of the batches' losses and nothing is drawn.

    Batch normalisation takes the statistics of the training data at these weights, from up to 100 batches of
    the `available`: before training it has none.
    """
    model = copy.deepcopy(model).eval()
    layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    layers = [layer for layer in layers if layer.track_running_stats]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # plain means over the batches
        layer.train()
    if layers:
        with torch.no_grad():
            for batch in batches(min(SETTLING, available)):
                task.forward(model, batch)
    return model.eval()


def batch_norms(
    task: Task,
    model: nn.Module,
    batches: Batches,
    number: int,
    full: int,
    tick: Callable[[int], None],
) -> list[dict[str, float]]:
    """loss, ‖∇f_B‖, ‖∇f‖ and ‖∇f_B − ∇f‖ of the first `number` batches; ∇f is the mean of the first `full`
    ∇f_B.

    Batches are gone through twice, so that memory holds two gradients and not all. A batch's gradient is
    computed in float32; sums and differences are float64, so that a mean over many batches loses nothing.
    That is not exact: at the starting weights of the mini tasks the norms differ from those of float64
    throughout by up to 2e-7 (cola), 2e-4 (voc) and 2e-3 (imagenet) of themselves. UserError where a gradient
    is not finite.
    """
    params = [p for p in model.parameters() if p.requires_grad]
    wide = params[0].device
    if wide.type == "mps":  # which has no float64
        wide = torch.device("cpu")
    mean = [torch.zeros_like(p, device=wide, dtype=torch.float64) for p in params]
    done = 0
    for _, grads in _gradients(task, model, params, batches(full), wide):
        done += 1
        torch._foreach_add_(mean, grads)
        tick(done)
    torch._foreach_div_(mean, done)
    full_norm = norm(mean)
    rows = []
    for i, (loss, grads) in enumerate(_gradients(task, model, params, batches(number), wide)):
        size = norm(grads)
        if not math.isfinite(size):
            raise UserError(
                f"The gradient of batch {i} is not finite at these weights. Lower optim.lr or leave the step "
                "out of --at."
            )
        difference = norm(torch._foreach_sub(grads, mean))
        rows.append({"loss": loss, "grad_norm": size, "full_norm": full_norm, "noise_norm": difference})
        tick(done + i + 1)
    return rows


def _gradients(
    task: Task, model: nn.Module, params: list[nn.Parameter], batches: Iterator[Batch], device: torch.device
) -> Iterator[Any]:
    """(loss, gradients in float64 on `device`) of each batch."""
    for batch in batches:
        outputs, targets = task.forward(model, batch)
        loss = task.loss(widened(outputs), targets)
        grads = torch.autograd.grad(loss, params, allow_unused=True, materialize_grads=True)
        yield loss.item(), [grad.to(device, torch.float64) for grad in grads]


def norm(tensors: Sequence[Tensor]) -> float:
    """L2, over all of them."""
    return math.sqrt(sum(float(tensor.square().sum()) for tensor in tensors))
