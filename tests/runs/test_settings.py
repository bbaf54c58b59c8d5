"""Settings are typed; what is not allowed is one message."""

import json

import pytest

from clipbench.errors import UserError
from clipbench.runs.config import load
from clipbench.runs.plan import make_plan


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("accumulate=0", "accumulate must be a whole number of at least 1, got 0"),
        ("accumulate=1.5", "accumulate must be a whole number of at least 1, got 1.5"),
        ("restart.first=0", r"restart.first must be null \(no restarts\) or a whole number"),
        ("restart.coeff=0.5", "restart.coeff must be a number of at least 1, got 0.5"),
        ("restart.max=true", "restart.max must be a whole number of steps of at least 1, got True"),
        ("sweep.lockstep=0", "sweep.lockstep must be true, false or the most runs"),
        ("sweep.workers_per_device=two", "sweep.workers_per_device must be null or a whole number"),
        ("tag.role=final", "tag.study, tag.role and tag.method are texts that go together"),
        ("checkpoint_every=5", None),
        ("checkpoint_every=5 minutes", "checkpoint_every must be a time as 30s, 5min or 1h"),
    ],
)
def test_each_group_checks_its_own(override, message):
    if message is None:
        load([override])
    else:
        with pytest.raises(UserError, match=message):
            load([override])


def test_the_optimizers_keywords_stand_apart_from_clipping():
    optim = load(["optim=sgd", "optim.lr=0.5", "optim.clip.window=3", "optim.clipping_type=auto"]).optim
    assert (optim.name, optim.target, optim.lr) == ("sgd", "torch.optim.SGD", 0.5)
    assert set(optim.keywords) >= {"lr", "momentum"}
    assert not {"clip", "clipping_type", "nonfinite", "name"} & set(optim.keywords)
    assert optim.rule_settings == {"clipping_level": None, "p_autoclip": 0.75, "beta": 0.85, "window": 3}


def test_every_key_is_in_the_json_of_a_run_as_it_was_composed():
    found = json.loads(load(["seed=3.0", "restart.first=5", "optim.clipping_level=inf"]).as_json())
    assert found["seed"] == 3
    assert found["restart"] == {"first": 5, "coeff": 1.25, "max": 2000}
    assert found["optim"]["_target_"] == "torch.optim.AdamW"
    assert found["optim"]["clipping_level"] == "inf"
    assert found["sweep"] == {"lockstep": True, "workers_per_device": None}
    assert found["accumulate"] == 1


def test_accumulation_defines_a_run_and_one_batch_a_step_is_as_if_the_key_were_not_there():
    assert make_plan(["accumulate=1"]).run == make_plan([]).run
    assert make_plan(["accumulate=2"]).run != make_plan([]).run


@pytest.mark.parametrize(("lockstep", "runs", "most"), [("true", 7, 7), ("false", 7, 1), ("3", 7, 3)])
def test_how_many_go_side_by_side(lockstep, runs, most):
    assert load([f"sweep.lockstep={lockstep}"]).sweep.most_side_by_side(runs) == most
