"""Makes the reference results behind the README again, from runs in --results: in results/reference a folder
of three tables for each part, which `clipbench plot` draws again, and the figures shown.

python scripts/reference.py methods
    every clipping type, and every optimizer, at its defaults on the mini tasks
python scripts/reference.py methods_cola COLA MODEL
    five rules that torch-clip lacks, and none: AdamW, one pass over CoLA, one seed
python scripts/reference.py studies
    a quick study of each mini task
python scripts/reference.py cora DATA
    nine types with SGD, five seeds, on Cora: DATA/raw/reddit_data.npz, reddit_graph.npz
python scripts/reference.py published COLA MODEL
    torch-clip's CoLA figure again; COLA: CoLA's raw files, MODEL: a MiniLM
python scripts/reference.py controls
    the studies of scripts/controls.py, with what came out
python scripts/reference.py tails COLA MODEL CIFAR
    the gradient's noise at steps 0 and 100; CIFAR: CIFAR-10 as train/<class>/*, val/<class>/*

Two CPU cores need minutes for cora and tails, half an hour for methods, forty minutes for studies, an hour
for what trains MiniLM. What was stopped resumes with the same command.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import controls
import pandas as pd
from PIL import Image

from clipbench.analysis.names import data_name
from clipbench.cli.main import main as clipbench
from clipbench.optim import RULES, TIED
from clipbench.plot.tails import draw_tails
from clipbench.record import tables

COLA = "CoLA with a pretrained MiniLM"  # what COLA and MODEL hold, whatever their folders are called
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


def keep(
    folder: Path,
    name: str,
    *options: str,
    figures: str = "*_comparison.png",
    data: str = "",
) -> None:
    """What `clipbench plot results/reference/NAME` draws again, a file for each table, and from these files
    the `figures` that the README shows. Of a study's trials the row alone is kept.

    `data`: what the data are called, where their folder's name does not say it.
    """
    place = REFERENCE / name
    runs = tables.read(folder, "runs")
    drawn = runs.loc[runs["role"] != "tune", "run"]
    runs["data"] = runs["data"].map(partial(without_place, called=data), na_action="ignore")
    runs["config"] = runs["config"].map(_without_folders, na_action="ignore")
    runs[["overrides", "error", "host"]] = None  # a folder's or the machine's name may stand there
    write(runs, place / "runs.parquet")
    for table in ("steps", "evals"):
        write(tables.read(folder, table, runs=drawn), place / f"{table}.parquet")
    with TemporaryDirectory() as out:
        run("plot", str(place), "--out", out, *options)
        run("table", str(place), *options)
        found = sorted(Path(out).glob(figures))
        for path in found:
            stem = "" if len(found) == 1 else "_" + path.stem.rpartition("_")[0]
            show(path, f"{name}{stem}")


def keep_tails(folder: Path, name: str, data: str = "") -> None:
    """The rows of one run, and the figure drawn from them."""
    rows = tables.read(folder, "tails")
    rows["data"] = rows["data"].map(partial(without_place, called=data))
    write(rows, REFERENCE / f"{name}.parquet")
    with TemporaryDirectory() as out:
        show(draw_tails(rows, Path(out) / "tails.png"), name)


def write(rows: pd.DataFrame, path: Path) -> None:
    """In half the space that Parquet takes by itself: the bytes of numbers by their place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = [name for name in rows if rows[name].dtype.kind == "f"]
    others = [name for name in rows if name not in numbers]
    rows.to_parquet(
        path,
        index=False,
        compression="zstd",
        compression_level=19,
        use_dictionary=others,
        use_byte_stream_split=numbers,
    )


def show(drawn: Path, name: str) -> None:
    """Keep a figure, in four fifths of the space."""
    with Image.open(drawn) as picture:
        picture.convert("RGB").save(REFERENCE / f"{name}.png", optimize=True, dpi=picture.info["dpi"])


def without_place(text: str, called: str = "") -> str:
    """Which data, with their sizes; a folder's last two names at most, or what the data are `called`."""
    _, comma, sizes = text.partition(", ")
    return f"{called or data_name(text)}{comma}{sizes}"


def _without_folders(config: str) -> str:
    """A run's settings; of a folder on this machine, its last name."""
    return json.dumps(json.loads(config, object_hook=_with_last_names))


def _with_last_names(settings: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for key, value in settings.items():
        is_folder = isinstance(value, str) and Path(value).is_absolute()
        found[key] = Path(value).name if is_folder else value
    return found


def methods(folder: Path) -> None:
    run("sweep", MINI, f"optim.clipping_type={','.join([*RULES, *TIED])}", f"results={folder}")
    run("sweep", MINI, "optim=sgd,adam,lion,muon,spam,stable_spam,sstm,acclip", f"results={folder}")
    keep(folder, "methods", figures="*_adamw_comparison.png")


def methods_cola(folder: Path, cola: str, model: str) -> None:
    settings = "task=cola scale=full optim=adamw optim.lr=1e-4 batch_size=32 steps=240 eval_every=48"
    where = [f"task.data={cola}", f"task.model={model}", f"results={folder}"]
    run("sweep", *settings.split(), "optim.clipping_type=none,value,normalize,agc,zclip,adagc", *where)
    keep(folder, "methods_cola", data=COLA)


def studies(folder: Path) -> None:
    run("study", MINI, "study=quick", f"results={folder}")
    keep(folder, "study", figures="*_difference.png")


def cora(folder: Path, data: str) -> None:
    settings = "task=reddit scale=full batch_size=16 steps=150 eval_every=15 optim=sgd optim.lr=0.5 threads=1"
    grid = [f"optim.clipping_type={CORE}", "seed=range(5)"]
    run("sweep", *settings.split(), *grid, f"task.data={data}", f"results={folder}")
    keep(folder, "cora", data="the Cora citation graph")


def published(folder: Path, cola: str, model: str) -> None:
    where = ["scale=full", f"task.data={cola}", f"task.model={model}", f"results={folder}"]
    run("sweep", "+experiment=torchclip_cola", "seed=range(3)", *where)
    keep(folder, "published", "--apart", data=COLA)


def control_studies(folder: Path) -> None:
    for name in controls.CONTROLS:
        controls.run(folder, name)
        keep(folder / name, f"controls/{name}", figures="*_difference.png")
    for name, outcome in controls.outcomes(folder).items():
        print(f"{name}: {outcome}")


def tails(folder: Path, cola: str, model: str, cifar: str) -> None:
    own_settings = {
        "cola": [f"task.data={cola}", f"task.model={model}"],
        "imagenet": [f"task.data={cifar}", "task.size=32", "batch_size=64"],
    }
    called = {"cola": COLA, "imagenet": "CIFAR-10"}
    measure = "scale=full steps=100 --at 0,100 --batches 240"
    for task, settings in own_settings.items():
        run("tails", f"task={task}", *measure.split(), *settings, f"results={folder / task}")
        keep_tails(folder / task, f"tails_{task}", called[task])


PARTS: dict[str, Callable[..., None]] = {
    "methods": methods,
    "methods_cola": methods_cola,
    "studies": studies,
    "cora": cora,
    "published": published,
    "tails": tails,
    "controls": control_studies,
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
