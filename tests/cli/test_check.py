"""`clipbench check`: a user's own rule and task are put through the laws of ours, and each fault is found by
name.
"""

import re
import sys
from pathlib import Path

import pytest

from clipbench.cli.main import main
from clipbench.optim import laws
from clipbench.task.laws import CONTRACT as TASKS

RULE = """
import torch
from dataclasses import dataclass
from clipbench.optim import Norm, Rule, within

@dataclass(frozen=True)
class Smooth(Rule):
    '''α = 1/√(1 + (‖g‖/η)²)'''
    clipping_level: float = 1.0

    def __call__(self, grads, params, state, rng):
        return (1 + (grads.norm / self.clipping_level) ** 2).rsqrt(), state

class Waits(Norm):
    def __call__(self, grads, params, state, rng):
        return torch.tensor(min(1.0, self.clipping_level / max(grads.norm.item(), 1e-9))), state

class Narrow(Norm):
    def __call__(self, grads, params, state, rng):
        norm = torch.stack([(g * g).sum() for g in grads]).sum().sqrt()
        return within(self.clipping_level, norm), state

class Divides(Norm):
    def __call__(self, grads, params, state, rng):
        return self.clipping_level / grads.norm, state

seen = []

class Outside(Norm):
    def __call__(self, grads, params, state, rng):
        seen.append(grads.norm)
        return within(self.clipping_level, grads.norm) / len(seen), state

class InPlace(Rule):
    def init(self, params):
        return {"largest": torch.zeros(())}

    def __call__(self, grads, params, state, rng):
        torch.maximum(state["largest"], grads.norm.float(), out=state["largest"])
        return within(state["largest"] / 2, grads.norm), state

class Grows(Rule):
    def init(self, params):
        return {"norms": torch.zeros(1)}

    def __call__(self, grads, params, state, rng):
        norms = torch.cat([state["norms"], grads.norm.float().reshape(1)])
        return within(norms.mean(), grads.norm), {"norms": norms}

class Forgets(Norm):
    last = {}

    def __call__(self, grads, params, state, rng):
        before = self.last.get(id(params[0]), grads.norm)
        self.last[id(params[0])] = grads.norm
        return within(before, grads.norm), state

@dataclass(frozen=True)
class Cools(Norm):
    warmup_steps: int = 50
    last = {}

    def init(self, params):
        return {"count": torch.zeros(())}

    def __call__(self, grads, params, state, rng):
        before = self.last.get(id(params[0]), grads.norm)
        self.last[id(params[0])] = grads.norm
        level = torch.where(state["count"] < self.warmup_steps, grads.norm, before)
        return within(level, grads.norm), {"count": state["count"] + 1}

class Infinite(Norm):
    def __call__(self, grads, params, state, rng):
        return self.clipping_level / (self.clipping_level + grads.norm), state

class Shifts(Rule):
    def init(self, params):
        return {"mean": torch.ones(len(params))}

    def __call__(self, grads, params, state, rng):
        mean = 0.9 * state["mean"] + 0.1 * grads.norms.float()
        return within(mean, grads.norms), {"mean": mean}

class Needs(Rule):
    pass

plain = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "checked_clip.py").write_text(RULE)
    (tmp_path / "checked_line.py").write_text(
        Path(__file__).parents[1].joinpath("tiny.py").read_text()
        + "\n\nclass Leaks(Line):\n    def eval_batches(self, split):\n"
        "        return super().eval_batches('val')\n"
        + "\n\nclass Sized(Line):\n    def __init__(self, batch_size):\n"
        "        super().__init__(batch_size)\n"
    )
    (tmp_path / "mine" / "task").mkdir(parents=True)
    (tmp_path / "mine" / "task" / "sized.yaml").write_text(
        "name: sized\n_target_: checked_line.Sized\nbatch_size: ${batch_size}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("checked_clip", "checked_line"):
        sys.modules.pop(name, None)


def lines(text, mark):
    return {line[4:].split(":")[0] for line in text.splitlines() if line.startswith(f"  {mark} ")}


def test_a_good_rule_passes_and_its_properties_are_named(own, capsys):
    assert main(["check", "checked_clip:Smooth"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("checked_clip:Smooth  α = 1/√(1 + (‖g‖/η)²)")
    assert set(laws.CONTRACT) <= lines(shown, "✓")
    assert lines(shown, "✓") - set(laws.CONTRACT) == {
        laws.SHRINKS,
        laws.BOUNDED,
        laws.HOMOGENEOUS,
        laws.STRAIGHT,
    }
    assert lines(shown, "·") == {laws.IDEMPOTENT}


@pytest.mark.parametrize(
    ("name", "law", "message"),
    [
        ("Waits", "no step waits for the device", "more waits per step than without clipping"),
        (
            "Narrow",
            "half precision agrees with float32",
            "1000 entries of 60 became 1 in float32, 0 in torch.float16",
        ),
        ("Divides", "zero stays zero", "a gradient of zeros got the norm nan"),
        ("Outside", "the same again gives the same", "gave two results"),
        ("InPlace", "the same again gives the same", "the memory that came in was changed"),
        ("Grows", "the memory keeps its size", "after 60"),
        (
            "Forgets",
            "five steps, save, load, five steps are ten steps",
            "other weights after saving and loading",
        ),
        (
            "Cools",
            "five steps, save, load, five steps are ten steps",
            "other weights after saving and loading",
        ),
        ("Infinite", "clipping_level=inf is no clipping", "at clipping_level=inf a norm of .* became nan"),
        ("InPlace", "what is not finite is skipped and forgotten", "a gradient with nan entered the memory"),
        ("Shifts", "a missing gradient shifts nothing", "RuntimeError at checked_clip.py"),
        ("Needs", "zero stays zero", "NotImplementedError at rule.py"),
    ],
)
def test_each_fault_is_found_by_its_law(own, capsys, name, law, message):
    assert main(["check", f"checked_clip:{name}"]) == 1
    shown = capsys.readouterr().out
    assert law in lines(shown, "✗")
    assert re.search(rf"✗ {re.escape(law)}: .*{message}", shown)


@pytest.mark.parametrize("name", ["norm", "adagc", "block_rms"])
def test_ours_are_checked_by_name(capsys, name):
    assert main(["check", name]) == 0
    assert "✗" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["checked_line:Line"], ["--config-dir", "mine", "task=sized", "batch_size=8"]]
)
def test_a_good_task_passes(own, capsys, words):
    assert main(["check", *words]) == 0
    assert lines(capsys.readouterr().out, "✓") == set(TASKS)


def test_a_task_whose_test_is_its_validation_does_not(own, capsys):
    assert main(["check", "checked_line:Leaks"]) == 1
    shown = capsys.readouterr().out
    assert lines(shown, "✗") == {"splits are disjoint, as far as can be seen"}
    assert "32 examples of 32 in 'val' are also in 'test'" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere:Smooth"], "There is no module 'nowhere'"),
        (["checked_clip:Smoth"], "There is no 'Smoth' in checked_clip. Did you mean 'Smooth'?"),
        (["checked_clip:plain"], "must be a class that inherits clipbench.optim.Rule or clipbench.task.Task"),
        (["checked_line:Sized"], "A class that needs settings is checked as task=NAME"),
        (["atuo"], "Did you mean 'auto'"),
        (["norm", "auto"], "takes one name"),
        (["task=nothing"], "Unknown task 'nothing'"),
        ([], "the following arguments are required"),
    ],
)
def test_a_mistake_is_one_message(own, capsys, words, message):
    assert main(["check", *words]) == 2
    error = capsys.readouterr().err
    assert message.lower() in error.lower()
    assert "Traceback" not in error
