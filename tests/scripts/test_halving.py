"""scripts/halving.py counts what two made-up studies agree in."""

import importlib.util
from pathlib import Path

import pytest
from madeup import write

from clipbench.record import tables


@pytest.fixture(scope="module")
def halving():
    path = Path(__file__).parents[2] / "scripts" / "halving.py"
    spec = importlib.util.spec_from_file_location("halving", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def runs(folder, wins):
    """A study in which `wins` says of each repetition who does; the winner chooses trial 0, the other 1."""
    for r, winner in enumerate(wins):
        for name in ("none", "norm"):
            for trial in range(2):
                value = 0.9 if trial == (name != winner) else 0.5
                write(folder, name, 1000 + r, value, lr=0.1 + trial, role="tune", trial=trial, repetition=r)
            value = 0.9 if name == winner else 0.8
            write(folder, name, r, value, role="final", trial=int(name != winner), repetition=r)
    return tables.read(folder, "runs")


def test_who_wins_and_which_trials_are_chosen_and_how_many_steps_are_saved(
    halving, tmp_path, monkeypatch, capsys
):
    full = runs(tmp_path / "full", ["norm", "norm", "none", "norm"])
    halved = runs(tmp_path / "halved", ["norm", "none", "none", "norm"])
    halved.loc[halved["role"] == "tune", "steps"] = 3  # of 12
    lines = halving.compared(full, halved)
    assert "3 of 4 (75%) repetitions" in lines[0]
    assert "3 of 6 (50%) pairs" in lines[1]  # of the three in which norm won
    assert "6 of 8 (75%) choices" in lines[2]
    assert "48 of 192: 75% saved, 50% of all steps" in lines[3]  # 8 final runs of 12 steps beside
    monkeypatch.setattr("sys.argv", ["halving.py", str(tmp_path / "full"), str(tmp_path / "halved")])
    halving.main()
    assert "the same method wins     3 of 4" in capsys.readouterr().out
