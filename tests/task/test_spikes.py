"""Bad batches are planted where they are asked for, and are the same for every method at a seed."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from clipbench.api import make_run
from clipbench.cli.main import main
from clipbench.errors import UserError
from clipbench.interrupt import never
from clipbench.record import tables
from clipbench.runs.lockstep import train_group
from clipbench.runs.plan import make_plan
from clipbench.sweeps.grid import make_plans
from clipbench.task.spikes import Spike, spoiled_pair

OWN = Path(__file__).parents[1].joinpath("tiny.py")
RUN = ["task=line", "steps=20", "eval_every=20", "threads=1"]
X, Y = torch.arange(8.0).reshape(8, 1), torch.arange(8) + 100


def spoiled(kind, size, seed=0):
    return spoiled_pair(X, Y, Spike(kind, size), torch.Generator().manual_seed(seed))


def test_labels_go_to_others_and_the_rest_keeps_its_own():
    x, y = spoiled("labels", 1.0)
    assert torch.equal(x, X)
    assert sorted(y.tolist()) == sorted(Y.tolist())
    assert (y != Y).all()
    _, y = spoiled("labels", 0.5)
    assert int((y != Y).sum()) == 4
    assert torch.equal(spoiled("labels", 0.5)[1], y)
    assert not torch.equal(spoiled("labels", 0.5, seed=1)[1], y)


def test_examples_become_copies_of_the_first():
    x, y = spoiled("repeat", 1.0)
    assert x.tolist() == [[0.0]] * 8
    assert y.tolist() == [100] * 8
    x, _ = spoiled("repeat", 0.25)
    assert int((x != X).sum()) in (1, 2)  # the first may be among the two


def test_numbers_are_scaled_and_nothing_else():
    x, y = spoiled("inputs", 3.0)
    assert torch.equal(x, 3 * X)
    assert torch.equal(y, Y)
    inputs = {"ids": torch.arange(4), "mask": torch.ones(4, dtype=torch.bool)}
    with pytest.raises(UserError, match="the inputs of this task are none"):
        spoiled_pair(inputs, torch.arange(4), Spike("inputs", 2.0), torch.Generator())
    repeated, _ = spoiled_pair(inputs, torch.arange(4), Spike("repeat", 1.0), torch.Generator())
    assert repeated["ids"].tolist() == [0] * 4


def steps(folder, run):
    return tables.read(Path(folder), "steps", runs=[run]).drop(columns="seconds").set_index("step")


def test_a_run_is_the_same_up_to_the_spike_and_its_loss_jumps_there(line):
    calm = make_plan([*RUN, "results=calm"], Path())
    spiky = make_plan(
        [*RUN, "results=spiky", "spike.at=[8,15]", "spike.kind=inputs", "spike.size=50"], Path()
    )
    assert calm.run != spiky.run
    assert make_plan([*RUN, "spike.kind=repeat", "spike.size=0.5"], Path()).run == calm.run
    for plan in (calm, spiky):
        make_run(plan, never)
    before, after = steps("calm", calm.run), steps("spiky", spiky.run)
    pd.testing.assert_frame_equal(before.loc[:7].drop(columns="run"), after.loc[:7].drop(columns="run"))
    assert after["loss"][8] > 10 * before["loss"][8]
    assert after["loss"][15] > 10 * before["loss"][15]
    assert after["loss"][9] < 10 * before["loss"][9]


@pytest.mark.parametrize("how", ["inputs", "labels", "repeat"])
def test_side_by_side_and_resumed_it_is_the_run_alone(line, how):
    spike = ["spike.at=[3,4,13]", f"spike.kind={how}", "spike.size=0.5", "accumulate=2"]
    plans = make_plans([*RUN, *spike, "optim.clipping_type=none,norm", "results=together"], Path())
    for _ in train_group(plans):
        pass
    for plan in plans:
        words = [*plan.overrides, "checkpoint_every=1", "results=alone"]
        words.remove("results=together")
        alone = make_plan(words, Path())
        asked = iter([False] * 9 + [True] * 99)
        assert make_run(alone, lambda asked=asked: next(asked)) is None
        assert 0 < alone.run_folder.checkpoint_step() < 20
        make_run(alone, never)
        pd.testing.assert_frame_equal(
            steps("together", plan.run), steps("alone", alone.run), check_exact=True
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["spike.at=5"], "must be a list of steps from 1 on"),
        (["spike.at=[0]"], "must be a list of steps from 1 on"),
        (["spike.at=[5,5]"], "names a step twice"),
        (["spike.at=[21]"], "the run has steps 1 to 20"),
        (["spike.kind=label"], "Did you mean 'labels'?"),
        (["spike.size=0"], "must be a number above 0"),
        (["spike.size=2"], "at most 1"),
        (["spike.sise=2"], "Did you mean 'spike.size'?"),
        (["spike=null"], "spike is a group of keys"),
    ],
)
def test_what_is_no_spike_is_refused(line, words, message, capsys):
    assert main(["run", "--config-dir", ".", *RUN, *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "kind", "code"),
    [
        ("cola", "labels", 0),
        ("cola", "inputs", 2),
        ("reddit", "labels", 0),
        ("reddit", "repeat", 2),
        ("voc", "inputs", 0),
    ],
)
def test_our_own_tasks(task, kind, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [f"task={task}", "steps=3", "eval_every=3", "batch_size=4", "threads=1", "spike.at=[3]"]
    assert main(["run", *words, f"spike.kind={kind}"]) == code
    if code:
        assert "spike.kind=" in capsys.readouterr().err
        assert tables.read(tmp_path / "results", "steps").empty  # found at the first batch
