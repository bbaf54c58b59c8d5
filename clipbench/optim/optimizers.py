"""torch's optimizers with clipping in the constructor: ClippedSGD, ClippedAdam, ClippedAdamW."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from clipbench.optim.checks import check_that
from clipbench.optim.clip import Clipping
from clipbench.optim.make import make_rule
from clipbench.optim.rule import Rule
from clipbench.optim.units import LEVEL, PREFIX, check_group


class Prepared(Optimizer):
    """Base of all optimizers of ours: what they are given and what they load is looked at first."""

    state_names: ClassVar[tuple[str, ...]] = ()
    """What must be in a parameter's state once there is anything in it."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's. ValueError, before anything is loaded, for the state of an optimizer of another kind.

        Settings of a group that were not saved, as by a relative, are the defaults.
        """
        for key, saved in state_dict["state"].items():
            if isinstance(key, str):  # of an earlier version
                continue
            missing = self.lacks(saved)
            own = [name for name in saved if not str(name).startswith(PREFIX)] if missing else []
            if own:
                raise ValueError(
                    f"The checkpoint is not one of {type(self).__name__}: a parameter's state has "
                    f"{', '.join(own)}, and not {', '.join(missing)}. Load it into the optimizer that it "
                    "was saved from."
                )
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                if name not in self.not_of_groups():
                    group.setdefault(name, value)

    def lacks(self, saved: dict[str, Any]) -> list[str]:
        """What a parameter's saved state would have to have."""
        return [name for name in self.state_names if name not in saved]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's. ValueError for a misspelt key of clipping."""
        if isinstance(param_group, dict) and "params" in param_group:
            param_group = {**param_group, "params": _as_list(param_group["params"])}
            check_group(param_group)
            self._drop_common(param_group)
        given = set(param_group)
        super().add_param_group(param_group)
        for name in self.not_of_groups():
            if name not in given:
                self.param_groups[-1].pop(name, None)

    def not_of_groups(self) -> Collection[str]:
        """Those of `defaults` that are the whole optimizer's, and that no group holds."""
        return ()

    def _drop_common(self, group: dict[str, Any]) -> None:
        """What wrappers copy into every group. ValueError where it is not what the optimizer has."""
        for name in self.not_of_groups():
            if name not in group:
                continue
            if group[name] == self.defaults[name]:
                del group[name]
            elif name != LEVEL:  # by which a group may be exempt
                raise ValueError(f"{name} is of the whole optimizer: a parameter group cannot have its own.")

    def extend_groups(self, settings: dict[str, Any]) -> None:
        """Settings that a parameter group may have of its own, as it may have torch's."""
        self.defaults.update(settings)
        for group in self.param_groups:
            for name, value in settings.items():
                group.setdefault(name, value)


class Clipped(Prepared):
    """Base of the optimizers that clip by themselves, and that still do when they are copied or unpickled.

    A subclass calls `join` at the end of its constructor. It may extend `build_rule`, to clip by more than
    the rule asked for, and `attach_hooks`, to have step hooks of its own. `defaults` holds the settings of
    clipping too, so `type(optimizer)(params, **optimizer.defaults)` is the same optimizer.
    """

    clipping: Clipping
    settings: dict[str, Any]
    """Of clipping, as given: name → value."""
    _step_supports_amp_scaling = False
    """torch sets it for fused=True: a GradScaler then leaves its work to the step."""

    def join(
        self, clipping_type: str | Rule, nonfinite: str, rng: torch.Generator | None, settings: dict[str, Any]
    ) -> None:
        """Clip from now on; `settings` are the rule's. ValueError for what is misspelt or cannot be."""
        rule = self.build_rule(clipping_type, settings)
        self.clipping = Clipping(rule, nonfinite, rng, automatic=True)
        self.settings = {**settings, "clipping_type": clipping_type, "nonfinite": nonfinite}
        self.settings[LEVEL] = rule.level_or_none if settings.get(LEVEL) is None else settings[LEVEL]
        self.defaults.update(self.settings)
        for group in self.param_groups:
            self._drop_common(group)
        self.attach_hooks()

    def build_rule(self, clipping_type: str | Rule, settings: dict[str, Any]) -> Rule:
        """The rule by which this optimizer clips."""
        return make_rule(clipping_type, **settings)

    def attach_hooks(self) -> None:
        """Register what acts at every step: when built, and again for a copy, which has lost its hooks."""
        self.clipping.attach(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if not all(group.get("fused") for group in self.param_groups):  # a GradScaler goes by it
            self._step_supports_amp_scaling = False

    def not_of_groups(self) -> Collection[str]:
        if not hasattr(self, "settings"):  # it is being built
            return ()
        has_level = self.clipping.rule.level_or_none is not None
        return self.settings.keys() - {LEVEL} if has_level else self.settings.keys()

    def __repr__(self) -> str:
        shown = []
        for group in self.param_groups:
            shown.append({key: value for key, value in group.items() if not key.startswith(PREFIX)})
        groups, self.param_groups = self.param_groups, shown
        try:
            text = super().__repr__()
        finally:
            self.param_groups = groups
        rule, policy = self.clipping.rule, self.clipping.nonfinite
        return f"{text.removesuffix(')')}clipping: {rule}, nonfinite={policy!r}\n)"

    def __getstate__(self) -> dict[str, Any]:
        self.clipping.drop_unfinished(self)
        fused = self._step_supports_amp_scaling
        own = {"clipping": self.clipping, "settings": self.settings, "_step_supports_amp_scaling": fused}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "clipping" in state:  # not from load_state_dict, which comes here too
            self.attach_hooks()


class ClippedSGD(Clipped, SGD):
    """torch.optim.SGD on clipped gradients: momentum takes clip(g).

    `clipping_type` is a name from `clipbench.optim.RULES`, "module:Class" or a rule; `clipping_level` None
    is the type's default; further fields of the rule (p_autoclip, beta, window, …) are keywords too, and an
    unknown one is a ValueError. A parameter group may have a `clipping_level` of its own. With `fused` and
    `foreach` left open a step takes torch's fused kernel where weights, gradients and states are dense and
    lie alike, else what torch would take: the factor is then applied as the kernel updates, and a non-finite
    gradient leaves the step out exactly. The rest: `clip_gradients`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float | Tensor = 0.0,
        nesterov: bool = False,
        *,
        clipping_type: str | Rule = "norm",
        clipping_level: float | None = None,
        nonfinite: str = "skip",
        rng: torch.Generator | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        **rule_settings: Any,
    ) -> None:
        super().__init__(
            as_groups(params),
            lr,
            momentum,
            dampening,
            weight_decay,
            nesterov,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
        )
        self.join(clipping_type, nonfinite, rng, {LEVEL: clipping_level, **rule_settings})


class ClippedAdam(Clipped, Adam):
    """torch.optim.Adam on clipped gradients: the moments and weight decay (0 unless given) take clip(g).

    Else as ClippedSGD.
    """

    default_weight_decay = 0.0
    decouples_weight_decay = False
    state_names = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float | None = None,
        amsgrad: bool = False,
        *,
        clipping_type: str | Rule = "norm",
        clipping_level: float | None = None,
        nonfinite: str = "skip",
        rng: torch.Generator | None = None,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool | None = None,
        **rule_settings: Any,
    ) -> None:
        decoupled = self.decouples_weight_decay
        if decoupled_weight_decay not in (None, decoupled):
            raise ValueError(f"{type(self).__name__} has decoupled_weight_decay={decoupled}.")
        super().__init__(
            as_groups(params),
            lr,
            betas,
            eps,
            self.default_weight_decay if weight_decay is None else weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
        )
        self.join(clipping_type, nonfinite, rng, {LEVEL: clipping_level, **rule_settings})


class ClippedAdamW(ClippedAdam, AdamW):
    """torch.optim.AdamW on clipped gradients; weight decay (0.01 unless given) acts on the weights."""

    default_weight_decay = 0.01
    decouples_weight_decay = True


def as_groups(params: Iterable[Any]) -> list[Any]:
    """`params` as torch takes them, read once (an iterator would be spent)."""
    if isinstance(params, Tensor):
        raise TypeError("params must be an iterable of tensors or of dicts, got one Tensor.")
    groups: list[Any] = []
    for item in params:
        if isinstance(item, dict):
            item = {**item, "params": _as_list(item["params"])}
        groups.append(item)
    return groups


def _as_list(params: Any) -> list[Any]:
    return [params] if isinstance(params, Tensor) else list(params)


def loss_of(closure: Callable[[], Any] | None) -> Any:
    """The loss of a closure, which computes gradients; None without one. A step begins with it."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def check_lr(lr: float | Tensor) -> None:
    """ValueError unless it is a number of at least 0, or a tensor of one."""
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"lr must be a number or a tensor of one, got one of shape {tuple(lr.shape)}.")
    check_that("lr", lr, lr >= 0, "a number of at least 0")


def number_of(value: float | Tensor) -> float | Tensor:
    """A tensor of one number, whatever its shape, as one of shape (); a float as it is."""
    return value.reshape(()) if isinstance(value, Tensor) else value


def choose_fused(groups: Iterable[Any]) -> bool | None:
    """True where torch has a fused kernel for every parameter: real floating tensors on CPU or CUDA.

    Else None, torch's default. `groups` are parameters, pairs of name and parameter, or groups of either.
    """
    items: list[Any] = []
    for group in groups:
        items += group["params"] if isinstance(group, dict) else [group]
    for item in items:
        p = item[1] if isinstance(item, tuple) else item
        if not (isinstance(p, Tensor) and p.is_floating_point() and p.device.type in ("cpu", "cuda")):
            return None
    return True if items else None
