"""Steps per second of our training loop, everything recorded, over those of a bare loop that a user would write.

python scripts/bench_loop.py [--blocks 12] [--steps 25] [--device auto] [WORD …]

Same model, batches and clipped optimizer; the two loops take turns, a block of steps each, in one process. The ratio is the median over the
blocks. Further words are settings as on the command line, precision=bf16 for instance.
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
from clipbench.task import place
from clipbench.task.seeds import fresh_model, generator
from clipbench.train.batches import serve
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
        placed = place(task, batch, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            outputs, targets = task.forward(model, placed)
            loss = task.loss(outputs.float(), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


def ours(plan: Plan, device: torch.device) -> Iterator[object]:
    task = build_task(plan.settings, device)
    batches = serve(task, task.train_batches(generator(plan.settings.seed, "data")), device)
    return train(
        [build_learner(plan.settings, plan.rule, task, device)], batches, steps=10**9, eval_every=10**9
    )


def seconds(loop: Iterator[object], steps: int, wait: Callable[[], None]) -> float:
    wait()
    started = time.perf_counter()
    for _ in islice(loop, steps):
        pass
    wait()
    return time.perf_counter() - started


def main(options: argparse.Namespace) -> None:
    device = find_device(options.device)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    print(
        "| task | ms a step, bare | ms a step, ours | steps per second, ours / bare (quartiles) |\n|---|---|---|---|"
    )
    for task in TASKS:
        plan = make_plan([f"task={task}", "optim=adamw", *options.words])
        torch.set_num_threads(plan.settings.threads)
        loops = {"bare": bare(plan, device), "ours": ours(plan, device)}
        found: dict[str, list[float]] = {name: [] for name in loops}
        for i in range(options.blocks + 1):  # the first warms
            for name in sorted(loops, reverse=i % 2 == 1):
                found[name].append(seconds(loops[name], options.steps, wait) / options.steps * 1e3)
        times = {name: np.array(values[1:]) for name, values in found.items()}
        low, middle, high = np.percentile(times["bare"] / times["ours"], [25, 50, 75])
        cells = [f"{np.median(times[name]):.2f}" for name in ("bare", "ours")]
        print(f"| {task} | {' | '.join(cells)} | {middle:.3f} ({low:.3f} to {high:.3f}) |", flush=True)
    print(
        f"\n{options.blocks} blocks of {options.steps} steps, {' '.join(options.words) or 'scale=mini'}. {machine(device)}."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--blocks", type=int, default=12, metavar="N", help="12 by default")
    parser.add_argument("--steps", type=int, default=25, metavar="N", help="in a block; 25 by default")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    main(parser.parse_args())
