"""What a rule or an optimizer of one's own can do by the public seams alone."""

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, get_args

import pytest
import torch
from optim_helpers import IMPLEMENTATIONS
from torch import nn

from clipbench.optim import EntryRule, Norm, Rule, UpdateRule, clip_gradients, clip_stats
from clipbench.optim.protocols import Extra, OptimizerExtras, extra
from clipbench.optim.units import at_level
from clipbench.task.metrics import MetricExtras


def one_step(optimizer, grads):
    """What the weights of the optimizer's first group move by under these gradients."""
    params = optimizer.param_groups[0]["params"]
    before = [p.detach().clone() for p in params]
    for p, grad in zip(params, grads, strict=True):
        p.grad = torch.tensor(grad)
    optimizer.step()
    return [(b - p.detach()).tolist() for b, p in zip(before, params, strict=True)]


def test_every_extra_member_is_listed_once():
    attributes = set(OptimizerExtras.__annotations__)
    methods = {name for name in vars(OptimizerExtras) if not name.startswith("_")}
    assert set(get_args(Extra)) == attributes | methods
    assert extra(object(), "begin") is None


ROOT = Path(__file__).parents[2]
MAY_PROBE = {"optim/rule.py": "clipping_level", "task/tree.py": "to"}
"""`Rule.level_or_none`; a leaf of a batch that is no tensor but moves."""


def probed_names(path):
    """The literal names that a file looks for with getattr or hasattr."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        if node.func.id in ("getattr", "hasattr") and isinstance(node.args[1], ast.Constant):
            yield node.args[1].value


def test_optional_members_are_looked_for_in_one_place():
    """Of optimizers by `extra`, of rules by `level_or_none`, of metrics by MetricSet."""
    of_metrics = {name for name in vars(MetricExtras) if not name.startswith("_")}
    assert of_metrics == {"to", "state_dict", "load_state_dict", "persistent", "resolution"}
    listed = {*get_args(Extra), *of_metrics, "compute", "clipping_level"}
    seen = set()
    for path in sorted((ROOT / "clipbench").rglob("*.py")):
        name = path.relative_to(ROOT / "clipbench").as_posix()
        probed = listed & set(probed_names(path))
        seen |= probed
        if name != "task/metric_set.py":
            assert probed <= {MAY_PROBE.get(name)}, f"{name} looks for {probed}"
    assert seen == of_metrics | {"compute", "clipping_level"}


@dataclass(frozen=True)
class Signs(EntryRule):
    """every entry becomes its sign"""

    def __call__(self, grads, params, state, rng):
        torch._foreach_sign_(grads)
        return None, state


@dataclass(frozen=True)
class HalfStep(UpdateRule):
    """the step of SGD without momentum, halved"""

    tied_to: ClassVar = torch.optim.SGD

    def after_step(self, optimizer, group, skipped):
        square = torch.zeros(())
        for p in group["params"]:
            update = group["lr"] * p.grad
            p.data.add_(torch.where(skipped, 0, update / 2))
            square = square + update.square().sum()
        return square, square / 4


@dataclass(frozen=True)
class Smooth(Rule):
    """α = 1/√(1 + (‖g‖/η)²), as in the README"""

    clipping_level: float = 1.0

    def __call__(self, grads, params, state, rng):
        return (1 + (grads.norm / self.clipping_level) ** 2).rsqrt(), state


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_three_kinds_of_rules(implementation):
    """Of g = (3, −4): a rule with a factor, 1/√(1 + 5²/12²) = 12/13; one that edits entries.

    One for the update.
    """
    for rule, moved, norm in (
        (Smooth(12.0), [36 / 13, -48 / 13], 60 / 13),
        (Signs(), [1, -1], 2**0.5),
        (HalfStep(), [1.5, -2], 2.5),
    ):
        p = nn.Parameter(torch.zeros(2))
        optimizer = clip_gradients(torch.optim.SGD([p], lr=1.0, **IMPLEMENTATIONS[implementation]), rule)
        assert one_step(optimizer, [[3.0, -4.0]])[0] == pytest.approx(moved)
        assert float(clip_stats(optimizer).grad_norm) == pytest.approx(5)
        assert float(clip_stats(optimizer).clipped_norm) == pytest.approx(norm)


def test_a_rule_that_lacks_its_method_says_so():
    p = nn.Parameter(torch.zeros(1))
    p.grad = torch.ones(1)

    @dataclass(frozen=True)
    class Nothing(UpdateRule):
        pass

    for base in (Rule, EntryRule):
        with pytest.raises(NotImplementedError, match=f"{base.__name__} must define __call__"):
            clip_gradients(torch.optim.SGD([p]), base()).step()
    with pytest.raises(NotImplementedError, match="Nothing must define after_step"):
        clip_gradients(torch.optim.SGD([p]), Nothing()).step()


class Tightening(torch.optim.SGD):
    """Its level halves from step to step."""

    def rule_at_step(self, rule, group):
        done = group.get("done", 0)
        return at_level(rule, rule.clipping_level * 0.5**done)

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            group["done"] = group.get("done", 0) + 1


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_an_optimizer_may_adapt_the_rule_at_each_step(implementation):
    params = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [p]} for p in params]
    optimizer = clip_gradients(Tightening(groups, lr=1.0, **IMPLEMENTATIONS[implementation]), Norm(1.0))
    moved = []
    for _ in range(3):
        before = params[0].item()
        for p, value in zip(params, (3.0, 4.0), strict=True):
            p.grad = torch.tensor([value])
        optimizer.step()
        moved.append(before - params[0].item())
    assert moved == pytest.approx([0.6, 0.3, 0.15])  # normed together, as their rules are equal
    assert float(clip_stats(optimizer).clipped_norm) == pytest.approx(0.25)


class Rounding(torch.optim.SGD):
    """It rounds what is left of the gradient."""

    def edit_gradients(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.round_()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_an_optimizer_may_edit_the_clipped_gradient(implementation):
    p = nn.Parameter(torch.zeros(2))
    optimizer = clip_gradients(Rounding([p], lr=1.0, **IMPLEMENTATIONS[implementation]), Norm(5.0))
    assert one_step(optimizer, [[6.3, 8.1]]) == [[3, 4]]  # clipped to 3.07, 3.95
    assert float(clip_stats(optimizer).clipped_norm) == 5
    assert one_step(optimizer, [[0.4, float("nan")]]) == [[0, 0]]  # left out, or a gradient of zeros
