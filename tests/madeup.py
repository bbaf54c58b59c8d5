"""Made-up runs for the report: methods with given test values by seed."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import stats

from clipbench.analysis.comparison import rankings
from clipbench.analysis.groups import read_groups
from clipbench.analysis.verdict import judge
from clipbench.record import tables

STEPS = 12
NONE = [0.500, 0.520, 0.510, 0.490, 0.505]
BETTER = [0.530, 0.553, 0.545, 0.519, 0.534]
OTHERS = {
    "role": None,
    "trial": None,
    "repetition": None,
    "higher": True,
    "optim": "sgd",
    "skipped": 0,
}
FACTS = (
    *("resolution", "worth", "baseline", "baseline_test", "data", "git", "device", "versions", "lockstep"),
    *("place", "method"),
)


def write_table(folder, table, run, rows):
    """As `clipbench.record.tables.write_rows`, without its care for the disk: that is most of the time of
    many small files.
    """
    path = folder / table / f"{run}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"run": run, **row} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows, tables.SCHEMAS[table]), path)


def write(folder, name, seed, test, status="done", level=None, lr=0.1, task="toy", **more):
    role, trial, repetition, higher, optim, skipped = (
        more.pop(key, default) for key, default in OTHERS.items()
    )
    known = {key: more.pop(key) for key in FACTS if key in more}
    run = f"r{abs(hash((task, name, seed, level, lr, role, trial, repetition, optim, str(more)))):x}"
    factor = 1.0 if name == "none" or level == np.inf else 0.5
    norms = {"grad_norm": 2.0, "clipped_norm": 2 * factor, "clip_factor": factor}
    steps = [
        {"step": i, "epoch": i / 4, "seconds": i / 10, "loss": 1 / i, "lr": lr, **norms}
        for i in range(1, STEPS + 1)
    ]
    for step in steps[:skipped]:
        step |= {"grad_norm": np.inf, "clipped_norm": 0.0, "clip_factor": 0.0}
    evals = [
        {
            "step": i,
            "seconds": i / 10,
            "split": split,
            "metric": "accuracy",
            "value": (test or 0.5) * i / STEPS,
        }
        for i in range(4, STEPS + 1, 4)
        for split in ("train", "val")
    ]
    settings = {
        "optim": {"name": optim, "lr": lr, "clipping_type": name, "clipping_level": level},
        "seed": seed,
        **more,
    }
    row = {
        "task": task,
        "scale": "mini",
        "optimizer": optim,
        "lr": lr,
        "clipping_type": name,
        "clipping_level": level,
        "seed": seed,
    }
    row |= {
        "status": status,
        "headline": "accuracy",
        "higher_is_better": higher,
        "config": json.dumps(settings),
        "started": f"{seed:03}",
    }
    row |= {
        "skipped": skipped,
        "steps": STEPS,
        "seconds": STEPS / 10,
        "error": "Traceback\nValueError: <b>no</b>" if status == "failed" else None,
    }
    row |= {
        "study": "quick" if role else None,
        "role": role,
        "method": name if role else None,
        "trial": trial,
        "repetition": repetition,
    }
    row |= known
    if status in ("done", "stopped"):
        row |= {"final": test - 0.01, "final_test": test}
    write_table(folder, "steps", run, steps)
    write_table(folder, "evals", run, evals)
    write_table(folder, "runs", run, [row])
    return run


def write_child(folder, parent, values, status="done", place="weight", git=None, **transform):
    """What a transform, {"name": "round", "bits": 8}, makes of the run `parent`: its test value or, by
    condition, its test values, the last of them its own. Nothing is known of one that is not done.
    """
    row = tables.read(folder, "runs", runs=[parent]).to_dict("records")[0]
    row = {name: value for name, value in row.items() if name != "run" and not pd.isna(value)}
    under = values if isinstance(values, dict) else {"": values}
    run = f"c{abs(hash((parent, str(transform)))):x}"
    row |= {"place": place, "method": transform["name"], "transform": json.dumps(transform)}
    row |= {"parent": parent, "status": status, "skipped": 0, "final": None, "final_test": None, "git": git}
    evals = []
    if status == "done":
        at = {"step": STEPS, "seconds": STEPS / 10, "metric": "accuracy"}
        for condition, value in under.items():
            evals.append({**at, "condition": condition, "split": "val", "value": value - 0.01})
            evals.append({**at, "condition": condition, "split": "test", "value": value})
        row |= {"final": value - 0.01, "final_test": value}
    write_table(folder, "evals", run, evals)
    write_table(folder, "runs", run, [row])
    return run


def write_methods(folder, methods, **more):
    """{method: test values by seed, None where the run diverged}."""
    for name, values in methods.items():
        for seed, value in enumerate(values):
            write(folder, name, seed, value, "done" if value is not None else "diverged", **more)
    return ranking_of(folder)


def ranking_of(folder):
    (group,) = read_groups(folder)
    (found,) = rankings(group)
    return found


def told(folder, methods, **more):
    verdict = judge(write_methods(folder, methods, **more))
    return verdict.kind, verdict.sentence, " ".join(verdict.notes)


def interval(method, none=NONE, tests=1):
    """Paired, simultaneous for so many tests."""
    return stats.ttest_rel(method, none).confidence_interval(1 - 0.05 / tests)


def study(folder):
    for trial, (lr, value) in enumerate([(0.001, 0.9), (0.1, 0.95), (1.0, None), (0.3, 0.8), (0.05, 0.9)]):
        for name in ("none", "norm"):
            level = None if name == "none" else (np.inf if trial == 3 else trial + 1.0)
            write(
                folder, name, 0, value, "done" if value else "diverged", level, lr, role="tune", trial=trial
            )
    for seed, value in enumerate(NONE):
        write(folder, "none", seed + 1, value, role="final", trial=1)
        write(folder, "norm", seed + 1, value - 0.03 - 0.001 * seed, level=2.0, role="final", trial=1)
        write(folder, "none", seed + 1, value - 0.1 + 0.001 * seed, lr=0.5, role="default")
    return ranking_of(folder)
