"""What is replaced after a run was planned is not trained on under the name of what it was planned with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from clipbench.api import make_run
from clipbench.errors import UserError
from clipbench.interrupt import never
from clipbench.record import tables
from clipbench.runs import lockstep
from clipbench.runs.events import Rows
from clipbench.runs.noise import measure_noise
from clipbench.runs.plan import Plan, changed_since, make_plan
from clipbench.sweeps.grid import make_plans
from clipbench.sweeps.scheduler import make_runs
from clipbench.task import content

TASK = '''
from pathlib import Path
from line_of_tests import Line


class Scaled(Line):
    """Its targets times what a file says."""

    def __init__(self, files, batch_size=16):
        super().__init__(batch_size)
        self.y = self.y * float(Path(files[0]).read_text())
'''
RULE = '''
from dataclasses import dataclass
from clipbench.optim import Rule


@dataclass(frozen=True)
class Half(Rule):
    """α = ½"""

    def __call__(self, grads, params, state, rng):
        return grads.norm / grads.norm / 2, state
'''
LONG_AGO = 1_700_000_000_123_456_789


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "scaled.yaml").write_text(
        "name: scaled\n_target_: scaled_task.Scaled\nbatch_size: 16\nfiles: [factor.txt, other.txt]\n"
    )
    (tmp_path / "line_of_tests.py").write_text(Path(__file__).parents[1].joinpath("tiny.py").read_text())
    (tmp_path / "scaled_task.py").write_text(TASK)
    (tmp_path / "half_rule.py").write_text(RULE)
    write("1.0", tmp_path / "factor.txt")
    write("unused", tmp_path / "other.txt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("scaled_task", "line_of_tests", "half_rule"):
        sys.modules.pop(name, None)


def write(text: str, path: Path = Path("factor.txt"), at: int = LONG_AGO) -> None:
    path.write_text(text)
    os.utime(path, ns=(at, at))


def plan(*more: str) -> Plan:
    return make_plan(["task=scaled", "steps=8", "device=cpu", "checkpoint_every=2", *more], Path("."))


def replaced() -> None:
    write("3.0", at=LONG_AGO + 1)


def replaced_by_another_file_of_the_same_time() -> None:
    write("3.0", Path("new.txt"))
    os.replace("new.txt", "factor.txt")


def grown() -> None:
    write("1.00")


def removed() -> None:
    Path("factor.txt").unlink()


def not_as_the_task_needs_it() -> None:
    write("half a fi", at=LONG_AGO + 1)


CHANGES = [
    replaced,
    replaced_by_another_file_of_the_same_time,
    grown,
    removed,
    not_as_the_task_needs_it,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_run_does_not_train_on_what_was_replaced_after_its_planning(change):
    planned = plan()
    change()
    with pytest.raises(UserError, match=r"^factor\.txt changed after the runs were planned") as refused:
        make_run(planned, never)
    assert "\n" not in str(refused.value)
    assert tables.statuses(planned.results) == {}
    assert planned.run_folder.checkpoints() == []


def test_what_was_replaced_between_two_checkpoints_does_not_resume():
    planned, steps = plan(), []

    def sink(event):
        if isinstance(event, Rows):
            steps.extend(event.rows)

    make_run(planned, lambda: len(steps) > 3, sink)
    reached = planned.run_folder.checkpoint_step()
    assert reached > 0
    replaced()
    with pytest.raises(UserError, match="changed after"):
        make_run(planned, never)
    assert planned.run_folder.checkpoint_step() == reached
    write("1.0")
    assert make_run(planned, never)["status"] == "done"


def test_a_file_replaced_while_the_task_reads_it_is_seen(monkeypatch: pytest.MonkeyPatch):
    planned = plan()
    real = lockstep.build_task

    def build_amid_a_change(*words):
        replaced()
        return real(*words)

    monkeypatch.setattr(lockstep, "build_task", build_amid_a_change)
    with pytest.raises(UserError, match="changed after"):
        make_run(planned, never)


def test_a_rule_that_was_edited_after_the_planning_is_not_run_under_the_old_name():
    planned = plan("optim.clipping_type=half_rule:Half")
    Path("half_rule.py").write_text(RULE.replace("/ 2", "/ 4"))
    with pytest.raises(UserError, match="The source of the task, rule or transform changed"):
        make_run(planned, never)


def test_noise_is_not_measured_on_other_data():
    planned = plan()
    replaced()
    with pytest.raises(UserError, match="changed after"):
        measure_noise(planned, [0], 200)


def test_the_workers_of_a_sweep_say_it_once_and_make_what_has_not_changed():
    plans = make_plans(["task=scaled,line", "seed=0,1", "steps=8", "optim.clipping_type=none"], own_line())
    replaced()
    outcome = make_runs(plans)
    [mistake] = outcome.mistakes
    assert mistake.startswith("factor.txt changed after the runs were planned")
    made = {plan.settings.task.name for plan in outcome.finished}
    assert made == {"line"}
    assert {plan.settings.task.name for plan in outcome.not_made} == {"scaled"}


def own_line() -> Path:
    Path("task/line.yaml").write_text("name: line\n_target_: line_of_tests.Line\nbatch_size: 16\n")
    return Path(".")


def test_what_only_looks_new_is_read_and_found_the_same():
    planned = plan()
    write("1.0", at=LONG_AGO + 1)
    assert changed_since(planned) == ""


def test_what_has_kept_its_looks_is_not_read_again(monkeypatch: pytest.MonkeyPatch):
    planned = plan("task.verify=true")
    monkeypatch.setattr(content, "_hash", None)
    monkeypatch.setattr(content, "Memory", None)
    assert changed_since(planned) == ""


def test_a_file_so_new_that_its_time_may_lie_is_read_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(content, "FINE", 10**12)
    Path("factor.txt").write_text("1.0")
    planned = plan()
    times = os.stat("factor.txt").st_mtime_ns
    write("3.0", at=times)
    assert "changed after" in changed_since(planned)


def test_other_data_of_the_same_sweep_are_not_named(tmp_path: Path):
    write("2.0", Path("second.txt"))
    first, second = make_plans(["task=scaled", "task.files=[factor.txt],[second.txt]", "steps=8"], Path("."))
    replaced()
    assert changed_since(first).startswith("factor.txt changed")
    assert changed_since(second) == ""
