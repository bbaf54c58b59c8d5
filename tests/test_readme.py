"""What the README shows works as it stands there."""

import ast
import re
import shlex
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from clipbench.cli.arguments import parse
from clipbench.cli.commands import COMMANDS, command_named
from clipbench.cli.filters import read_filter
from clipbench.cli.main import main
from clipbench.cli.sources import clipping_types, keys_of
from clipbench.optim import ALIASES, RULES, TIED
from clipbench.runs import config
from clipbench.runs.plan import make_plan
from clipbench.studies.contest import contests
from clipbench.sweeps.grid import make_plans, split_launcher

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


def test_every_room_has_its_line_and_every_file_is_named_in_the_tree_or_by_its_room():
    tree = TEXT.split("## The house")[1]
    for folder in ("clipbench", "tasks"):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).parts
            if parts[:2] in (("clipbench", "conf"), ("clipbench", "tasks")):  # where they are links
                continue
            if path.name == "__init__.py":
                assert f"{path.parent.name}/" in tree, path
                continue
            room = path.with_name("__init__.py")
            listed = ast.get_docstring(ast.parse(room.read_text())) or "" if room.exists() else ""
            assert path.name in re.findall(r"\w+\.py", tree + listed), path


@pytest.mark.parametrize(
    "room", sorted(path.parent.name for path in (ROOT / "clipbench").glob("*/__init__.py"))
)
def test_a_room_lists_its_files_and_no_others(room):
    folder = ROOT / "clipbench" / room
    if room in ("conf", "tasks"):  # links to the folders beside the package
        return
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    listed = re.findall(r"(?:^|\s)(\w+\.py)(?=\s|,|$)", text, re.MULTILINE)
    files = sorted(path.name for path in folder.glob("*.py") if path.name != "__init__.py")
    assert sorted(listed) == files


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


BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.DOTALL)


def commands_shown():
    """Every `clipbench …` of the README, in blocks and in running text, its comment left out."""
    lines = []
    for language, text in BLOCKS:
        if not language:
            joined = text.replace("\\\n", " ")
            lines += re.findall(r"^(?:pip install .*&& )?(clipbench .*?)(?:\s+#.*)?$", joined, re.MULTILINE)
    outside = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
    lines += re.findall(r"`(clipbench [^`]+)`", outside)
    lines += re.findall(r"\$\((clipbench [^)]+)\)", outside)
    return sorted({" ".join(line.split()) for line in lines})


def words_of(line):
    """As a shell would split it; a reader's DATA or NAME is left as it is."""
    return shlex.split(line.split(" | ")[0])[1:]


@pytest.fixture
def shown(folder):
    """Where the README's lines are typed: with a rule, a task, an experiment and results of one's own."""
    (folder / "my_clip.py").write_text(block("A rule of your own", "python"))
    for group, heading in (("task", "A task of your own"), ("experiment", "Sweeps")):
        name = {"task": "iris", "experiment": "pair"}[group]
        (folder / "mine" / group).mkdir(parents=True)
        (folder / "mine" / group / f"{name}.yaml").write_text(block(heading, "yaml"))
    (folder / "mine" / "iris.py").write_text(block("A task of your own", "python"))
    shutil.copytree(ROOT / "tests" / "record" / "earlier_version" / "results", folder / "results")
    return folder


@pytest.mark.parametrize("line", commands_shown())
def test_every_command_shown_is_one(shown, line, capsys):
    """It is parsed, and what it asks for is composed as far as that needs no data; what only reads is run."""
    name, *argv = words_of(line)
    if name.startswith("-"):
        assert main([name]) == 0
        return
    if "--help" in argv:
        with pytest.raises(SystemExit) as end:
            main([name, *argv])
        assert end.value.code == 0
        return
    command = command_named(name)
    if (
        line == f"clipbench {name}"
        and name != "sweep"
        and any(place.count != "?" for place in command.places)
    ):
        return  # a command's name in running text
    options = parse(name, command, argv)
    if name in ("plot", "table", "status", "list", "completion"):
        assert main([name, *argv]) == 0
    elif name == "rm":
        assert [read_filter(word) for word in options.filters]
    elif command.overrides:
        assert composed(name, options)


def composed(name, options):
    words, launcher = split_launcher(options.overrides)
    if launcher:
        assert "hydra/launcher" in words_known(launcher)
    if name == "study":
        return contests(words, options.config_dir)
    if name == "sweep":
        return make_plans(words, options.config_dir)
    settings = config.load(words, options.config_dir)
    return settings if name == "prepare" else make_plan(words, options.config_dir)


def words_known(launcher):
    return {word.partition("=")[0] for word in launcher}


def test_there_are_commands_to_type():
    shown = commands_shown()
    assert len(shown) > 20
    assert {line.split()[1] for line in shown} >= set(COMMANDS) - {"completion"}


@pytest.mark.parametrize("text", [text for language, text in BLOCKS if language == "python"])
def test_every_import_shown_works(text):
    imports = [node for node in ast.parse(text).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    exec(compile(ast.Module(imports, []), "README.md", "exec"), {})


def test_every_key_shown_is_a_key():
    """`key=value` in running text: a key of a run, an optimizer, a task, a rule or a study."""
    known = {"task", "optim", "scale", "study", "results", "hydra/launcher"}
    for path in [*(ROOT / "conf").rglob("*.yaml")]:
        known |= {name.split(".")[-1] for name, _ in keys_of(path)}
    for _, parameters, *_ in clipping_types().values():
        known |= {parameter.partition("=")[0] for parameter in parameters.split(", ")}
    outside = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
    for key in re.findall(r"`((?:optim|restart|sweep|study)\.\w+)=[^`]*`", outside):
        assert key.split(".")[-1] in known | {"KEY"}, key
