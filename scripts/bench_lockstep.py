"""What runs side by side cost: the wall time of 16 over that of one, and over 16 one by one. A table in
Markdown.

python scripts/bench_lockstep.py [--steps 30] [--runs 16] [--repeats 3] [--device auto] [--only TEXT]

The clock runs while the steps are made, the run is evaluated once and its tables are written; imports and
loading the data are left out, since a real run has many more steps. One thread a run. The three ways take
turns, and medians are shown: first in one worker, then, where the machine has several, in the workers that a
sweep has by default.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from clipbench.runs.build import find_device
from clipbench.runs.events import Begun, Ended
from clipbench.runs.lockstep import train_group
from clipbench.runs.plan import Plan
from clipbench.sweeps.grid import make_plans
from clipbench.sweeps.groups import groups_of
from clipbench.sweeps.slots import Slot, slots

WORKLOADS = {
    "imagenet (mini)": "task=imagenet",
    "voc (mini)": "task=voc",
    "cola (mini)": "task=cola",
    "reddit (mini)": "task=reddit",
    "JPEG files, ResNet18 at 64 px": (
        "task=imagenet scale=full task.data={folder}/images task.size=64 batch_size=64"
    ),
    "sampling in a graph of 2 million edges": "task=large_graph batch_size=1024",
}
LARGE_GRAPH = '''
from functools import cache, cached_property
import torch
from clipbench.tasks.reddit import Batch, Graph, MiniReddit, communities

@cache
def data():
    return communities(nodes=100_000, features=100, edges=1_000_000)

@cache
def graph(device):
    return Graph(data().x.to(device), data().edge_index.to(device))

class LargeGraph(MiniReddit):
    """Loaded once a process; evaluated on a sample, so that the clock sees training."""
    source = "a larger generated community graph"
    loaded = cached_property(lambda self: data())
    graph = cached_property(lambda self: graph(self.device))

    def eval_batches(self, split):
        nodes = self.nodes[split][:1024].to(self.device)
        hops = self.graph.sample(nodes, self.fanouts, torch.Generator(self.device).manual_seed(0))
        yield Batch(self.graph.x, hops, hops[-1].targets, self.labels[nodes])
'''
TASK = """\
name: large_graph
_target_: large_graph.LargeGraph
batch_size: ${batch_size}
device: ${device}
fanouts: [10, 10]
hidden: 128
"""


def prepare(folder: Path) -> None:
    """Images of 256 pixels as an ImageNet folder, some 20 kB each, and the task of the larger graph."""
    rng = np.random.default_rng(0)
    for i in range(1400):
        path = folder / "images" / ("val" if i < 100 else "train") / f"class{i % 10}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        shapes = coarse.resize((256, 256), Image.Resampling.BICUBIC)
        noisy = np.asarray(shapes) + rng.normal(0, 12, (256, 256, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=85)
    (folder / "task").mkdir()
    (folder / "task" / "large_graph.yaml").write_text(TASK)
    (folder / "large_graph.py").write_text(LARGE_GRAPH)


def seconds_of_group(plans: Sequence[Plan]) -> float:
    """From the moment when all are loaded until the last is recorded."""
    labels, started = {plan.run: plan.label for plan in plans}, 0.0
    for event in train_group(plans):
        match event:
            case Begun():
                started = time.perf_counter()
            case Ended(run, row) if row["status"] != "done":
                raise SystemExit(f"{labels[run]} has {row['status']}: {row['error']}")
    return time.perf_counter() - started


def seconds_of_slot(job: tuple[tuple[int, ...], list[list[Plan]]]) -> float:
    """Its groups, one after the other. In a process of the pool."""
    cores, groups = job
    if cores:
        os.sched_setaffinity(0, cores)
    return sum(map(seconds_of_group, groups))


class Bench:
    """Processes that stay, so that imports are paid once; a fresh results folder for every measurement."""

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self.fresh = folder, count()
        self.several = slots(device, 1, None)
        self.all_cores = tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()
        spawn = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(len(self.several), spawn, sys.path.insert, (0, str(folder)))

    def plans(self, workload: str, runs: int, steps: int, device: str) -> list[Plan]:
        """So many runs of a workload that differ in their clipping levels alone."""
        levels = ",".join(f"{0.5 + i / 10:.1f}" for i in range(runs))
        grid = ["optim.clipping_type=norm", f"optim.clipping_level={levels}", "seed=choice(0)"]
        shared = [f"steps={steps}", f"eval_every={steps}", "threads=1", f"device={device}"]
        return make_plans([*workload.format(folder=self.folder).split(), *shared, *grid], self.folder)

    def seconds(self, plans: Sequence[Plan], side_by_side: bool, places: Sequence[Slot]) -> float:
        """Until the last of the `places` is done, into a fresh results folder."""
        results = str(self.folder / f"results{next(self.fresh)}")
        fresh = []
        for plan in plans:
            settings = replace(plan.settings, results=results, device=places[0].device)
            fresh.append(replace(plan, settings=settings))
        groups = groups_of(fresh, len(fresh) if side_by_side else 1, len(places))
        jobs = [(place.cores or self.all_cores, groups[i :: len(places)]) for i, place in enumerate(places)]
        return max(self.pool.map(seconds_of_slot, jobs))

    def row(self, plans: Sequence[Plan], repeats: int) -> list[str]:
        """The cells of one workload."""
        single = [replace(self.several[0], cores=None)]
        ways: dict[str, Any] = {
            "one": (plans[:1], True, single),
            "side": (plans, True, single),
            "by one": (plans, False, single),
        }
        if len(self.several) > 1:
            ways |= {
                "side, several": (plans, True, self.several),
                "by one, several": (plans, False, self.several),
            }
        self.seconds(plans[: len(self.several)], False, self.several)  # what happens once a process
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(repeats):
            for way, asked in ways.items():
                times[way].append(self.seconds(*asked))
        median = {way: statistics.median(values) for way, values in times.items()}
        side, one_by_one = median["side"], median["by one"]
        cells = [f"{median['one']:.2f} s", f"{side:.2f} s"]
        cells += [f"{side / median['one']:.1f}", f"{side / one_by_one:.2f}"]
        if len(self.several) > 1:
            ratio = median["side, several"] / median["by one, several"]
            cells.append(f"{ratio:.2f}")
        return cells


def machine(device: str) -> str:
    """ "NVIDIA H100, AMD EPYC 9654, 16 cores, torch 2.11.0"."""
    kind = find_device(device)
    parts = []
    if kind.type == "cuda":
        parts.append(torch.cuda.get_device_name(kind))
    parts.append(_processor())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ", ".join([*parts, f"{cores} cores", f"torch {torch.__version__}"])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if "model name" in line:
                return line.partition(":")[2].strip()
    return platform.processor()


def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        bench = Bench(Path(folder), options.device)
        n, several = options.runs, len(bench.several)
        side = f"{n} side by side"
        head = ["workload", "one run", side, f"{side} / one", f"{side} / one by one"]
        if several > 1:
            head.append(f"the same in {several} workers")
        print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|", flush=True)
        for name, workload in WORKLOADS.items():
            if options.only not in name:
                continue
            plans = bench.plans(workload, n, options.steps, options.device)
            cells = [name, *bench.row(plans, options.repeats)]
            print(f"| {' | '.join(cells)} |", flush=True)
        print(
            f"\n{options.steps} steps, one thread a run, medians of {options.repeats}. "
            f"{machine(options.device)}."
        )
        bench.pool.shutdown()


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes in the pool
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="TEXT",
        help=f"the workloads with TEXT in their name, of: {'; '.join(WORKLOADS)}",
    )
    for name, value in (("steps", 30), ("runs", 16), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=value, metavar="N", help=f"{value} by default")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    main(parser.parse_args())
