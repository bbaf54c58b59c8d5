"""What a sweep would do: counted from the folder, timed where nothing is known, and nothing is written."""

import sys
from pathlib import Path

import pytest
import torch

from clipbench.record import tables
from clipbench.runs.build import build_learner, build_task
from clipbench.runs.checkpoint import RecordedRows, save_checkpoint
from clipbench.sweeps import speed
from clipbench.sweeps.estimate import Left, estimate
from clipbench.sweeps.grid import make_plans
from clipbench.sweeps.speed import Kind, NoSpeed, Speed
from clipbench.train.batches import device_batches

OVERRIDES = ["task=line", "steps=100", "eval_every=30", "optim.clipping_type=none", "device=cpu"]
TASK = "name: line\n_target_: own_line.Line\nbatch_size: ${batch_size}\nexplode_at: -1\nfail_at: -1\n"


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "line.yaml").write_text(TASK)
    (tmp_path / "own_line.py").write_text(Path(__file__).parents[1].joinpath("tiny.py").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("own_line", None)


ENDED = {"scale": "mini", "optimizer": "sgd", "clipping_type": "none", "seed": 0, "skipped": 0}
ENDED |= {"headline": "loss", "higher_is_better": False}


def plans(*overrides):
    return make_plans([*OVERRIDES, *overrides], Path("."))


def record(plan, **row):
    settings = plan.settings
    where = {"task": settings.task.name, "scale": settings.scale, "optimizer": settings.optim.name}
    known = {"config": settings.as_json(), "device": "cpu", "status": "done"}
    tables.write_rows(plan.results, "runs", plan.run, [{**ENDED, **where, **known, **row}])


def test_runs_are_counted_and_priced_by_those_that_are_finished():
    asked = plans("seed=range(6)", "sweep.lockstep=2", "sweep.workers_per_device=1")
    record(asked[0], steps=100, seconds=1.0)
    record(asked[1], steps=50, seconds=1.5, status="diverged")
    record(asked[2], steps=10, seconds=99.0, status="failed")
    checkpoint = asked[3].run_folder.checkpoint_path(40)
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    found = estimate(asked)
    assert (found.runs, found.finished, found.diverged) == (6, 2, 1)
    assert (found.new, found.unfinished, found.failed) == (2, 1, 1)
    assert found.slots == ("cpu",)
    assert found.group_sizes == (1, 1, 1, 1)  # another seed is another stream of batches
    [kind] = found.kinds
    assert kind.kind == Kind("line", "mini", "adamw", asked[0].settings.batch_size, 1, "cpu")
    assert (kind.runs, kind.steps) == (4, 100 + 60 + 100 + 100)
    assert kind.speed == Speed(0.02, finished_runs=2)  # between 0.01 and 0.03
    assert found.left.runs == found.left.known == 4
    assert found.left.seconds == pytest.approx(360 * 0.02)


def test_slots_share_the_work_and_wait_for_the_longest_group():
    asked = plans("optim.clipping_type=none,norm,auto", "seed=0,1", "sweep.workers_per_device=4")
    known = {Kind.of(asked[0]): Speed(1.0, 10.0, timed_steps=5)}
    found = estimate(asked, known=known)
    assert sorted(found.group_sizes, reverse=True) == list(found.group_sizes)
    assert sum(found.group_sizes) == 6
    assert found.slots == ("cpu #1", "cpu #2", "cpu #3", "cpu #4")
    per_run = 100 + 4 * 10  # validations at steps 30, 60, 90 and 100
    longest = max(found.group_sizes) * per_run
    assert found.left == Left(6, max(6 * per_run / 4, longest), 6)


def test_a_launcher_decides_by_itself_how_many_at_a_time():
    asked = plans("seed=0,1")
    found = estimate(asked, ["hydra/launcher=joblib"], {Kind.of(asked[0]): Speed(1.0)})
    assert (found.launcher, found.slots, found.group_sizes) == ("hydra/launcher=joblib", (), ())
    assert found.left == Left(2, 200.0, 2)


def test_where_nothing_is_known_a_few_steps_are_timed_once_and_nothing_is_written(own, monkeypatch):
    monkeypatch.setattr(speed, "TIMED_STEPS", 3)
    before = sorted(path for path in own.rglob("*") if "__pycache__" not in path.parts)
    said, known = [], {}
    found = estimate(plans("seed=0,1"), known=known, announce=said.append)
    assert said == [f"timing a few steps of {found.kinds[0].kind} …"]
    assert known[found.kinds[0].kind] == found.kinds[0].speed
    assert found.kinds[0].speed.timed_steps == 3
    assert found.kinds[0].speed.step > 0
    assert found.kinds[0].speed.validation > 0
    assert estimate(plans("seed=2,3"), known=known, announce=said.append).left.known == 2
    assert len(said) == 1
    assert sorted(path for path in own.rglob("*") if "__pycache__" not in path.parts) == before


def test_what_cannot_be_timed_is_named_and_left_out_of_the_time():
    asked = plans("task.fail_at=1", "seed=choice(0)")
    found = estimate(asked)
    assert found.kinds[0].speed == NoSpeed("RuntimeError: the disk is on fire")
    assert found.left == Left(1, 0.0, 0)


def test_nothing_is_left_where_all_is_made():
    asked = plans("seed=0,1")
    for plan in asked:
        record(plan, steps=100, seconds=1.0)
    found = estimate(asked)
    assert (found.finished, found.kinds, found.left) == (2, (), Left())


def test_steps_of_several_batches_are_another_kind(own):
    one, many = (make_plans([*OVERRIDES, f"accumulate={k}"], Path("."))[0] for k in (1, 16))
    assert Kind.of(one) != Kind.of(many)
    assert str(Kind.of(many)).endswith("accumulate=16 on cpu")


def test_a_checkpoint_is_as_large_as_was_seen_while_steps_were_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "TIMED_STEPS", 1)
    (plan,) = make_plans(["task=cola", "optim=adamw", "optim.clipping_type=norm", "seed=0", "device=cpu"])
    seen = speed.time_steps(plan).checkpoint
    task = build_task(plan.settings, torch.device("cpu"))
    learner = build_learner(plan.settings, plan.rule, task, torch.device("cpu"))
    learner.learn(next(iter(device_batches(task, task.train_batches(torch.Generator()), learner.device))))
    learner.read()
    save_checkpoint(plan.run_folder, learner, RecordedRows())
    assert seen == pytest.approx(plan.run_folder.checkpoint_path(1).stat().st_size, rel=0.1)
    weights = sum(weight.nbytes for weight in learner.model.parameters())
    assert seen > 3 * weights  # and AdamW's two moments
