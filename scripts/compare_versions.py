"""Do two versions of clipbench give the same tables? Trains a dozen short runs with each, on this machine,
and compares every cell.

    git worktree add ../before COMMIT
    python scripts/compare_versions.py ../before . --work ../compared

Cells that say when, where and how fast a run was made are left out. Exits with 1 where any other differs, and
names it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

MAIN = """
import sys
try:
    from clipbench.cli.main import main
except ImportError:  # before the packages were laid out anew
    from clipbench.cli import main
sys.exit(main())
"""
RUNS = [
    ["task=cola", "optim.clipping_type=norm", "optim.clipping_level=0.5", "steps=12"],
    ["task=cola", "optim=sgd", "optim.clipping_type=auto", "steps=12", "schedule=cosine", "warmup=3"],
    ["task=cola", "optim=stable_spam", "steps=12", "seed=1"],
    ["task=cola", "optim=adam", "optim.clipping_type=block_rms", "steps=6", "precision=bf16"],
    ["task=reddit", "optim.clipping_type=linear_rand_norm", "optim.clipping_level=0.1", "steps=20"],
    ["task=reddit", "optim=sstm", "steps=20"],
    ["task=reddit", "optim=muon", "optim.clipping_type=agc", "steps=20", "restart.first=5"],
    ["task=reddit", "optim=adam", "optim.clipping_type=none", "optim.lr=100", "max_loss=20", "steps=20"],
    ["task=voc", "optim=sgd", "optim.clipping_type=uclip", "steps=6"],
    ["task=voc", "optim=spam", "optim.clipping_type=zclip", "steps=6"],
    ["task=imagenet", "optim=sgd", "optim.clipping_type=layer_wise", "steps=4"],
    ["task=imagenet", "optim=lion", "optim.clipping_type=coordinate_wise", "steps=4", "channels_last=true"],
]
SHARED = ["eval_every=4", "device=cpu", "threads=1", "seed=2"]
MACHINE = {
    "seconds",
    "started",
    "ended",
    "device",
    "driver",
    "host",
    "platform",
    "versions",
    "git",
    "config",
    "overrides",
}
KEYS = {"steps": ["run", "step"], "evals": ["run", "step", "split", "metric"], "runs": ["run"]}


def train(version: Path, results: Path) -> None:
    """Make all runs with the checkout `version`, whose folders need not be installed."""
    package = results.parent / f"{results.name}_package" / "clipbench"
    package.mkdir(parents=True, exist_ok=True)
    folders = {
        path.name: path for path in (version / "clipbench").iterdir() if path.name not in ("conf", "tasks")
    }
    folders |= {"conf": version / "conf", "tasks": version / "tasks"}
    for name, path in folders.items():
        if not (package / name).exists():
            (package / name).symlink_to(path.resolve())
    for overrides in RUNS:
        given = {override.partition("=")[0] for override in overrides}
        shared = [override for override in SHARED if override.partition("=")[0] not in given]
        command = [sys.executable, "-c", MAIN, "run", *overrides, *shared, f"results={results}"]
        environment = os.environ | {"PYTHONPATH": str(package.parent)}
        ended = subprocess.run(command, env=environment, cwd=package.parent, capture_output=True, text=True)
        if ended.returncode:
            raise SystemExit(f"{version}: {' '.join(overrides)}\n{ended.stderr}")


def differences(one: Path, other: Path) -> list[str]:
    """A line for each cell that differs, and for each row that one of them lacks."""
    lines = []
    for table, keys in KEYS.items():
        before, after = (
            pd.read_parquet(folder / table).set_index(keys).sort_index() for folder in (one, other)
        )
        for key in before.index.symmetric_difference(after.index):
            lines.append(f"{table} {key}: only in one")
        shared = before.index.intersection(after.index)
        for column in sorted({*before.columns, *after.columns} - MACHINE):
            if column not in before or column not in after:
                lines.append(f"{table}.{column}: only in one")
                continue
            old, new = before.loc[shared, column], after.loc[shared, column]
            differs = ~((old == new) | (old.isna() & new.isna()))
            lines += [f"{table}.{column} {key}: {old[key]!r} → {new[key]!r}" for key in shared[differs]]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, help="a checkout of one version")
    parser.add_argument("after", type=Path, help="and of the other")
    parser.add_argument(
        "--work",
        type=Path,
        required=True,
        help="a folder for both results; runs that are there are not made again",
    )
    options = parser.parse_args()
    folders = []
    for name in ("before", "after"):
        folders.append((options.work / name).resolve())
        train(getattr(options, name), folders[-1])
    found = differences(*folders)
    print("\n".join(found) or f"{len(RUNS)} runs, all three tables: no difference")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
