"""What is installed is what lies here, and arrows run one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from clipbench.cli.commands import COMMANDS

tomllib = pytest.importorskip("tomllib", reason="Python 3.11")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_list_of_packages_is_the_folders():
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "clipbench").rglob("__init__.py")
    }
    assert folders | {"clipbench.conf", "clipbench.tasks"} == set(PROJECT["tool"]["setuptools"]["packages"])


def test_what_lies_beside_the_modules_is_installed_with_them():
    installed = set()
    for package, patterns in PROJECT["tool"]["setuptools"]["package-data"].items():
        folder = ROOT.joinpath(*package.split("."))
        for pattern in patterns:
            installed.update(folder.glob(pattern))
    beside = set()
    for path in (ROOT / "clipbench").rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            beside.add(path)
    assert ROOT / "clipbench" / "report" / "templates" / "page.html" in beside
    assert beside <= installed


def test_the_installed_package_finds_its_configuration_and_tasks():
    from importlib.resources import files

    assert {path.name for path in files("clipbench.conf").iterdir()} >= {
        "run.yaml",
        "task",
        "optim",
        "scale",
        "task_scale",
    }
    assert {path.name for path in files("clipbench.tasks").iterdir()} >= {
        "cola.py",
        "lm.py",
        "imagenet.py",
        "voc.py",
        "reddit.py",
    }


def test_the_version_is_the_projects():
    import clipbench

    assert clipbench.__version__ == PROJECT["project"]["version"]


BESIDE = {"errors", "escape", "record"}  # what every room above may use

ARROWS = {
    # the leaves
    "errors": set(),
    "escape": set(),
    "processes": {"errors"},
    "interrupt": set(),
    "output": {"errors", "escape"},
    "optim": set(),  # usable alone
    "stats": set(),  # numbers in, numbers out
    "record": {"errors"},
    # from a task to its runs
    "task": {"errors"},
    "tasks": {"errors", "task"},
    "train": BESIDE | {"task", "optim"},
    "transform": BESIDE | {"train", "task", "optim"},
    "runs": BESIDE | {"transform", "train", "task", "optim", "stats", "interrupt", "output"},
    "sweeps": BESIDE | {"runs", "train", "task", "optim", "interrupt", "processes", "output"},
    "studies": BESIDE | {"sweeps", "runs", "optim", "analysis.choice", "analysis.places"},
    # from the tables to what is shown
    "analysis": BESIDE | {"stats"},
    "selection": {"analysis.choice"},
    "plot": BESIDE | {"analysis", "stats"},
    "report": BESIDE | {"analysis", "stats", "plot", "processes"},
    # on top
    "api": BESIDE | {"studies", "sweeps", "runs", "interrupt", "output", "processes"},
    "__init__": {"errors", "api", "record.recorder"},
    "cli": BESIDE
    | {
        "api",
        "studies",
        "sweeps",
        "runs",
        "task",
        "optim",
        "analysis",
        "plot",
        "report",
        "interrupt",
        "output",
        "__init__",
    },
    "__main__": {"cli"},
}
"""What each room (a folder, or a file beside them) may import of the others: all of a room, or one module."""

ALONE = {"record/found.py": {"optim"}}
"""What one file of a room may import beside."""

WITH_TORCH = {f"record/{name}.py" for name in ("environment", "found", "recorder", "unread", "values")}
"""Files of rooms that do without it; the others of their room do not import these."""


def source_files():
    for folder in ("clipbench", "tasks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).parts
            if parts[:2] not in (("clipbench", "conf"), ("clipbench", "tasks")):  # where they are links
                yield path


def file_of(path):
    return "/".join(path.relative_to(ROOT).parts[1:])


def room_of(path):
    parts = path.relative_to(ROOT).parts
    if parts[0] == "tasks":
        return "tasks"
    return parts[1] if len(parts) > 2 else path.stem


def imports_of(path):
    """Every module that a file imports, wherever in it; what `from clipbench import …` names, as modules."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            if node.module == "clipbench":
                yield from (f"clipbench.{alias.name}" for alias in node.names)
            else:
                yield node.module


def test_every_room_has_its_row():
    assert {room_of(path) for path in source_files()} == set(ARROWS)


def target_of(module):
    """The room and file that a module of ours is in, "record.rows"; of the package itself, and of what it
    gives by name, "__init__". None for a module that is not ours.
    """
    package, _, name = module.partition(".")
    if package != "clipbench":
        return None
    return name if name.split(".")[0] in ARROWS else "__init__"


def wrong_arrows(path, allowed):
    targets = {target_of(module) for module in imports_of(path)} - {None}
    other_rooms = {target for target in targets if target.split(".")[0] != room_of(path)}
    return {
        target for target in other_rooms if not any(f"{target}.".startswith(f"{name}.") for name in allowed)
    }


@pytest.mark.parametrize("room", ARROWS)
def test_arrows_run_one_way(room):
    for path in source_files():
        if room_of(path) == room:
            wrong = wrong_arrows(path, ARROWS[room] | ALONE.get(file_of(path), set()))
            assert not wrong, f"{path.relative_to(ROOT)} → {', '.join(sorted(wrong))}"


@pytest.mark.parametrize(
    "line",
    [
        "import clipbench",
        "from clipbench import sweep",
        "from clipbench.cli.main import main",
        "def later():\n    from clipbench.runs.plan import make_plan",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import clipbench.train.loop",
    ],
)
def test_an_arrow_up_is_found_wherever_it_stands(tmp_path, monkeypatch, line):
    (tmp_path / "clipbench" / "record").mkdir(parents=True)
    path = tmp_path / "clipbench" / "record" / "low.py"
    path.write_text(line)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert wrong_arrows(path, ARROWS["record"])


def test_no_circle():
    """A room that imports no room left is taken away, until none is left."""
    left = {room: {target.split(".")[0] for target in targets} for room, targets in ARROWS.items()}
    for file, targets in ALONE.items():
        left[file.split("/")[0]] |= targets
    while left:
        lowest = {room for room, targets in left.items() if not targets & set(left)}
        assert lowest, f"a circle among {', '.join(sorted(left))}"
        left = {room: targets for room, targets in left.items() if room not in lowest}


@pytest.mark.parametrize(
    ("room", "foreign"),
    [
        ("optim", None),  # torch alone
        ("task", {"hydra", "omegaconf", "pandas", "pyarrow", "matplotlib", "rich"}),
        ("train", {"hydra", "omegaconf", "pandas", "pyarrow", "matplotlib", "rich", "torchmetrics"}),
        ("record", {"torch", "hydra", "matplotlib", "rich"}),
        ("stats", {"torch", "matplotlib", "pyarrow", "rich"}),
        ("analysis", {"torch", "matplotlib", "rich"}),
        ("plot", {"torch", "rich"}),
        ("report", {"torch", "rich"}),
    ],
)
def test_a_room_imports_only_what_its_work_needs(room, foreign):
    for path in source_files():
        if room_of(path) != room:
            continue
        packages = {module.split(".")[0] for module in imports_of(path)}
        if file_of(path) in WITH_TORCH:
            packages.discard("torch")
        if foreign is None:
            assert packages <= {"torch", "clipbench"} | sys.stdlib_module_names, path
        else:
            assert not packages & foreign, path


def test_only_the_command_line_prints_and_knows_exit_codes():
    found = set()
    for path in source_files():
        if room_of(path) in ("cli", "__main__"):
            continue
        where = path.relative_to(ROOT)
        if any(module.split(".")[0] == "rich" for module in imports_of(path)):
            found.add(f"{where} imports rich")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Name) and node.id in ("print", "input", "SystemExit"):
                found.add(f"{where}:{node.lineno} {node.id}")
            if isinstance(node, ast.Attribute) and ast.unparse(node) in (
                "sys.stdout",
                "sys.stderr",
                "sys.exit",
            ):
                found.add(f"{where}:{node.lineno} {ast.unparse(node)}")
    assert not found


def modules_after(code):
    script = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(answer.stdout.splitlines()[-1].split())


HEAVY = {"torch", "hydra", "omegaconf", "yaml", "pandas", "pyarrow", "matplotlib", "numpy", "rich"}


def test_help_lists_completion_and_the_import_itself_load_nothing_heavy():
    """All in one process: each alone loads no more."""
    line = "clipbench sweep --config-dir . optim.clipping_type=none,au"
    asked = [["--help"], ["--version"], ["list"], ["completion", "bash"], ["nothing"]]
    asked.append(["complete", "zsh", str(len(line)), line])
    helps = [[command, "--help"] for command in COMMANDS]
    loaded = modules_after(
        "import clipbench\nfrom clipbench.cli.main import main\n"
        f"for words in {asked}: main(words)\n"
        f"for words in {helps}:\n    try: main(words)\n    except SystemExit: pass"
    )
    assert not loaded & HEAVY


def test_what_is_read_of_a_results_folder_needs_no_torch():
    loaded = modules_after("import clipbench.record.state, clipbench.record.outcome")
    assert "pyarrow" in loaded
    assert "torch" not in loaded


def test_a_table_needs_neither_torch_nor_matplotlib():
    folder = ROOT / "tests" / "record" / "earlier_version" / "results"
    loaded = modules_after(
        f"from clipbench.cli.main import main\nassert main(['table', {str(folder)!r}]) == 0"
    )
    assert "pandas" in loaded
    assert not loaded & {"torch", "matplotlib", "hydra"}


def test_the_optimizers_import_torch_and_nothing_else_of_ours():
    loaded = modules_after("import clipbench.optim")
    ours = {name for name in loaded if name.split(".")[0] == "clipbench"}
    assert {name for name in ours if not name.startswith("clipbench.optim")} == {
        "clipbench",
        "clipbench.errors",
    }
    assert not loaded & {"hydra", "pandas", "matplotlib", "transformers", "torchmetrics"}
