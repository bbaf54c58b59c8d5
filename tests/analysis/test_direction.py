"""A language model's tables from end to end: bits per byte are better where they are fewer."""

import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from madeup import NONE, ranking_of, write

from clipbench import stats
from clipbench.analysis.choice import winners
from clipbench.analysis.verdict import judge
from clipbench.report.draw import draw
from clipbench.report.table import tables

FEWER = [value - 0.03 - 0.001 * i for i, value in enumerate(NONE)]
MORE = [value + 0.05 + 0.001 * i for i, value in enumerate(NONE)]


def in_bits(folder):
    """The tables of `write`, of another metric."""
    for table, column in (("runs", "headline"), ("evals", "metric")):
        for path in (folder / table).iterdir():
            found = pq.read_table(path)
            at = found.schema.get_field_index(column)
            pq.write_table(found.set_column(at, column, pa.array(["bpb"] * len(found))), path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study of three methods: `norm` needs fewer bits than none, `auto` more."""
    folder = tmp_path_factory.mktemp("results")
    more = {"task": "lm", "higher": False, "baseline": "5-gram", "baseline_test": 0.75}
    for trial, (lr, value) in enumerate([(0.01, 0.9), (0.1, 0.5), (1.0, 0.7)]):
        for name in ("none", "norm", "auto"):
            level = None if name == "none" else 1.0
            write(folder, name, 0, value, level=level, lr=lr, role="tune", trial=trial, **more)
    for name, values in {"none": NONE, "norm": FEWER, "auto": MORE}.items():
        level = None if name == "none" else 1.0
        for seed, value in enumerate(values, 1):
            write(folder, name, seed, value, level=level, lr=0.1, role="final", trial=1, **more)
    in_bits(folder)
    return folder


def test_what_is_chosen_has_the_fewest_bits(folder):
    found = ranking_of(folder)
    runs = pd.read_parquet(folder / "runs")
    chosen = winners(runs[runs["role"] == "tune"]).set_index("method")
    assert chosen["trial"].tolist() == [1, 1, 1]
    assert chosen["value"].tolist() == pytest.approx([0.49] * 3)
    assert [method.name for method in found.judged] == ["norm", "none", "auto"]
    assert stats.expected_best([0.9, 0.5, 0.7], higher_is_better=False).tolist()[-1] == 0.5


def test_the_verdict_says_which_way_is_better(folder):
    verdict = judge(ranking_of(folder))
    assert verdict.kind == "mixed"
    less, more = (np.mean(np.subtract(values, NONE)) for values in (FEWER, MORE))
    words = verdict.sentence.replace("−", "-")
    [norm] = re.findall(r"norm (-[\d.]+) bits per byte against no clipping \(lower is better", words)
    [auto] = re.findall(r"auto (\+[\d.]+) bits per byte against no clipping \(lower is better", words)
    assert (float(norm), float(auto)) == (pytest.approx(less, abs=0.001), pytest.approx(more, abs=0.001))


def test_tables_and_page_have_the_fewest_bits_first(folder):
    text = tables(folder, ["md"])["md"]
    rows = [line.split("|")[1].strip(" *`") for line in text.splitlines() if line.startswith("|")]
    assert [name for name in rows if name in ("none", "norm", "auto")] == ["norm", "none", "auto"]
    draw(folder, folder / "figures", formats=["png"])
    page = (folder / "figures" / "report.html").read_text()
    assert "lower is better" in page
    assert "bits per byte" in page
