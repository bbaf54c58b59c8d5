"""What docs/transforms.md shows works as it stands there."""

import re
import sys
from pathlib import Path

import pytest

from clipbench.cli.main import main
from clipbench.record import tables

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "transforms.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)
TINY = ["task=cola", "steps=2", "eval_every=2", "batch_size=4", "threads=1"]


def test_the_users_own_transform(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert [name for name, _ in BLOCKS] == ["my_transforms.py", "mine/transform/noisy.yaml"]
    for name, text in BLOCKS:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (command,) = re.findall(r"`clipbench (run --config-dir mine [^`]*)`", PAGE)
    assert main([*command.split(), *TINY]) == 0
    evals = tables.read(Path("results"), "evals")
    of_child = evals[(evals["condition"] != "") & (evals["split"] == "test") & (evals["metric"] == "loss")]
    assert list(of_child["condition"]) == ["clean", "noisy"]
    assert of_child["value"].nunique() == 2


@pytest.mark.parametrize("command", re.findall(r"^clipbench (sweep [^\n]*)$", PAGE, re.MULTILINE))
def test_the_sweep_is_what_the_page_says(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*command.split(), "--dry-run", *TINY]) == 0
    assert "25 runs" in capsys.readouterr().out
