"""What a command needs and no more: the tables for a paper without figures, figures without torch."""

import subprocess
import sys

import pytest
from madeup import NONE, write_methods

CODE = """
import sys
from clipbench.cli.main import main
assert main(["table", "results"]) == 0
import clipbench.report.draw
print("AFTER TABLE", *sys.modules)
assert main(["plot", "results"]) == 0
print("AFTER PLOT", *sys.modules)
"""
HEAVY = {"torch", "matplotlib", "jinja2", "hydra"}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """(modules after `clipbench table`, those after `clipbench plot` too), of one process."""
    folder = tmp_path_factory.mktemp("imports")
    write_methods(folder / "results", {"none": NONE[:1]})
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    table, plot = done.stdout.split("AFTER TABLE")[1].split("AFTER PLOT")
    return set(table.split()), set(plot.split())


def test_a_table_imports_neither_figures_nor_torch(loaded):
    table, _ = loaded
    assert "clipbench.report.table" in table
    assert "clipbench.report.draw" in table  # whose matplotlib waits until it draws
    assert not table & HEAVY


def test_figures_import_neither_torch_nor_pyplot(loaded):
    _, plot = loaded
    assert {"clipbench.record.tables", "matplotlib"} <= plot
    assert not plot & {"torch", "matplotlib.pyplot", "hydra"}
