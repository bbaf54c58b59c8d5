"""Makes the reference results behind the README again: small tables and figures in results/reference, from
runs in --results.

python scripts/reference.py methods
    every clipping type, and every optimizer, at its defaults on the mini tasks
python scripts/reference.py methods_cola COLA MODEL
    five rules that torch-clip lacks, and none: AdamW, one pass over CoLA, one seed
python scripts/reference.py studies
    a quick study of each mini task
python scripts/reference.py cora DATA
    nine types with SGD, five seeds, on DATA/raw/reddit_data.npz, reddit_graph.npz
python scripts/reference.py published COLA MODEL
    torch-clip's CoLA figure again; COLA: CoLA's raw files, MODEL: a BERT
python scripts/reference.py tails COLA MODEL CIFAR
    the gradient's noise at steps 0 and 100; CIFAR: train/<class>/*, val/<class>/*

Two CPU cores need minutes for cora and tails, half an hour for methods, forty minutes for studies, an hour
for what trains MiniLM. What was stopped resumes with the same command.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from clipbench.cli.main import main as clipbench
from clipbench.optim import RULES, TIED
from clipbench.record import tables

REFERENCE = Path(__file__).parents[1] / "results" / "reference"
MINI = "task=imagenet,voc,cola,reddit"
CORE = (
    "none,norm,linear_rand_norm,quadratic_rand_norm,layer_wise,coordinate_wise,"
    "auto,linear_rand_auto,quadratic_rand_auto"
)


def run(*arguments: str) -> None:
    """A command, as it is typed."""
    code = clipbench(list(arguments))
    if code:
        raise SystemExit(code)


def keep(folder: Path, name: str, *tables: str, options: tuple[str, ...] = (), of: str = "*") -> None:
    """Draw it and show the table for a paper; keep tables as one file each, and the comparisons `of` task,
    scale and optimizer.
    """
    run("plot", str(folder), *options)
    run("table", str(folder), *options)
    for table in tables:
        keep_table(folder, table, f"{name}_{table}")
    for path in (folder / "figures").glob(f"{of}_comparison.png"):
        shutil.copy(path, REFERENCE / f"{name}_{path.name.removesuffix('_comparison.png')}.png")


def keep_whole(folder: Path, name: str) -> None:
    """What `clipbench plot results/reference/NAME` draws again: a file for each table, steps of the runs that
    are drawn alone, and the paired differences of each contest.
    """
    run("plot", str(folder))
    run("table", str(folder))
    place = REFERENCE / name
    place.mkdir(parents=True, exist_ok=True)
    runs = tables.read(folder, "runs")
    drawn = runs.loc[runs["role"] != "tune", "run"]
    runs["config"] = runs["config"].map(_without_places)
    runs[["overrides", "error", "host"]] = None  # a folder's or the machine's name may stand there
    runs.to_parquet(place / "runs.parquet", index=False)
    for table in ("steps", "evals"):
        tables.read(folder, table, runs=drawn).to_parquet(place / f"{table}.parquet", index=False)
    for path in (folder / "figures").glob("*_difference.png"):
        shutil.copy(path, REFERENCE / f"{name}_{path.name.removesuffix('_difference.png')}.png")


def _without_places(config: str) -> str:
    """A run's settings without the folder that its results went to."""
    settings = json.loads(config)
    settings["results"] = "results"
    return json.dumps(settings)


def keep_table(folder: Path, table: str, name: str) -> None:
    """Without what may hold a path or a name of this machine."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    rows = tables.read(folder, table)
    private = ["config", "data", "overrides", "error", "host"]
    rows.drop(columns=private, errors="ignore").to_parquet(REFERENCE / f"{name}.parquet")


def methods(folder: Path) -> None:
    run("sweep", MINI, f"optim.clipping_type={','.join([*RULES, *TIED])}", f"results={folder}")
    run("sweep", MINI, "optim=sgd,adam,lion,muon,spam,stable_spam,sstm,acclip", f"results={folder}")
    keep(folder, "methods", "runs", of="*_adamw")


def methods_cola(folder: Path, cola: str, model: str) -> None:
    settings = "task=cola scale=full optim=adamw optim.lr=1e-4 batch_size=32 steps=240 eval_every=48"
    where = [f"task.data={cola}", f"task.model={model}", f"results={folder}"]
    run("sweep", *settings.split(), "optim.clipping_type=none,value,normalize,agc,zclip,adagc", *where)
    keep(folder, "methods_cola", "runs")


def studies(folder: Path) -> None:
    run("study", MINI, "study=quick", f"results={folder}")
    keep_whole(folder, "study")


def cora(folder: Path, data: str) -> None:
    settings = "task=reddit scale=full batch_size=16 steps=150 eval_every=15 optim=sgd optim.lr=0.5 threads=1"
    grid = [f"optim.clipping_type={CORE}", "seed=range(5)"]
    run("sweep", *settings.split(), *grid, f"task.data={data}", f"results={folder}")
    keep(folder, "cora", "runs")


def published(folder: Path, cola: str, model: str) -> None:
    where = ["scale=full", f"task.data={cola}", f"task.model={model}", f"results={folder}"]
    run("sweep", "+experiment=torchclip_cola", "seed=range(3)", *where)
    keep(folder, "published", "runs", "evals", options=("--apart",))


def tails(folder: Path, cola: str, model: str, cifar: str) -> None:
    own_settings = {
        "cola": [f"task.data={cola}", f"task.model={model}"],
        "imagenet": [f"task.data={cifar}", "task.size=32", "batch_size=64"],
    }
    measure = "scale=full steps=100 --at 0,100 --batches 240"
    for task, settings in own_settings.items():
        run("tails", f"task={task}", *measure.split(), *settings, f"results={folder / task}")
        keep_table(folder / task, "tails", f"tails_{task}")
        for path in (folder / task / "figures").glob("*_tails.png"):
            shutil.copy(path, REFERENCE / f"tails_{task}.png")


PARTS: dict[str, Callable[..., None]] = {
    "methods": methods,
    "methods_cola": methods_cola,
    "studies": studies,
    "cora": cora,
    "published": published,
    "tails": tails,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("data", nargs="*", metavar="PATH", help="COLA, MODEL, CIFAR or DATA, as above")
    parser.add_argument("--results", type=Path, metavar="DIR", help="results/reference_PART unless told")
    options = parser.parse_args()
    PARTS[options.part](options.results or Path("results") / f"reference_{options.part}", *options.data)
