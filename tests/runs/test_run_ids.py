"""Ids of runs never change: results that exist must be found again."""

import json
import sys
from pathlib import Path

import pytest

from clipbench.runs.plan import make_plan

PINNED = json.loads(Path(__file__).with_name("run_ids.json").read_text(encoding="utf-8"))
"""Made by the version before the packages were laid out anew; a row is added for a new kind of setting, none
is ever edited.
"""

RULE = '''from dataclasses import dataclass
from clipbench.optim import Rule


@dataclass(frozen=True)
class Pinned(Rule):
    """α = 1/√(1 + (‖g‖/η)²)"""

    clipping_level: float = 1.0

    def __call__(self, grads, params, state, rng):
        return (1 + (grads.norm / self.clipping_level) ** 2).rsqrt(), state
'''
TASK = '''from clipbench.task import Task


class Pinned(Task):
    """Only its source and its settings are looked at."""
'''
DATA = ("train/a/1.jpg", "train/b/2.jpg", "val/a/3.jpg", ".hidden", "processed/x")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder with a rule, a task and data."""
    root = tmp_path_factory.mktemp("own")
    (root / "pinned_rule.py").write_text(RULE, encoding="utf-8")
    (root / "pinned_task.py").write_text(TASK, encoding="utf-8")
    (root / "task").mkdir()
    (root / "task" / "pinned.yaml").write_text(
        "name: pinned\n_target_: pinned_task.Pinned\n", encoding="utf-8"
    )
    for name in DATA:
        path = root / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(name))
    yield root
    for name in ("pinned_rule", "pinned_task"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("pinned", PINNED, ids=lambda pinned: " ".join(pinned["overrides"]) or "defaults")
def test_the_id_of_a_run_is_what_it_was(pinned, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    overrides, config_dir = pinned["overrides"], None
    if overrides[:1] == ["--config-dir"]:
        overrides, config_dir = overrides[1:], Path(".")
    assert make_plan(overrides, config_dir).run == pinned["id"]


def test_many_kinds_of_runs_are_pinned():
    assert len({pinned["id"] for pinned in PINNED}) >= 40
