"""What the README shows works as it stands there."""

import ast
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from clipbench.cli.main import main
from clipbench.optim import ALIASES, RULES, TIED

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def block_of(heading):
    return TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def block(heading, language):
    return re.search(rf"```{language}\n(.*?)```", block_of(heading), re.DOTALL).group(1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("my_clip", "iris"):
        sys.modules.pop(name, None)


def test_a_rule_and_a_task_of_ones_own_in_at_most_fifteen_lines(folder, capsys):
    rule, task, yaml = (
        block("A rule of your own", "python"),
        block("A task of your own", "python"),
        block("A task of your own", "yaml"),
    )
    assert all(len([line for line in text.splitlines() if line]) <= 15 for text in (rule, task))
    (folder / "mine" / "task").mkdir(parents=True)
    (folder / "my_clip.py").write_text(rule)
    (folder / "mine" / "iris.py").write_text(task)
    (folder / "mine" / "task" / "iris.yaml").write_text(yaml)
    words = [
        "--config-dir",
        "mine",
        "task=iris",
        "steps=300",
        "optim.lr=0.05",
        "optim.clipping_type=none,norm,my_clip:Smooth",
    ]
    assert main(["sweep", *words]) == 0
    runs = pd.read_parquet("results/runs")
    assert sorted(runs["clipping_type"]) == ["my_clip:Smooth", "none", "norm"]
    assert (runs["final_test"] > 0.8).all()


def test_the_optimizer_of_the_example(folder):
    model = torch.nn.Linear(3, 1)
    names = {"model": model}
    exec(block("The optimizers, in your own script", "python"), names)
    model(torch.ones(2, 3)).sum().backward()
    names["optimizer"].step()


def test_the_example_with_sstm_and_restarts(folder):
    x = torch.randn(64, 3)
    model = torch.nn.Linear(3, 1)
    loader = [(part, part.sum(1, keepdim=True)) for part in x.split(8)] * 10
    names = {"torch": torch, "model": model, "loss": torch.nn.functional.mse_loss, "loader": loader}
    before = names["loss"](model(x), x.sum(1, keepdim=True)).item()
    exec(block("Optimizers and restarts", "python"), names)
    assert names["restarter"].restarts == 1
    model.load_state_dict(torch.load("model.pt"))
    assert names["loss"](model(x), x.sum(1, keepdim=True)).item() < 0.5 * before


def test_the_table_of_optimizers_is_the_configuration():
    table = block_of("Optimizers and restarts").split("| `optim=` |")[1].split("\n\n")[0]
    named = [
        name
        for line in table.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    ]
    assert sorted(named) == sorted(
        path.stem for path in (ROOT / "conf" / "optim").glob("*.yaml") if path.stem != "clipping"
    )


def test_the_table_of_types_is_the_rules(folder):
    table = TEXT.split("| `clipping_type` |")[1].split("\n\n")[0]
    rows = [re.findall(r"`(\w+)`", line) for line in table.splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows] == list(RULES | TIED)
    for name, *rest in rows:
        assert set(rest) & set(ALIASES) == {alias for alias, of in ALIASES.items() if of == name}


def test_every_file_of_the_package_has_its_line():
    tree = TEXT.split("## The house")[1]
    for folder in ("clipbench", "tasks"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "__init__.py":
                assert path.name in tree, path


def test_the_schema_is_the_tables():
    from clipbench.record.tables import SCHEMAS

    section = TEXT.split("## The results")[1].split("\n## ")[0]
    page = (ROOT / "results" / "README.md").read_text()
    for table, schema in SCHEMAS.items():
        listed = re.search(rf"\| `{table}` \|[^|]*\|([^|]*)\|", section).group(1)
        assert [name.strip() for name in listed.split(",")] == schema.names
        part = page.split(f"## {table}:")[1].split("\n## ")[0]
        named = {
            name.strip()
            for row in re.findall(r"^\| ([\w, ]+) \|", part, re.MULTILINE)
            for name in row.split(",")
        }
        assert set(schema.names) <= named | {"column"}


def test_the_commands_named_are_commands():
    commands = set(re.findall(r"^clipbench (\w+)", TEXT, re.MULTILINE))
    source = ast.parse((ROOT / "clipbench" / "cli.py").read_text())
    assert commands <= {node.name for node in source.body if isinstance(node, ast.FunctionDef)} | {"list"}
