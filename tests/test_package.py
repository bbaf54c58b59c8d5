"""What is installed is what lies here, and arrows run one way."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="Python 3.11")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_list_of_packages_is_the_folders():
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "clipbench").rglob("__init__.py")
    }
    assert folders | {"clipbench.conf", "clipbench.tasks"} == set(PROJECT["tool"]["setuptools"]["packages"])


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
        "imagenet.py",
        "voc.py",
        "reddit.py",
    }


def test_the_version_is_the_projects():
    import clipbench

    assert clipbench.__version__ == PROJECT["project"]["version"]


@pytest.mark.parametrize(
    ("part", "allowed"),
    [
        ("clipbench/optim", {"clipbench.optim"}),
        (
            "clipbench/plot",
            {
                "clipbench.plot",
                "clipbench.interrupt",
                "clipbench.record.tables",
                "clipbench.analysis.choice",
                "clipbench.stats",
                "clipbench.errors",
            },
        ),
        ("clipbench/stats", {"clipbench.stats"}),
        ("clipbench/selection.py", set()),
        ("tasks", {"clipbench.task", "clipbench.tasks", "clipbench.errors", "clipbench.task.loading"}),
        ("clipbench/task.py", {"clipbench.errors"}),
        ("clipbench/supply.py", {"clipbench.task", "clipbench.errors"}),
        (
            "clipbench/learner.py",
            {"clipbench.train.batches", "clipbench.optim", "clipbench.task.seeds", "clipbench.task"},
        ),
        (
            "clipbench/train.py",
            {
                "clipbench.train.learner",
                "clipbench.train.batches",
                "clipbench.optim",
                "clipbench.task",
                "clipbench.errors",
            },
        ),
        ("clipbench/results.py", {"clipbench.errors"}),
    ],
)
def test_arrows_run_one_way(part, allowed):
    path = ROOT / part
    for file in [path] if path.is_file() else path.rglob("*.py"):
        for module in re.findall(r"^\s*(?:from|import) (clipbench[\w.]*)", file.read_text(), re.MULTILINE):
            assert (
                any(module == name or module.startswith(name + ".") for name in allowed)
                or module == "clipbench"
            ), (file, module)


def modules_after(code):
    script = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(answer.stdout.split())


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["list"]])
def test_help_and_lists_import_nothing_heavy(words):
    loaded = modules_after(f"from clipbench.cli.main import main\nmain({words})")
    assert not loaded & {"torch", "hydra", "pandas", "matplotlib", "numpy", "rich"}


def test_the_optimizers_import_torch_and_nothing_else_of_ours():
    loaded = modules_after("import clipbench.optim")
    files = {path.stem for path in (ROOT / "clipbench" / "optim").glob("*.py")} - {"__init__", "laws"}
    assert {name for name in loaded if name.split(".")[0] == "clipbench"} == {
        "clipbench",
        "clipbench.optim",
        *(f"clipbench.optim.{name}" for name in files),
    }
    assert not loaded & {"hydra", "pandas", "matplotlib", "transformers", "torchmetrics"}
