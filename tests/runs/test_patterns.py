"""Levels of their own and exempt parameters, by patterns of names, from the command line to the optimizer."""

import json
import math
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import set_gradients
from torch import nn

from clipbench.cli.main import main
from clipbench.errors import UserError
from clipbench.optim import RULES, ClippedSGD, make_rule
from clipbench.runs.patterns import last_linear, parameter_groups
from clipbench.runs.plan import make_plan

NORM, AGC, NONE, AUTO = (make_rule(name) for name in ("norm", "agc", "none", "auto"))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(5, 4)
        self.norm = nn.LayerNorm(4)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.head = nn.Linear(4, 2)
        self.tail = nn.ReLU()
        self.body[0].bias.requires_grad_(False)


def named(model, groups):
    """{level: names}; None is the type's own."""
    names = {p: name for name, p in model.named_parameters()}
    if not isinstance(groups[0], dict):
        groups = [{"params": groups}]
    return {group.get("clipping_level"): [names[p] for p in group["params"]] for group in groups}


EVERY = ["embed.weight", "norm.weight", "norm.bias", "body.0.weight", "head.weight", "head.bias"]


def test_without_patterns_the_parameters_are_plain():
    model = Model()
    assert named(model, parameter_groups(model, NORM, None, None)) == {None: EVERY}
    assert not isinstance(parameter_groups(model, NORM, [], {})[0], dict)


def test_exempt_come_first_and_the_first_pattern_counts():
    model = Model()
    found = named(
        model, parameter_groups(model, NORM, ["*.bias"], {"embed*": 0.5, "[en]*": 2, "head.?eight": 3})
    )
    assert found == {
        None: ["body.0.weight"],
        0.5: ["embed.weight"],
        2: ["norm.weight"],
        3: ["head.weight"],
        math.inf: ["norm.bias", "head.bias"],
    }


def test_agc_spares_the_last_linear_layer_unless_told_otherwise():
    model = Model()
    assert last_linear(model) == ["head.weight", "head.bias"]
    spared = {None: EVERY[:4], math.inf: EVERY[4:]}
    assert named(model, parameter_groups(model, AGC, None, None)) == spared
    assert named(model, parameter_groups(model, AGC, [], None)) == {None: EVERY}
    assert named(model, parameter_groups(model, AGC, ["embed.*"], None)) == {
        None: EVERY[1:],
        math.inf: EVERY[:1],
    }
    assert named(model, parameter_groups(model, NORM, None, None)) == {None: EVERY}
    convolutions = nn.Conv2d(1, 1, 1)
    assert last_linear(convolutions) == []
    assert not isinstance(parameter_groups(convolutions, AGC, None, None)[0], dict)


def test_a_pattern_that_matches_nothing_is_refused_with_names():
    with pytest.raises(
        UserError,
        match=r"clip_exempt: 'hed\.\*' matches no parameter's name.*There are: embed\.weight, norm\.weight",
    ):
        parameter_groups(Model(), NORM, ["hed.*"], None)
    with pytest.raises(UserError, match=r"clip_levels: 'head\.\*' .* or none that an earlier pattern left"):
        parameter_groups(Model(), NORM, ["head.*"], {"head.*": 1.0})
    many = nn.Sequential(*[nn.Linear(1, 1) for _ in range(20)])
    with pytest.raises(UserError, match="and 28 more"):
        parameter_groups(many, NORM, ["x"], None)


@pytest.mark.parametrize("name", RULES)
def test_an_exempt_group_is_left_alone_under_every_type(name):
    model = Model()
    groups = parameter_groups(model, make_rule(name), ["embed.*"], None)
    optimizer = ClippedSGD(groups, lr=0.1, clipping_type=name)
    for step in range(3):
        set_gradients(model, step, 100.0)
        before, grad = model.embed.weight.detach().clone(), model.embed.weight.grad.clone()
        optimizer.step()
        torch.testing.assert_close(model.embed.weight.detach(), before - 0.1 * grad)


def test_levels_act_each_on_its_own_norm():
    model = Model()
    optimizer = ClippedSGD(
        parameter_groups(model, NORM, ["norm.*"], {"head.*": 0.25}), lr=1.0, clipping_type=NORM
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    set_gradients(model, 0, 100.0)
    free = torch.stack([p.grad.norm() for p in model.norm.parameters()]).norm()
    optimizer.step()
    moved = {
        name: (p.detach() - before[name]).norm() for name, p in model.named_parameters() if p.requires_grad
    }
    size = {
        part: math.hypot(*(float(v) for name, v in moved.items() if name.split(".")[0] in part))
        for part in ("head", "norm", "embed body")
    }
    assert size == pytest.approx({"head": 0.25, "norm": float(free), "embed body": 1.0}, rel=1e-4)


def test_a_level_of_its_own_needs_a_type_with_levels():
    groups = [{"params": list(Model().head.parameters()), "clipping_level": 0.5}]
    with pytest.raises(ValueError, match=r"Auto has none\. Only inf is allowed, which exempts it"):
        ClippedSGD(groups, clipping_type="auto")
    ClippedSGD([{**groups[0], "clipping_level": math.inf}], clipping_type="auto")
    ClippedSGD(groups, clipping_type="none")


# in the bench


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "line.yaml").write_text(
        "name: line\n_target_: patterns_line.Line\nbatch_size: ${batch_size}\n"
    )
    (tmp_path / "patterns_line.py").write_text(Path(__file__).parents[1].joinpath("tiny.py").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("patterns_line", None)


def clipbench(command, *words):
    return main(
        [
            command,
            "--config-dir",
            ".",
            "task=line",
            "steps=12",
            "eval_every=6",
            "optim=sgd",
            "optim.lr=0.05",
            *words,
        ]
    )


def test_patterns_change_the_run_and_its_id_and_stand_in_its_row(own):
    words = ["optim.clipping_level=0.05"]
    assert clipbench("run", *words) == 0
    assert clipbench("run", *words, 'optim.clip_exempt=["*.bias"]') == 0
    assert clipbench("run", *words, "optim.clip_levels={3.*: 0.5, 0.b*: inf}") == 0
    runs, steps = pd.read_parquet("results/runs"), pd.read_parquet("results/steps")
    assert len(runs) == 3
    assert steps.groupby("run")["clipped_norm"].mean().nunique() == 3
    configs = [json.loads(config)["optim"] for config in runs["config"]]
    assert sorted(str(config["clip_levels"]) for config in configs) == [
        "None",
        "None",
        "{'0.b*': 'inf', '3.*': 0.5}",
    ]
    assert steps["clipped_norm"].le(steps["grad_norm"] * (1 + 1e-6)).all()


def test_for_none_patterns_change_nothing(own):
    assert clipbench("sweep", "optim.clipping_type=none,norm", 'optim.clip_exempt=null,["*.bias"]') == 0
    assert sorted(pd.read_parquet("results/runs")["clipping_type"]) == ["none", "norm", "norm"]


@pytest.mark.parametrize(("optim", "ids"), [("spam", 2), ("stable_spam", 2), ("acclip", 1), ("adamw", 1)])
def test_under_none_patterns_make_another_run_only_where_the_optimizer_clips_by_itself(optim, ids):
    words = [f"optim={optim}", "optim.clipping_type=none"]
    assert len({make_plan([*words, *more]).run for more in ([], ['optim.clip_exempt=["*.bias"]'])}) == ids


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["optim.clip_exempt=[nope*]"],
            "'nope*' matches no parameter's name, or none that an earlier pattern left. There are: 0.weight",
        ),
        (["optim.clip_exempt=head"], "optim.clip_exempt must be null or a list of patterns"),
        (["optim.clip_levels=[1]"], "optim.clip_levels must be null or levels by pattern"),
        (["optim.clip_levels={3.*: 0}"], "the level of '3.*' must be above 0, got 0"),
        (
            ["optim.clip_levels={3.*: 1}", "optim.clipping_type=auto"],
            "Auto has no clipping_level. For it, only inf is allowed",
        ),
        (
            ["optim.clipping_type=block_rms"],
            "optim=sgd: clipping_type 'block_rms' acts on the update of Adam. Use optim=adam or",
        ),
    ],
)
def test_a_mistake_is_one_message(own, capsys, words, message):
    assert clipbench("run", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_block_rms_runs_with_adam_and_its_row_says_what_it_did(own):
    assert clipbench("run", "optim=adamw", "optim.clipping_type=block_rms", "optim.clipping_level=0.5") == 0
    factors = pd.read_parquet("results/steps")["clip_factor"]
    assert factors.iloc[0] == pytest.approx(0.5, rel=1e-3)  # the first update of Adam is a sign, of RMS 1
    assert factors.between(0.2, 1.0).all()
