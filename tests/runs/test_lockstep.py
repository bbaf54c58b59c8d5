"""Runs side by side over one stream of batches write the rows of the same runs alone, whatever stands beside
them.
"""

import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from clipbench.record import tables
from clipbench.runs.lockstep import train_group
from clipbench.sweeps.grid import make_plans
from clipbench.sweeps.groups import groups_of

OWN = Path(__file__).parents[1].joinpath("tiny.py")


@pytest.fixture(autouse=True)
def _threads():
    """`work` sets the threads of the process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "line.yaml").write_text(
        "name: line\n_target_: own_line.Line\nbatch_size: ${batch_size}\nexplode_at: -1\nfail_at: -1\n"
    )
    (tmp_path / "own_line.py").write_text(OWN.read_text())
    (tmp_path / "greedy.py").write_text(
        "from dataclasses import dataclass\nimport weakref\nimport torch\n"
        "from clipbench.optim import Rule\n\n"
        "MODELS = {}\n\n"
        "@dataclass(frozen=True)\nclass Greedy(Rule):\n"
        '    """α = 1, until more than `room` are at work."""\n\n    room: int = 2\n    name: int = 0\n\n'
        "    def init(self, params):\n        MODELS[self.name] = weakref.ref(params[0])\n"
        "        return {}\n\n"
        "    def __call__(self, grads, params, state, rng):\n"
        "        if sum(model() is not None for model in MODELS.values()) > self.room:\n"
        "            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')\n"
        "        return torch.ones(()), state\n"
    )
    (tmp_path / "moody.py").write_text(
        "from dataclasses import dataclass\nimport torch\nfrom clipbench.optim import Rule\n\n"
        "@dataclass(frozen=True)\nclass Moody(Rule):\n"
        '    """α = 1, at first."""\n\n'
        "    def init(self, params):\n        return {'seen': torch.zeros(())}\n\n"
        "    def __call__(self, grads, params, state, rng):\n"
        "        if state['seen'] == 6:\n            raise RuntimeError('not today')\n"
        "        return torch.ones(()), {'seen': state['seen'] + 1}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("own_line", "greedy", "moody"):
        sys.modules.pop(name, None)


def made(plans, folder):
    """Their tables once they are made side by side into `folder`."""
    plans = [replace(plan, settings=replace(plan.settings, results=str(folder))) for plan in plans]
    for _ in train_group(plans):
        pass
    return {plan.run: rows(folder, plan.run) for plan in plans}


def test_a_tuning_run_beside_others_never_sees_test(own):
    words = ["task=line", "steps=20", "eval_every=10", "seed=0", "optim.clipping_type=norm"]
    tags = ["tag.study=mine", "tag.method=norm"]
    (tune,) = make_plans([*words, *tags, "tag.role=tune", "tag.trial=0"], Path("."))
    (final,) = make_plans([*words, *tags, "tag.role=final", "tag.trial=0"], Path("."))
    found = made([tune, final], own / "beside")
    splits = [found[plan.run]["evals"].query("step == 20")["split"].to_list() for plan in (tune, final)]
    assert [set(each) for each in splits] == [{"train", "val"}, {"train", "val", "test"}]
    assert found[tune.run]["runs"]["final_test"].isna().all()
    assert found[final.run]["runs"]["final_test"].notna().all()
    assert found[tune.run]["runs"]["final"][0] == found[final.run]["runs"]["final"][0]


def rows(folder, run):
    return {table: tables.read(folder, table, runs=[run]) for table in ("steps", "evals", "runs")}


def assert_same(one, other):
    for table in ("steps", "evals"):
        pd.testing.assert_frame_equal(
            one[table].drop(columns="seconds"), other[table].drop(columns="seconds"), check_exact=True
        )
    same = ["status", "final", "best", "final_test", "skipped", "steps", "config"]
    drop = lambda text: text.split('"results"')[0]  # noqa: E731
    one, other = (part["runs"].assign(config=part["runs"]["config"].map(drop))[same] for part in (one, other))
    pd.testing.assert_frame_equal(one, other, check_exact=True)


@pytest.mark.parametrize("task", ["imagenet", "voc", "cola", "reddit", "reber", "adding", "lm"])
def test_each_run_of_a_group_is_the_run_alone_bit_for_bit(task, tmp_path):
    """Two runs of three steps, evaluated between them and at the end."""
    small = {
        "voc": ["task.size=16", "task.width=4"],
        "imagenet": ["task.size=8"],
        "adding": ["task.length=9", "task.model=gru"],
        "lm": ["task.layers=1", "task.width=16", "task.dropout=0.1"],
    }
    words = [f"task={task}", *small.get(task, []), "seed=0", "steps=3", "eval_every=2", "batch_size=8"]
    plans = make_plans([*words, "optim=sgd", "optim.clipping_type=quadratic_rand_auto"])
    plans += make_plans([*words, "optim=adamw", "optim.clipping_type=none"])
    assert len(groups_of(plans, 9, slots=1)) == 1
    together = made(plans, tmp_path / "together")
    for plan in plans:
        alone = made([plan], tmp_path / "alone")[plan.run]
        assert len(alone["steps"]) == 3
        assert_same(together[plan.run], alone)
        assert (together[plan.run]["runs"]["lockstep"][0], alone["runs"]["lockstep"][0]) == (2, 1)


def test_what_stands_beside_a_run_does_not_matter(own):
    words = ["task=line", "steps=40", "eval_every=10"]
    calm = make_plans([*words, "optim.clipping_type=linear_rand_norm"], own)[0]
    wild = make_plans([*words, "optim=sgd", "optim.clipping_type=none", "optim.lr=100", "max_loss=100"], own)[
        0
    ]
    moody = make_plans([*words, "optim.clipping_type=moody:Moody"], own)[0]
    together = made([wild, moody, calm], own / "together")
    assert [together[plan.run]["runs"]["status"][0] for plan in (wild, moody, calm)] == [
        "diverged",
        "failed",
        "done",
    ]
    assert "not today" in together[moody.run]["runs"]["error"][0]
    assert len(together[moody.run]["steps"]) == 6
    assert_same(together[calm.run], made([calm], own / "alone")[calm.run])
    assert_same(together[wild.run], made([wild], own / "alone")[wild.run])


def test_a_group_too_large_for_the_memory_goes_on_in_halves(own):
    words = ["task=line", "steps=20", "eval_every=10", "optim.clipping_type=greedy:Greedy"]
    plans = [make_plans([*words, f"optim.clip.name={i}"], own)[0] for i in range(4)]
    found = made(plans, own / "results")
    assert [found[plan.run]["runs"]["status"][0] for plan in plans] == ["done"] * 4
    assert {found[plan.run]["runs"]["lockstep"][0] for plan in plans} == {2}
    assert not (own / "results" / ".work").exists()


def test_a_run_too_large_for_the_memory_by_itself_is_recorded(own):
    plan = make_plans(
        ["task=line", "steps=20", "optim.clipping_type=greedy:Greedy", "optim.clip.room=0"], own
    )[0]
    row = made([plan], own / "results")[plan.run]["runs"].iloc[0]
    assert row["status"] == "failed"
    assert "out of memory" in row["error"]


@pytest.mark.parametrize("every", ["7", "1h"])
def test_a_group_that_is_stopped_goes_on_bit_for_bit(own, every):
    words = [
        "task=line",
        "steps=40",
        "eval_every=10",
        "optim.clipping_type=none,auto,quadratic_rand_norm",
        f"checkpoint_every={every}",
    ]
    plans = make_plans(words, own)
    whole = made(plans, own / "whole")
    cut = [replace(plan, settings=replace(plan.settings, results="cut")) for plan in plans]
    counts = iter(range(10_000))
    for _ in train_group(cut, lambda: next(counts) > 13):
        pass
    assert not list(Path("cut").glob("runs/*.parquet"))
    assert len(list(Path("cut/.work").glob("*/checkpoint-*.pt"))) == 3
    resumed = made(plans, Path("cut"))
    for plan in plans:
        assert_same(resumed[plan.run], whole[plan.run])
    assert not Path("cut/.work").exists()


def test_a_failed_run_is_tried_again_from_its_checkpoint(own):
    plan = make_plans(
        ["task=line", "steps=20", "eval_every=10", "optim.clipping_type=moody:Moody", "checkpoint_every=4"],
        own,
    )[0]
    assert made([plan], own / "results")[plan.run]["runs"]["status"][0] == "failed"
    assert [path.name for path in (own / "results/.work" / plan.run).glob("checkpoint*")] == [
        "checkpoint-000000004.pt"
    ]
    assert made([plan], own / "results")[plan.run]["runs"]["steps"][0] == 6


def test_groups_share_task_data_settings_and_seed(own):
    plans = make_plans(
        ["task=line", "optim.clipping_type=none,norm,auto", "seed=0,1", "batch_size=8,16"], own
    )
    groups = groups_of(plans, most=99, slots=1)
    assert sorted(len(group) for group in groups) == [3, 3, 3, 3]
    for group in groups:
        assert len({(plan.settings.seed, plan.settings.batch_size) for plan in group}) == 1


@pytest.mark.parametrize(
    ("runs", "slots", "most"), [(16, 1, 99), (16, 2, 99), (16, 3, 99), (5, 4, 99), (16, 2, 3), (1, 4, 99)]
)
def test_no_slot_waits_while_another_has_a_large_group(own, runs, slots, most):
    plans = make_plans(
        [
            "task=line",
            "optim.clipping_type=norm,norm",
            f"optim.clipping_level={','.join(str(i + 1) for i in range(runs))}",
        ],
        own,
    )
    groups = groups_of(plans, most, slots)
    assert sorted(plan.run for group in groups for plan in group) == sorted(plan.run for plan in plans)
    assert max(map(len, groups)) <= most
    ends = [0] * slots
    for group in groups:  # each slot takes the next group when it is free
        ends[ends.index(min(ends))] += len(group)
    assert max(ends) == -(-runs // slots) or max(ends) <= 1.1 * runs / slots
    if slots == 1 and most >= runs:
        assert len(groups) == 1
