"""What trains is what the id names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipbench.cli.main import main
from clipbench.errors import UserError
from clipbench.runs.config import load
from clipbench.runs.plan import make_plan
from clipbench.runs.sources import with_helpers
from clipbench.task.content import Contents

NAMES = ("in_domain_train", "in_domain_dev", "out_of_domain_dev")


@pytest.fixture
def cola(tmp_path: Path) -> Path:
    folder = tmp_path / "cola"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.tsv").write_text("".join(f"x\t{i % 2}\t\tword {i}\n" for i in range(20)))
    return folder


def run_id(folder: Path, *more: str) -> str:
    return make_plan(["task=cola", "scale=full", f"task.data={folder}", *more]).run


def test_labels_edited_are_another_run(cola: Path):
    before, path = run_id(cola), cola / "in_domain_train.tsv"
    path.write_text(path.read_text().replace("x\t0", "x\t1", 1))
    assert run_id(cola) != before


def test_what_no_loader_reads_does_not_count(cola: Path):
    before = run_id(cola)
    (cola / "notes.txt").write_text("read by nobody")
    assert run_id(cola) == before


def test_verify_is_no_part_of_a_run_and_reads_again(cola: Path):
    path = cola / "in_domain_train.tsv"
    os.utime(path, ns=(10**18 + 1, 10**18 + 1))
    before = run_id(cola)
    assert run_id(cola, "task.verify=true") == before
    assert "verify" not in load(["task.verify=true"]).as_json()
    path.write_text(path.read_text().replace("x\t0", "x\t1", 1))
    os.utime(path, ns=(10**18 + 1, 10**18 + 1))
    assert run_id(cola, "task.verify=true") != before


def test_verify_is_yes_or_no():
    with pytest.raises(UserError, match=r"task\.verify must be true or false, got 3"):
        load(["task.verify=3"])


def test_a_users_own_data_count_by_content_in_lists_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    own(tmp_path, listed_task="from clipbench.task import Task\n\n\nclass Own(Task):\n    pass\n")
    (tmp_path / "task").mkdir()
    text = "name: listed\n_target_: listed_task.Own\nfiles: [one.csv, two.csv]\n"
    (tmp_path / "task" / "listed.yaml").write_text(text)
    found = set()
    for content in ("12", "34", "56"):
        (tmp_path / "two.csv").write_text(content)
        plans = [make_plan(["task=listed", *words], Path(".")) for words in ([], ["task.verify=true"])]
        found |= {plan.run for plan in plans}
    assert len(found) == 3


@pytest.mark.parametrize("command", [["sweep", "seed=0,1", "optim.clipping_type=none,norm"], ["study"]])
def test_a_dry_run_hashes_nothing_and_says_so(
    cola: Path, tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setattr("clipbench.task.content._hash", None)
    words = [*command, "--dry-run", "task=cola", "scale=full", f"task.data={cola}"]
    assert main([*words, "device=cpu", f"results={tmp_path / 'results'}"]) == 0
    said = capsys.readouterr().out
    assert f"Data not hashed yet: {cola}: " in said
    assert "in 3 files, about 1 s" in said


def test_the_runs_of_a_sweep_look_at_their_data_once(cola: Path, monkeypatch: pytest.MonkeyPatch):
    seen, contents = [], Contents()
    real = contents._digest
    monkeypatch.setattr(contents, "_digest", lambda *words: seen.append(words) or real(*words))
    for seed in range(5):
        make_plan(["task=cola", "scale=full", f"task.data={cola}", f"seed={seed}"], contents=contents)
    assert len(seen) == 1


def own(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("statement", "helper"),
    [
        ("import helper", "helper"),
        ("from helper import a", "helper"),
        ("def later():\n    import helper", "helper"),
        ("import parts.helper as h", "parts__helper"),
        ("from parts import helper", "parts__helper"),
        ("import between", "helper"),
    ],
)
def test_a_users_modules_count_with_what_they_import(tmp_path: Path, statement: str, helper: str):
    folder = own(tmp_path, mine=statement, between="import helper", **{helper: "a = 1"}, other="b = 1")
    found = with_helpers({"mine": folder / "mine.py"})
    assert folder / f"{helper.replace('__', '/')}.py" in found
    assert folder / "other.py" not in found


def test_relative_imports_of_a_package_count(tmp_path: Path):
    files = {
        "pkg____init__": "",
        "pkg__mine": "from .deep.one import x\nfrom . import two",
        "pkg__two": "",
        "pkg__deep__one": "from ..three import y",
        "pkg__three": "",
    }
    folder = own(tmp_path, **{name.replace("____init__", "____init__"): text for name, text in files.items()})
    found = with_helpers({"pkg.mine": folder / "pkg" / "mine.py"})
    assert {path.name for path in found} >= {"mine.py", "two.py", "one.py", "three.py"}


def test_what_lies_beside_an_installed_package_does_not_count(tmp_path: Path):
    folder = own(tmp_path / "site-packages", pkg__mine="import other\nimport pkg.two", pkg__two="", other="")
    found = with_helpers({"pkg.mine": folder / "pkg" / "mine.py"})
    assert [path.name for path in found] == ["mine.py", "two.py"]


RULE = """from dataclasses import dataclass
from clipbench.optim import Rule
import shrink


@dataclass(frozen=True)
class Own(Rule):
    \"\"\"α = ½\"\"\"

    def __call__(self, grads, params, state, rng):
        return shrink.factor, state
"""
SCRIPT = (
    "from clipbench.runs.plan import make_plan\nprint(make_plan(['optim.clipping_type=own_rule:Own']).run)"
)


def id_in(folder: Path, **environment: str) -> str:
    words = [sys.executable, "-c", SCRIPT]
    path = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    env = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=True).stdout


def test_an_id_is_the_same_in_every_locale_and_another_with_another_helper(tmp_path: Path):
    own(tmp_path, own_rule=RULE, shrink="factor = 0.5  # ½")
    latin = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    first = id_in(tmp_path, PYTHONUTF8="1")
    assert id_in(tmp_path, **latin) == first
    own(tmp_path, shrink="factor = 0.4  # ½")
    assert id_in(tmp_path, PYTHONUTF8="1") != first
