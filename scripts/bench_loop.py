"""Steps per second of our training loop, everything recorded, over those of a bare loop that a user would
write.

python scripts/bench_loop.py [--blocks 12] [--steps 25] [--device auto] [OVERRIDE …]

Same model, batches and clipped optimizer; the two loops take turns, a block of steps each, in one process.
The ratio is the median over the blocks. Overrides are settings as on the command line, precision=bf16 for
instance.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import torch
from bench_step import machine

from clipbench.runs.build import build_learner, build_optimizer, build_task, find_device
from clipbench.runs.plan import Plan, make_plan
from clipbench.task import prepare_on_device
from clipbench.task.seeds import fresh_model, generator
from clipbench.train.batches import device_batches
from clipbench.train.loop import train

TASKS = ("imagenet", "voc", "cola", "reddit")


def bare(plan: Plan, device: torch.device) -> Iterator[None]:
    """The loop without a bench around it: one step each time."""
    settings = plan.settings
    task = build_task(settings, device)
    model = fresh_model(task, settings.seed).to(device)
    optimizer = build_optimizer(settings.optim, model, plan.rule)
    model.train()
    for batch in task.train_batches(generator(settings.seed, "data")):
        prepared = prepare_on_device(task, batch, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            outputs, targets = task.forward(model, prepared)
            loss = task.loss(outputs.float(), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


def ours(plan: Plan, device: torch.device) -> Iterator[object]:
    """The same with rows, metrics, clocks and the gradient's norms."""
    task = build_task(plan.settings, device)
    learner = build_learner(plan.settings, plan.rule, task, device)
    batches = device_batches(task, task.train_batches(generator(plan.settings.seed, "data")), device)
    return train([learner], batches, steps=10**9, eval_every=10**9)


def seconds(loop: Iterator[object], steps: int, wait: Callable[[], None]) -> float:
    wait()
    started = time.perf_counter()
    for _ in islice(loop, steps):
        pass
    wait()
    return time.perf_counter() - started


def waiting(device: torch.device) -> Callable[[], None]:
    """What waits for the device's queue to be done."""
    return torch.cuda.synchronize if device.type == "cuda" else torch.cpu.synchronize


def take_turns(
    loops: dict[str, Iterator[object]], blocks: int, steps: int, device: torch.device
) -> dict[str, np.ndarray]:
    """{loop: seconds a step of each block}; the first block of each, which warms, is left out."""
    wait = waiting(device)
    found: dict[str, list[float]] = {name: [] for name in loops}
    for block in range(blocks + 1):
        for name in sorted(loops, reverse=block % 2 == 1):
            found[name].append(seconds(loops[name], steps, wait) / steps)
    return {name: np.array(values[1:]) for name, values in found.items()}


def main(options: argparse.Namespace) -> None:
    device = find_device(options.device)
    print("| task | ms a step, bare | ms a step, ours | steps per second, ours / bare (quartiles) |")
    print("|---|---|---|---|")
    for task in TASKS:
        plan = make_plan([f"task={task}", "optim=adamw", *options.overrides])
        torch.set_num_threads(plan.settings.threads)
        loops = {"bare": bare(plan, device), "ours": ours(plan, device)}
        times = take_turns(loops, options.blocks, options.steps, device)
        low, middle, high = np.percentile(times["bare"] / times["ours"], [25, 50, 75])
        bare_ms, ours_ms = np.median(times["bare"]) * 1e3, np.median(times["ours"]) * 1e3
        ratio = f"{middle:.3f} ({low:.3f} to {high:.3f})"
        print(f"| {task} | {bare_ms:.2f} | {ours_ms:.2f} | {ratio} |", flush=True)
    given = " ".join(options.overrides) or "scale=mini"
    print(f"\n{options.blocks} blocks of {options.steps} steps, {given}. {machine(device)}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    parser.add_argument("--blocks", type=int, default=12, metavar="N", help="12 by default")
    parser.add_argument("--steps", type=int, default=25, metavar="N", help="in a block; 25 by default")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    main(parser.parse_args())
