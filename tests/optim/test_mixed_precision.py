"""Mixed precision: with a GradScaler, in accelerate and in Lightning, ours does as torch's by default.

Each is run side by side with torch's, which clips by `clip_grad_norm_` after `unscale_`.
"""

import warnings

import pytest
import torch
from conftest import small_model, weights
from optim_helpers import same
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import ExponentialLR

from clipbench.optim import (
    SPAM,
    ClippedAdam,
    ClippedAdamW,
    ClippedSGD,
    Lion,
    Norm,
    StableSPAM,
    clip_gradients,
    clip_stats,
)

LEVEL = 0.3
KINDS = {
    "sgd": (SGD, ClippedSGD, {"lr": 0.1}),
    "momentum": (SGD, ClippedSGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    "adam": (Adam, ClippedAdam, {"lr": 0.01, "weight_decay": 0.1}),
    "adamw": (AdamW, ClippedAdamW, {"lr": 0.01, "amsgrad": True}),
}
CHOICES = {
    "default": {},
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "loop": {"foreach": False, "fused": False},
}
OVERFLOWS = (0, 3, 4)
"""Of eight steps, those whose gradient is not finite."""
LATER = (2, 5, 6)
"""Without the first: a skipped first step leaves rubbish in the momentum of torch's own fused SGD."""
every_kind = pytest.mark.parametrize("kind", KINDS)
every_choice = pytest.mark.parametrize("choice", CHOICES)


def loss_of(model, step, overflow=None):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 6, generator=generator)
    y = (1 + step % 3) * torch.randn(8, 3, generator=generator)
    loss = (model(x) - y).square().mean()
    return loss if overflow is None else loss * overflow


def scaler_of(**settings):
    return torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2, **settings)


class Run:
    """What eight steps left: the weights and the scale after each, and how often the optimizer moved."""

    def __init__(self):
        self.weights, self.scales = [], []

    def of(self, optimizer, model, scaler, clip=None, unscale=False, steps=range(8), overflows=OVERFLOWS):
        """`clip` is the level of torch's own clipping; `unscale`: the user unscales, as for a look."""
        for step in steps:
            optimizer.zero_grad()
            overflow = float("inf") if step in overflows else None
            scaler.scale(loss_of(model, step, overflow)).backward()
            if clip is not None or unscale:
                scaler.unscale_(optimizer)
            if clip is not None:
                clip_grad_norm_(model.parameters(), clip)
            scaler.step(optimizer)
            scaler.update()
            self.weights.append(weights(model))
            self.scales.append(scaler.get_scale())
        return self


def theirs(kind, clip=LEVEL, **changes):
    cls, _, settings = KINDS[kind]
    model = small_model()
    optimizer = cls(model.parameters(), **settings)
    return Run().of(optimizer, model, scaler_of(), clip=clip, **changes), optimizer


def ours(kind, choice, unscale=False, overflows=OVERFLOWS, **more):
    _, cls, settings = KINDS[kind]
    model = small_model()
    optimizer = cls(model.parameters(), clipping_level=LEVEL, **settings, **CHOICES[choice], **more)
    run = Run().of(optimizer, model, scaler_of(), unscale=unscale, overflows=overflows)
    return run, optimizer


def check(run, expected):
    assert run.scales == expected.scales
    for one, other in zip(run.weights, expected.weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def counts(optimizer):
    """Adam's counters; none for SGD."""
    return [float(state["step"]) for state in optimizer.state.values() if "step" in state]


@pytest.mark.parametrize("unscale", [False, True], ids=["scaled", "unscaled"])
@every_choice
@every_kind
def test_with_a_scaler_as_torchs_default(kind, choice, unscale):
    expected, their_optimizer = theirs(kind)
    run, optimizer = ours(kind, choice, unscale)
    check(run, expected)
    assert counts(optimizer) == counts(their_optimizer)
    for step in OVERFLOWS:
        before = run.weights[step - 1] if step else weights(small_model())
        assert same(run.weights[step], before)
    assert run.scales[0] < 2.0**10  # the scaler saw the overflow
    assert not hasattr(optimizer, "grad_scale")
    assert not hasattr(optimizer, "found_inf")


@every_choice
@every_kind
def test_the_scaler_makes_no_difference_but_for_what_it_skips(kind, choice):
    run, _ = ours(kind, choice, overflows=())
    expected, _ = ours(kind, choice, overflows=())
    _, cls, settings = KINDS[kind]
    model = small_model()
    optimizer = cls(model.parameters(), clipping_level=LEVEL, **settings, **CHOICES[choice])
    plain = Run().of(optimizer, model, scaler_of(enabled=False), overflows=())
    for one, other in zip(run.weights, plain.weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert expected.scales == run.scales


@every_choice
@every_kind
def test_an_overflow_that_the_scaler_handles_is_not_raised(kind, choice):
    expected, _ = theirs(kind)
    run, _ = ours(kind, choice, nonfinite="raise")
    check(run, expected)


@every_choice
def test_without_a_scaler_it_is_raised(choice):
    _, cls, settings = KINDS["adamw"]
    model = small_model()
    optimizer = cls(model.parameters(), nonfinite="raise", **settings, **CHOICES[choice])
    before = weights(model)
    loss_of(model, 0, float("inf")).backward()
    with pytest.raises(FloatingPointError):
        optimizer.step()
    assert same(weights(model), before)
    assert not hasattr(optimizer, "found_inf")
    # and it can go on
    optimizer.zero_grad()
    loss_of(model, 1).backward()
    optimizer.step()
    assert not same(weights(model), before)


@pytest.mark.parametrize("kind", ["momentum", "adamw"])
@every_choice
@pytest.mark.parametrize("nonfinite", ["skip", "raise"])
def test_joined_to_torchs_own_it_does_as_that(kind, choice, nonfinite):
    cls, _, settings = KINDS[kind]
    model = small_model()
    optimizer = cls(model.parameters(), **settings, **CHOICES[choice])
    clip_gradients(optimizer, Norm(LEVEL), nonfinite=nonfinite)
    run = Run().of(optimizer, model, scaler_of())
    check(run, theirs(kind)[0])


@pytest.mark.parametrize("saved", CHOICES)
@every_choice
@every_kind
def test_after_a_plain_torch_checkpoint(kind, choice, saved):
    """Four steps by torch's, its checkpoint into ours, four by ours; torch's goes on by itself."""
    cls, our_class, settings = KINDS[kind]
    model = small_model()
    first = cls(model.parameters(), **settings, **CHOICES[saved])
    scaler = scaler_of()
    run = Run().of(first, model, scaler, clip=LEVEL, steps=range(4), overflows=LATER)
    second = our_class(model.parameters(), clipping_level=LEVEL, **settings, **CHOICES[choice])
    second.load_state_dict(first.state_dict())
    run.of(second, model, scaler, steps=range(4, 8), overflows=LATER)
    check(run, theirs(kind, overflows=LATER)[0])


@every_choice
@pytest.mark.parametrize("saved", CHOICES)
def test_after_a_checkpoint_of_ours_made_with_another_implementation(choice, saved):
    _, cls, settings = KINDS["adamw"]
    model = small_model()
    scaler = scaler_of()
    first = cls(model.parameters(), clipping_level=LEVEL, **settings, **CHOICES[saved])
    run = Run().of(first, model, scaler, steps=range(4), overflows=LATER)
    second = cls(model.parameters(), clipping_level=LEVEL, **settings, **CHOICES[choice])
    second.load_state_dict(first.state_dict())
    run.of(second, model, scaler, steps=range(4, 8), overflows=LATER)
    check(run, theirs("adamw", overflows=LATER)[0])


@every_kind
def test_the_default_leaves_the_scalers_work_to_the_scaler(kind):
    """As torch's: only fused=True, in so many words, takes it over."""
    cls, our_class, settings = KINDS[kind]
    for choice in CHOICES.values():
        params = small_model().parameters()
        expected = getattr(cls(params, **settings, **choice), "_step_supports_amp_scaling", False)
        optimizer = our_class(small_model().parameters(), **settings, **choice)
        assert getattr(optimizer, "_step_supports_amp_scaling", False) == expected
    optimizer = our_class(small_model().parameters(), **settings)
    assert optimizer.param_groups[0]["fused"] is None
    for p in optimizer.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.param_groups[0]["fused"] is None
    assert optimizer.param_groups[0]["foreach"] is None


@every_choice
@every_kind
def test_the_optimizer_is_stepped_as_often_as_torchs(kind, choice):
    """Profilers and schedulers count by hooks."""

    def calls(cls, **settings):
        model = small_model()
        optimizer = cls(model.parameters(), **settings)
        seen = []
        optimizer.register_step_post_hook(lambda *_: seen.append(1))
        Run().of(optimizer, model, scaler_of())
        return len(seen)

    cls, our_class, settings = KINDS[kind]
    assert calls(our_class, **settings, **CHOICES[choice]) == calls(cls, **settings, **CHOICES[choice])


@pytest.mark.parametrize("cls", [SPAM, StableSPAM, ClippedSGD])
@pytest.mark.parametrize(
    "name", ["norm", "layer_wise", "coordinate_wise", "auto", "uclip", "linear_rand_norm"]
)
def test_every_type_sees_the_true_gradient(cls, name):
    """With overflows among the steps: as without a scaler, where these steps are left out by the loop."""

    def run(choice, with_scaler):
        model = small_model()
        torch.manual_seed(5)
        optimizer = cls(model.parameters(), lr=0.02, clipping_type=name, **choice)
        if with_scaler:
            Run().of(optimizer, model, scaler_of())
        else:
            steps = [step for step in range(8) if step not in OVERFLOWS]
            Run().of(optimizer, model, scaler_of(enabled=False), steps=steps)
        return weights(model)

    torch.testing.assert_close(run({}, True), run({}, False), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(), (1,)], ids=str)
@pytest.mark.parametrize("name", ["norm", "layer_wise", "coordinate_wise", "none"])
@every_kind
def test_a_scale_of_any_shape_that_torch_takes(kind, name, shape):
    """By the protocol itself: attributes on the optimizer, which a caller sets and takes away."""
    _, cls, settings = KINDS[kind]

    def run(scaled):
        model = small_model()
        optimizer = cls(model.parameters(), clipping_type=name, fused=True, **settings)
        for step in range(3):
            optimizer.zero_grad()
            (loss_of(model, step) * (1024 if scaled else 1)).backward()
            if scaled:
                optimizer.grad_scale, optimizer.found_inf = torch.full(shape, 1024.0), torch.zeros(shape)
                scale, found = optimizer.grad_scale, optimizer.found_inf
            optimizer.step()
            if scaled:
                assert optimizer.grad_scale is scale
                assert optimizer.found_inf is found
                assert float(scale) == 1024.0
                assert float(found) == 0.0
                del optimizer.grad_scale, optimizer.found_inf
        return weights(model), clip_stats(optimizer)

    plain, plain_stats = run(False)
    scaled, stats = run(True)
    torch.testing.assert_close(scaled, plain, rtol=1e-4, atol=1e-6)
    assert float(stats.grad_norm) == pytest.approx(float(plain_stats.grad_norm), rel=1e-5)
    assert stats.grad_norm.shape == ()


@pytest.mark.parametrize("shape", [(), (1,)], ids=str)
def test_found_inf_of_any_shape_leaves_the_step_out(shape):
    model = small_model()
    optimizer = ClippedAdamW(model.parameters(), fused=True)
    loss_of(model, 0).backward()
    optimizer.grad_scale, optimizer.found_inf = torch.ones(shape), torch.ones(shape)
    before = weights(model)
    optimizer.step()
    assert same(weights(model), before)
    assert counts(optimizer) == [0.0] * 4


# accelerate


def accelerated(cls, settings, clip=None, own_scheduler=False):
    """Of each step whether it was skipped, the lr after it, and the weights; `clip` is torch's clipping.

    The scheduler is accelerate's, which asks by itself, or that of a loop which asks.
    """
    accelerate = pytest.importorskip("accelerate")
    from accelerate.optimizer import AcceleratedOptimizer
    from accelerate.scheduler import AcceleratedScheduler

    accelerate.Accelerator(cpu=True)
    model = small_model()
    optimizer = cls(model.parameters(), **settings)
    scheduler = ExponentialLR(optimizer, 0.5)
    outer = AcceleratedOptimizer(optimizer, scaler=scaler_of())
    if not own_scheduler:
        scheduler = AcceleratedScheduler(scheduler, outer)
    skipped, lrs, found = [], [], []
    for step in range(8):
        overflow = float("inf") if step in LATER else None
        outer.scaler.scale(loss_of(model, step, overflow)).backward()
        if clip is not None:
            outer.scaler.unscale_(optimizer)
            clip_grad_norm_(model.parameters(), clip)
        outer.step()
        if not own_scheduler or not outer.step_was_skipped:
            scheduler.step()
        outer.zero_grad()
        skipped.append(outer.step_was_skipped)
        lrs.append(scheduler.get_last_lr())
        found.append(weights(model))
    return skipped, lrs, found


@pytest.mark.parametrize("own_scheduler", [False, True], ids=["accelerates", "the_loops"])
@every_choice
@pytest.mark.parametrize("kind", ["momentum", "adamw"])
def test_accelerate_knows_what_was_skipped_and_schedulers_do_not_count_it(kind, choice, own_scheduler):
    """The loop's as in Hugging Face's Trainer: `if not optimizer.step_was_skipped: scheduler.step()`."""
    cls, our_class, settings = KINDS[kind]
    settings = {**settings, **CHOICES[choice]}
    expected = accelerated(cls, settings, LEVEL, own_scheduler)
    actual = accelerated(our_class, {**settings, "clipping_level": LEVEL}, None, own_scheduler)
    assert actual[0] == expected[0]
    assert actual[1] == expected[1]
    for one, other in zip(actual[2], expected[2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    if choice != "fused":  # there torch's own step is called, and leaves the step out inside
        assert actual[0] == [step in LATER for step in range(8)]
        assert actual[1][-1] == [settings["lr"] * 0.5 ** (8 - len(LATER))]


# Lightning


def quiet_import(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        return pytest.importorskip(name)


def precision_of(name, package):
    """The plugin; float16 with a scaler on the CPU is to be had in no other way."""
    plugins = quiet_import(f"lightning.{package}.plugins.precision.amp")
    scaler = scaler_of() if name == "16-mixed" else None
    return plugins.MixedPrecision(name, "cpu", scaler=scaler)


def by_lightning(precision, cls, settings, clip=None):
    """The weights after its Trainer's eight steps; `clip` is its own clipping."""
    pl = quiet_import("lightning.pytorch")
    model = small_model()

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, step, _):
            return loss_of(self.model, int(step))

        def configure_optimizers(self):
            return cls(self.parameters(), **settings)

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=1,
            enable_model_summary=False,
            plugins=[precision_of(precision, "pytorch")],
            gradient_clip_val=clip,
            **quiet,
        )
        trainer.fit(Module(), torch.utils.data.DataLoader(range(8), batch_size=None))
    return weights(model)


def by_fabric(precision, cls, settings, clip=None):
    """As by_lightning."""
    fabric_module = quiet_import("lightning.fabric")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        fabric = fabric_module.Fabric(
            accelerator="cpu", devices=1, plugins=[precision_of(precision, "fabric")]
        )
    inner = small_model()
    model, optimizer = fabric.setup(inner, cls(inner.parameters(), **settings))
    for step in range(8):
        optimizer.zero_grad()
        fabric.backward(loss_of(model, step))
        if clip is not None:
            fabric.clip_gradients(model, optimizer, max_norm=clip)
        optimizer.step()
    return weights(inner)


@pytest.mark.parametrize("kind", ["momentum", "adamw"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("by", [by_lightning, by_fabric])
def test_lightning_in_mixed_precision(by, precision, kind):
    """Ours clips as its own clipping does; and its own goes with ours, which then need not."""
    cls, our_class, settings = KINDS[kind]
    expected = by(precision, cls, settings, clip=LEVEL)
    unclipped = by(precision, cls, settings)
    alone = by(precision, our_class, {**settings, "clipping_level": LEVEL})
    with_its_own = by(precision, our_class, {**settings, "clipping_type": "none"}, clip=LEVEL)
    looser = by(precision, our_class, {**settings, "clipping_level": 100.0}, clip=LEVEL)
    for found in (alone, with_its_own, looser):
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)
    gaps = [float((one - other).abs().max()) for one, other in zip(expected, unclipped, strict=True)]
    assert max(gaps) > 5e-3


@pytest.mark.parametrize("by", [by_lightning, by_fabric])
def test_lightnings_clipping_refuses_fused_only_where_it_was_asked_for(by):
    """As with torch's own."""
    _, our_class, settings = KINDS["adamw"]
    for cls in (AdamW, our_class):
        with pytest.raises((RuntimeError, NotImplementedError), match="clipping"):
            by("16-mixed", cls, {**settings, "fused": True}, clip=LEVEL)


def test_lion_and_others_without_fused_kernels_go_with_a_scaler():
    def run(with_scaler):
        model = small_model()
        optimizer = clip_gradients(Lion(model.parameters(), lr=1 / 64), Norm(LEVEL))
        steps = range(8) if with_scaler else [step for step in range(8) if step not in OVERFLOWS]
        Run().of(optimizer, model, scaler_of(enabled=with_scaler), steps=steps)
        return weights(model)

    torch.testing.assert_close(run(True), run(False))
