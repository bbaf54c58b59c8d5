"""What is left aside is said in one line, and nothing is said of what is used."""

import pytest

from clipbench.runs.plan import make_plan
from clipbench.runs.remarks import remarks
from clipbench.sweeps.grid import make_plans


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["optim.clipping_type=auto", "optim.clipping_level=3"],
            "optim.clipping_level changes nothing for auto",
        ),
        (
            ["optim.clipping_type=none", "optim.clipping_level=3"],
            "optim.clipping_level changes nothing for none",
        ),
        (
            ["optim.clipping_type=norm", "optim.p_autoclip=.5"],
            "changes nothing for norm: it has clipping_level.",
        ),
        (["optim.clipping_type=norm", "optim.beta=.5"], "optim.beta changes nothing for norm"),
        (["restart.coeff=2"], "restart.coeff changes nothing"),
        (["optim.clipping_type=none", 'optim.clip_exempt=["*.bias"]'], "optim.clip_exempt changes nothing"),
        (["steps=150"], "steps=150 and eval_every=150: validation is looked at once"),
        (["steps=20"], "validation is looked at once. For a curve: eval_every=2."),
    ],
)
def test_what_changes_nothing_is_said(overrides, said):
    found = remarks([make_plan(["task=cola", *overrides])])
    assert len(found) == 1
    assert said in found[0]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["optim.clipping_level=1"],  # the default of its type
        ["optim.clipping_level=null", "optim.clipping_type=auto"],
        ["optim.clipping_type=auto", "optim.p_autoclip=.5", "optim.clip.window=100"],
        ["restart.first=100", "restart.coeff=2"],
        ["optim=sgd", "optim.momentum=0", "optim.lr=.1", "seed=3", "accumulate=1", "accumulate=2"],
        ["threads=1", "device=cpu", "results=elsewhere", "checkpoint_every=10", "sweep.lockstep=false"],
        ["steps=20", "eval_every=20"],
        ["compile=false", "warmup=3", "schedule=cosine", "batch_size=8", "max_loss=3", "precision=bf16"],
    ],
)
def test_nothing_is_said_of_what_is_used_or_at_its_default(overrides):
    assert remarks([make_plan(["task=cola", *overrides])]) == []


def test_in_a_grid_a_type_is_named_unless_it_is_the_reference_and_others_use_it():
    grid = ["task=cola", "optim.clipping_type=none,norm,auto", "optim.clipping_level=2,3", "seed=0,1"]
    assert remarks(make_plans(grid)) == [
        "optim.clipping_level changes nothing for auto: it has p_autoclip, window."
    ]
    grid = ["task=cola", "optim.clipping_type=none,norm", "optim.clipping_level=2,3", "restart.coeff=2,3"]
    assert remarks(make_plans(grid)) == ["restart.coeff changes nothing in what was asked for."]
    grid = ["task=cola", "restart.first=null,100", "restart.coeff=2,3", "optim.clipping_type=norm"]
    assert remarks(make_plans(grid)) == []
