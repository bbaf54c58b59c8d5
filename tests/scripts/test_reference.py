"""scripts/reference.py keeps what is drawn again, and nothing of the machine it was made on."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from madeup import BETTER, NONE, write

from clipbench.record import tables
from clipbench.report.table import tables as paper_tables

HERE = "/home/someone/cora/Reddit"
SIZES = "7 classes, 140/500/1000 nodes (train/val/test)"


@pytest.fixture
def reference(tmp_path, monkeypatch):
    path = Path(__file__).parents[2] / "scripts" / "reference.py"
    monkeypatch.syspath_prepend(path.parent)
    spec = importlib.util.spec_from_file_location("reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "REFERENCE", tmp_path / "reference")
    return module


def made(folder):
    about = {"data": f"a graph of 9 nodes ({HERE}), {SIZES}", "results": str(folder), "task.data": HERE}
    for name, values in {"none": NONE, "norm": BETTER}.items():
        for seed, value in enumerate(values):
            write(folder, name, seed, value, **about)
    return folder


def test_kept_results_are_drawn_and_told_as_the_runs_were(reference, tmp_path, capsys):
    folder = made(tmp_path / "made")
    reference.keep(folder, "small", data="the Cora citation graph")
    kept = tmp_path / "reference" / "small"
    assert sorted(path.name for path in kept.iterdir()) == ["evals.parquet", "runs.parquet", "steps.parquet"]
    assert sorted(path.name for path in kept.parent.iterdir()) == ["small", "small.png"]
    assert paper_tables(kept, ["csv"]) == paper_tables(folder, ["csv"])
    runs = tables.read(kept, "runs")
    assert set(runs["data"]) == {f"the Cora citation graph, {SIZES}"}
    assert not runs["config"].str.contains("home|tmp").any()
    assert runs["config"].str.contains('data": "Reddit"').all()


def test_several_figures_are_told_apart_and_trials_lose_their_steps(reference, tmp_path, capsys):
    folder = tmp_path / "made"
    for task in ("one", "two"):
        for r, value in enumerate(NONE[:3]):
            for name in ("none", "norm"):
                write(folder, name, 1000 + r, value, task=task, role="tune", trial=0, repetition=r)
                write(folder, name, r, value, task=task, role="final", trial=0, repetition=r)
    reference.keep(folder, "study", figures="*_difference.png")
    kept = tmp_path / "reference" / "study"
    assert sorted(path.name for path in kept.parent.glob("*.png")) == [
        "study_one_mini_sgd_quick.png",
        "study_two_mini_sgd_quick.png",
    ]
    runs = tables.read(kept, "runs").set_index("run")
    assert (runs["role"] == "tune").sum() == 12
    with_steps = tables.read(kept, "steps")["run"].unique()
    assert len(with_steps) == 12
    assert set(runs.loc[with_steps, "role"]) == {"final"}


@pytest.mark.parametrize(
    ("called", "expected"),
    [("", "CoLA with models/MiniLM, 10/5 rows (train/val)"), ("X", "X, 10/5 rows (train/val)")],
)
def test_tails_keep_which_data_without_the_place(reference, tmp_path, called, expected):
    rows = []
    rng = np.random.default_rng(0)
    for batch, value in enumerate(np.linalg.norm(rng.normal(size=(100, 50)), axis=1)):
        row = {"label": "cola (full) · adamw · none · seed 0", "step": 0, "batch": batch, "noise_norm": value}
        row |= {"data": "CoLA (/home/me/cola) with /home/me/models/MiniLM, 10/5 rows (train/val)"}
        row |= {"passes": 2.0, "full_passes": 2.0, "drawn": "", "loss": 1.0, "grad_norm": 9.0}
        rows.append(row | {"full_norm": 0.5})
    tables.write_rows(tmp_path / "made", "tails", "r0", rows)
    reference.keep_tails(tmp_path / "made", "tails_cola", called)
    kept = pd.read_parquet(tmp_path / "reference" / "tails_cola.parquet")
    assert set(kept["data"]) == {expected}
    assert (tmp_path / "reference" / "tails_cola.png").is_file()
