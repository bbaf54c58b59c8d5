"""How long `clipbench plot` takes, and how much memory.

python scripts/bench_plot.py [--runs 1000] [--steps 2000] [--folder DIR]

Made-up runs are drawn in a fresh process. A folder that is there is drawn again, not made again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from clipbench.record import tables

TASKS = {"cola": ("mcc", 0.55), "imagenet": ("top1", 0.9), "reddit": ("accuracy", 0.8), "voc": ("miou", 0.7)}
LEVELS = (0.3, 1.0, 3.0)
TYPES = (
    "norm",
    "linear_rand_norm",
    "quadratic_rand_norm",
    "layer_wise",
    "coordinate_wise",
    "value",
    "agc",
    "zclip",
)
EVALS = 20  # of each run


def settings(runs: int) -> Iterator[tuple[str, str, float | None, int]]:
    """(task, type, level, seed): 25 methods on each of four tasks, and as many seeds as it takes."""
    methods: list[tuple[str, float | None]] = [("none", None), *product(TYPES, LEVELS)]
    places = [(task, *method) for task, method in product(TASKS, methods)]
    for i in range(runs):
        yield *places[i % len(places)], i // len(places)


def write_run(folder: Path, task: str, name: str, level: float | None, seed: int, steps: int) -> None:
    """A loss that falls under noise, norms with spikes, a metric that saturates; each method with a gain of
    its own, each run with luck.
    """
    rng = np.random.default_rng([seed, *f"{task} {name} {level}".encode()])
    headline, limit = TASKS[task]
    run = f"r{rng.bytes(6).hex()}"
    gain = 0.01 * np.sin(len(name) * (level or 0)) + 0.005 * rng.normal()
    t = np.arange(1, steps + 1) / steps
    loss = 0.3 + 2 * np.exp(-6 * t) + 0.15 * rng.normal(size=steps) ** 2
    norm = np.exp(0.6 * rng.normal(size=steps)) * (1 + 3 * np.exp(-4 * t))
    factor = np.minimum(1, (level or np.inf) / norm)
    columns = {
        "step": np.arange(1, steps + 1),
        "lr": np.full(steps, 1e-3),
        "loss": loss,
        "grad_norm": norm,
        "clipped_norm": norm * factor,
        "clip_factor": factor,
        "seconds": 40 * t,
        "epoch": 5 * t,
    }
    tables.write_rows(folder, "steps", run, pd.DataFrame(columns).to_dict("records"))
    tables.write_rows(folder, "evals", run, _evals(steps, headline, limit + gain, rng))
    row = _row(task, name, level, seed, steps, headline, float(limit + gain), rng)
    tables.write_rows(folder, "runs", run, [row])


def _evals(steps: int, headline: str, limit: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Of a metric that comes near `limit`."""
    at = np.linspace(0, steps, EVALS + 1).astype(int)
    curve = limit * (1 - np.exp(-5 * at / steps))
    rows = []
    for (step, value), split, metric in product(
        zip(at, curve, strict=True), ("train", "val"), (headline, "loss")
    ):
        row = {"step": int(step), "seconds": 40.0 * step / steps, "split": split, "metric": metric}
        rows.append({**row, "value": float(value + 0.004 * rng.normal())})
    return rows


def _row(
    task: str, name: str, level: float | None, seed: int, steps: int, headline: str, final: float, rng: Any
) -> dict[str, Any]:
    optim = {"name": "sgd", "lr": 1e-3, "clipping_type": name, "clipping_level": level}
    return {
        "task": task,
        "scale": "mini",
        "optimizer": "sgd",
        "lr": 1e-3,
        "clipping_type": name,
        "clipping_level": level,
        "seed": seed,
        "status": "done",
        "headline": headline,
        "higher_is_better": True,
        "final": final,
        "best": final,
        "final_test": final + 0.003 * float(rng.normal()),
        "steps": steps,
        "seconds": 40.0,
        "skipped": 0,
        "started": "2025-01-01T00:00:00+00:00",
        "ended": "2025-01-01T00:01:00+00:00",
        "data": "made up",
        "config": json.dumps(
            {"task": {"name": task}, "optim": optim, "scale": "mini", "seed": seed, "steps": steps}
        ),
        "device": "cpu",
        "versions": "{}",
        "threads": 1,
    }


def measure(folder: Path, out: Path) -> tuple[float, float]:
    """Seconds of `clipbench plot` in a process of its own, and the most MB that it and the processes it
    starts held at once.
    """
    start, most = time.perf_counter(), 0
    command = [sys.executable, "-m", "clipbench", "plot", str(folder), "--out", str(out)]
    with psutil.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most = max(most, held(process))
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"clipbench plot ended with {process.returncode}")
    return time.perf_counter() - start, most / 1e6


def held(process: psutil.Process) -> int:
    """Bytes; pages that several share count once, where the system tells."""
    total = 0
    with contextlib.suppress(psutil.Error):  # one may end while we look
        for each in (process, *process.children(recursive=True)):
            memory = each.memory_full_info()
            total += getattr(memory, "pss", memory.uss)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "results"
        if not (folder / "runs").is_dir():
            for place in settings(options.runs):
                write_run(folder, *place, options.steps)
        files = len(list((folder / "runs").glob("*.parquet")))
        size = sum(path.stat().st_size for path in folder.rglob("*.parquet")) / 1e6
        out = Path(temporary) / "figures"
        seconds, memory = min(measure(folder, out) for _ in range(3))
        page = (out / "report.html").stat().st_size / 1e6
        python = platform.python_version()
        print(f"{platform.machine()}, {os.cpu_count()} cores, Python {python}; the fastest of three\n")
        print("| runs | steps | tables, MB | seconds | peak memory, MB | report, MB |")
        print("|---|---|---|---|---|---|")
        print(f"| {files} | {options.steps} | {size:.0f} | {seconds:.1f} | {memory:.0f} | {page:.1f} |")


if __name__ == "__main__":
    main()
