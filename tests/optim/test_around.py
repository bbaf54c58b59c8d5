"""What stands around an optimizer: wrappers, schedulers, those that copy settings into every group.

Training through each is compared with torch's optimizer and `clip_grad_norm_` through the same.
"""

import warnings
from types import SimpleNamespace

import pytest
import torch
from conftest import set_gradients, small_model, weights
from optim_helpers import MANY, groups_of, same
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn

from clipbench.optim import (
    BlockRMS,
    ClippedAdamW,
    ClippedSGD,
    ClippedSSTM,
    Norm,
    Restarter,
    clip_gradients,
    clip_stats,
    evaluation_weights,
    make_rule,
    set_clipping_level,
)
from clipbench.optim.restart import start_afresh

LEVEL = 0.3
HOOKS = (
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
)
SGD_SETTINGS = {"lr": 0.1, "momentum": 0.9}
KINDS = {
    "sgd": (SGD, ClippedSGD, SGD_SETTINGS),
    "adamw": (AdamW, ClippedAdamW, {"lr": 0.01}),
}


class SAM(Optimizer):
    """Sharpness-aware minimization, in the pattern of the public one: the base shares its groups."""

    def __init__(self, params, base_optimizer, rho=0.05, **kwargs):
        super().__init__(params, {"rho": rho, **kwargs})
        self.base_optimizer = base_optimizer(self.param_groups, **kwargs)
        self.param_groups = self.base_optimizer.param_groups
        self.defaults.update(self.base_optimizer.defaults)

    @torch.no_grad()
    def step(self, closure=None):
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in params]).norm()
        before = [p.clone() for p in params]
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(p.grad, alpha=group["rho"] / float(norm))
        self.zero_grad()
        with torch.enable_grad():
            closure()
        for p, old in zip(params, before, strict=True):
            p.copy_(old)
        self.base_optimizer.step()

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.base_optimizer.param_groups = self.param_groups


# what wraps an optimizer: from it to the wrapper


def by_accelerate(inner):
    accelerate = pytest.importorskip("accelerate")
    return accelerate.Accelerator(cpu=True).prepare(inner)


def by_fabric(inner):
    fabric = quiet_import("lightning.fabric")
    return fabric.Fabric(accelerator="cpu", devices=1).setup_optimizers(inner)


def by_lightning(inner):
    """Its step asks the trainer: see the test that has one."""
    return quiet_import("lightning.pytorch.core.optimizer").LightningOptimizer(inner)


def by_timms_lookahead(inner):
    return quiet_import("timm.optim.lookahead").Lookahead(inner, k=3)


def by_another_lookahead(inner):
    return quiet_import("pytorch_optimizer").Lookahead(inner, k=3)


def by_schedule_free(inner):
    schedulefree = pytest.importorskip("schedulefree")
    wrapper = schedulefree.ScheduleFreeWrapper(inner, momentum=0.9)
    wrapper.train()
    return wrapper


def twice(inner):
    return by_accelerate(by_timms_lookahead(inner))


def quiet_import(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        return pytest.importorskip(name)


WRAPPERS = {
    "accelerate": by_accelerate,
    "fabric": by_fabric,
    "lightning": by_lightning,
    "timm_lookahead": by_timms_lookahead,
    "pytorch_optimizer_lookahead": by_another_lookahead,
    "schedule_free": by_schedule_free,
    "lookahead_in_accelerate": twice,
}
every_wrapper = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


def take_step(outer):
    """Through the wrapper, but for Lightning's, which asks a trainer."""
    if type(outer).__name__.startswith("Lightning"):
        outer = outer.optimizer
    outer.step()


# training


def batches(count=8):
    generator = torch.Generator().manual_seed(1)
    found = []
    for i in range(count):
        x = torch.randn(8, 6, generator=generator)
        found.append((x, (1 + i % 3) * torch.randn(8, 3, generator=generator)))
    return found


def loss_of(model, batch):
    x, y = batch
    return (model(x) - y).square().mean()


def trained(optimizer_class, settings, wrap, level=None, after=None):
    """The weights after eight steps through `wrap`; with `level`, by torch's own clipping.

    `after` is called with the model after each step.
    """
    model = small_model()
    outer = wrap(optimizer_class(model.parameters(), **settings))
    for batch in batches():
        outer.zero_grad()
        loss_of(model, batch).backward()
        if level is not None:
            clip_grad_norm_(model.parameters(), level)
        outer.step()
        if after is not None:
            after(model)
    return weights(model)


def check(ours, theirs, unclipped):
    """Ours is theirs, and clipping has acted."""
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    differences = [float((one - other).abs().max()) for one, other in zip(ours, unclipped, strict=True)]
    assert max(differences) > 3e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in WRAPPERS if name != "lightning"])
def test_training_through_a_wrapper_is_torchs_with_clip_grad_norm(name, kind):
    theirs, ours, settings = KINDS[kind]
    if (name, kind) == ("schedule_free", "adamw"):
        pytest.skip("the wrapper's own state makes torch's AdamW fail too")
    wrap = WRAPPERS[name]
    check(
        trained(ours, {**settings, "clipping_level": LEVEL}, wrap),
        trained(theirs, settings, wrap, level=LEVEL),
        trained(theirs, settings, wrap),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in WRAPPERS if name != "lightning"])
def test_training_through_a_wrapper_that_was_there_before_the_clipping(name, kind):
    theirs, _, settings = KINDS[kind]
    if (name, kind) == ("schedule_free", "adamw"):
        pytest.skip("the wrapper's own state makes torch's AdamW fail too")
    wrap = WRAPPERS[name]
    check(
        trained(theirs, settings, lambda inner: clip_gradients(wrap(inner), Norm(LEVEL))),
        trained(theirs, settings, wrap, level=LEVEL),
        trained(theirs, settings, wrap),
    )


def trained_by_lightning(optimizer_class, settings, clip=None, seen=None):
    """The weights after its Trainer's steps; `clip` is its own level, `seen` gets clip_stats after each."""
    pl = quiet_import("lightning.pytorch")
    model = small_model()

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, _):
            return loss_of(self.model, batch)

        def configure_optimizers(self):
            return optimizer_class(self.parameters(), **settings)

        def on_train_batch_end(self, *_):
            if seen is not None:
                seen.append(clip_stats(self.optimizers()))

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=1,
            enable_model_summary=False,
            gradient_clip_val=clip,
            **quiet,
        )
        loader = torch.utils.data.DataLoader(batches(), batch_size=None)
        trainer.fit(Module(), loader)
    return weights(model)


@pytest.mark.parametrize("kind", KINDS)
def test_lightnings_trainer_with_our_clipping_is_that_with_its_own(kind):
    theirs, ours, settings = KINDS[kind]
    seen = []
    check(
        trained_by_lightning(ours, {**settings, "clipping_level": LEVEL}, seen=seen),
        trained_by_lightning(theirs, settings, clip=LEVEL),
        trained_by_lightning(theirs, settings),
    )
    assert len(seen) == 8
    assert all(float(stats.clipped_norm) <= LEVEL * (1 + 1e-5) for stats in seen)


class Tiny(nn.Module):
    """As the Trainer wants a model."""

    def __init__(self):
        super().__init__()
        self.model = small_model()

    def forward(self, x, labels):
        return {"loss": loss_of(self.model, (x, labels))}


def test_in_a_callback_of_the_trainer_everything_finds_the_optimizer_inside(tmp_path):
    """Hugging Face's Trainer hands its callbacks what accelerate made of the optimizer."""
    transformers = quiet_import("transformers")
    levels = [0.5, 0.25, 0.125, 0.0625]
    norms, stats, restarted = [], [], []

    class Callback(transformers.TrainerCallback):
        def __init__(self):
            self.restarter = Restarter(first=3)

        def on_step_begin(self, args, state, control, optimizer, **_):
            set_clipping_level(optimizer, levels[state.global_step])

        def on_pre_optimizer_step(self, args, state, control, model, **_):
            norms.append(float(torch.cat([p.grad.flatten() for p in model.parameters()]).norm()))

        def on_step_end(self, args, state, control, optimizer, **_):
            stats.append(clip_stats(optimizer))
            restarted.append(self.restarter.step(optimizer))
            if restarted[-1]:
                assert not optimizer.state

    model = Tiny()
    data = [{"x": x, "labels": y} for x, y in zip(*batches(1)[0], strict=True)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        settings = transformers.TrainingArguments(
            tmp_path,
            max_steps=4,
            per_device_train_batch_size=4,
            max_grad_norm=0.0,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        )
        optimizers = ClippedSGD(model.parameters(), **SGD_SETTINGS), None
        transformers.Trainer(
            model, settings, train_dataset=data, optimizers=optimizers, callbacks=[Callback()]
        ).train()
    assert [float(one.grad_norm) for one in stats] == pytest.approx(norms, rel=1e-5)
    expected = [min(norm, level) for norm, level in zip(norms, levels, strict=True)]
    assert [float(one.clipped_norm) for one in stats] == pytest.approx(expected, rel=1e-5)
    assert restarted == [False, False, True, False]


def test_the_trainer_builds_ours_with_groups_and_clips_them_as_one(tmp_path):
    """It makes a group with weight decay and one without."""
    transformers = quiet_import("transformers")
    theirs, ours, settings = KINDS["adamw"]
    data = [{"x": x, "labels": y} for x, y in zip(*batches(1)[0], strict=True)]

    def run(optimizer_class, clip=0.0, **more):
        model = Tiny()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs
            arguments = transformers.TrainingArguments(
                tmp_path,
                max_steps=6,
                per_device_train_batch_size=4,
                max_grad_norm=clip,
                weight_decay=0.1,
                report_to=[],
                save_strategy="no",
                use_cpu=True,
                disable_tqdm=True,
            )
            trainer = transformers.Trainer(
                model,
                arguments,
                train_dataset=data,
                optimizer_cls_and_kwargs=(optimizer_class, {**settings, **more}),
            )
            trainer.train()
        assert len(trainer.optimizer.param_groups) == 2
        return weights(model)

    check(run(ours, clipping_level=LEVEL), run(theirs, clip=LEVEL), run(theirs))


def test_a_moving_average_of_the_weights_is_that_of_torchs():
    def averaged(optimizer_class, level=None, **settings):
        average = AveragedModel(small_model(), multi_avg_fn=get_ema_multi_avg_fn(0.8))
        trained(optimizer_class, {**SGD_SETTINGS, **settings}, lambda o: o, level, average.update_parameters)
        return weights(average.module)

    check(averaged(ClippedSGD, clipping_level=LEVEL), averaged(SGD, level=LEVEL), averaged(SGD))


# SAM: the base optimizer gets groups that hold every setting


def other_sam(params, base_optimizer, **settings):
    return quiet_import("pytorch_optimizer").SAM(params, base_optimizer, **settings)


SAMS = {"public": SAM, "pytorch_optimizer": other_sam}
every_sam = pytest.mark.parametrize("sam", SAMS.values(), ids=SAMS)


def trained_by_sam(sam, base, level=None, groups=1, model=None, outer=None, data=None, **settings):
    model = small_model() if model is None else model
    outer = sam(groups_of(model, groups), base, **settings) if outer is None else outer
    for batch in data or batches():

        def closure(batch=batch):
            outer.zero_grad()
            loss_of(model, batch).backward()
            if level is not None:
                clip_grad_norm_(model.parameters(), level)

        outer.zero_grad()
        loss_of(model, batch).backward()
        outer.step(closure)
    return weights(model)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
@every_sam
def test_training_through_sam_is_torchs_with_clip_grad_norm(sam, kind, groups):
    theirs, ours, settings = KINDS[kind]
    check(
        trained_by_sam(sam, ours, groups=groups, clipping_level=LEVEL, **settings),
        trained_by_sam(sam, theirs, level=LEVEL, groups=groups, **settings),
        trained_by_sam(sam, theirs, groups=groups, **settings),
    )


@pytest.mark.parametrize("settings", MANY, ids=lambda settings: str(settings["clipping_type"]))
@every_sam
def test_every_setting_goes_through_sam(sam, settings):
    """As if the base had been given them past it."""

    def around(groups, **_):
        return ClippedSGD(groups, lr=0.1, **settings)

    torch.manual_seed(3)
    ours = trained_by_sam(sam, ClippedSGD, groups=2, lr=0.1, **settings)
    torch.manual_seed(3)
    expected = trained_by_sam(sam, around, groups=2, lr=0.1)
    assert same(ours, expected)


@pytest.mark.parametrize("name", ["norm", "auto", "zclip"])
def test_sam_goes_on_from_its_checkpoint(name):
    data = batches()
    whole = trained_by_sam(SAM, ClippedSGD, lr=0.1, clipping_type=name)
    model = small_model()
    first = SAM(model.parameters(), ClippedSGD, lr=0.1, clipping_type=name)
    trained_by_sam(SAM, None, model=model, outer=first, data=data[:4])
    second = SAM(model.parameters(), ClippedSGD, lr=0.1, clipping_type=name)
    second.load_state_dict(first.state_dict())
    trained_by_sam(SAM, None, model=model, outer=second, data=data[4:])
    assert same(weights(model), whole)


def test_through_sam_everything_finds_the_optimizer_inside():
    model = small_model()
    outer = SAM(groups_of(model, 2), ClippedSGD, lr=1.0)
    set_clipping_level(outer, 0.25)
    trained_by_sam(SAM, None, model=model, outer=outer, data=batches(2))
    stats = clip_stats(outer)
    assert float(stats.clipping_level) == 0.25
    assert float(stats.clipped_norm) == pytest.approx(0.25, rel=1e-5)
    assert float(stats.grad_norm) > 0.25


# what is called with a wrapper


@every_wrapper
def test_evaluation_weights_finds_the_answer_behind_a_wrapper(wrap):
    if wrap is by_schedule_free:
        pytest.skip("it keeps its own z where SSTM keeps z")
    model = small_model()
    inner = ClippedSSTM(model.parameters(), lr=1.0)
    outer = wrap(inner)
    for step in range(4):
        set_gradients(model, step)
        take_step(outer)
    points = weights(model)
    answers = [inner.state[p]["y"].clone() for p in model.parameters()]
    assert not same(points, answers)
    with evaluation_weights(outer):
        assert same(weights(model), answers)
    assert same(weights(model), points)


@pytest.mark.parametrize("begin", ["Restarter", "start_afresh"])
@every_wrapper
def test_a_restart_through_a_wrapper_begins_the_optimizer_inside_anew(wrap, begin):
    if wrap is by_schedule_free:
        pytest.skip("it keeps its own z where SSTM keeps z")
    model = small_model()
    inner = ClippedSSTM(model.parameters(), lr=1.0, clipping_type="auto")
    outer, restarter = wrap(inner), Restarter(first=3)
    visited = []
    for step in range(3):
        set_gradients(model, step)
        take_step(outer)
        visited.append(weights(model))
        if begin == "Restarter":
            assert restarter.step(outer) == (step == 2)
    if begin == "Restarter":
        means = [torch.stack(each).mean(0) for each in zip(*visited, strict=True)]
        torch.testing.assert_close(weights(model), means)
    else:
        start_afresh(outer)
    assert not inner.state
    # from here on as one that is new
    other = small_model()
    with torch.no_grad():
        for p, q in zip(other.parameters(), model.parameters(), strict=True):
            p.copy_(q)
    new = ClippedSSTM(other.parameters(), lr=1.0, clipping_type="auto")
    for step in range(3, 6):
        set_gradients(model, step)
        set_gradients(other, step)
        inner.step()
        new.step()
    assert same(weights(model), weights(other))


@every_wrapper
def test_clip_stats_and_set_clipping_level_find_the_optimizer_inside(wrap):
    model = small_model()
    outer = wrap(ClippedSGD(model.parameters(), lr=0.1))
    for step, level in enumerate([0.5, 0.01]):
        set_clipping_level(outer, level)
        set_gradients(model, step, 10.0)
        norm = float(torch.cat([p.grad.flatten() for p in model.parameters()]).norm())
        assert norm > 0.5
        take_step(outer)
        stats = clip_stats(outer)
        assert float(stats.grad_norm) == pytest.approx(norm, rel=1e-5)
        assert float(stats.clipped_norm) == pytest.approx(level, rel=1e-5)
        assert float(stats.clipping_level) == pytest.approx(level)


def hooks_of(optimizer):
    return [len(getattr(optimizer, name)) for name in HOOKS]


@every_wrapper
def test_clip_gradients_joins_the_optimizer_inside_once(wrap):
    model = small_model()
    inner = SGD(model.parameters(), lr=1.0)
    outer = wrap(inner)
    assert clip_gradients(outer, Norm(0.25)) is outer
    joined = hooks_of(inner)
    assert joined[0] == 1
    for optimizer in (outer, inner):
        with pytest.raises(RuntimeError, match="clips already"):
            clip_gradients(optimizer, Norm(0.25))
    assert hooks_of(inner) == joined
    set_gradients(model, 0, 100.0)
    take_step(outer)
    assert float(clip_stats(outer).clipped_norm) == pytest.approx(0.25, rel=1e-5)


class Holder:
    """A wrapper of nobody's: it says nothing of itself and passes everything on."""

    def __init__(self, **held):
        self.__dict__.update(held)


def the_five():
    """Whatever takes an optimizer."""

    def evaluate(optimizer):
        with evaluation_weights(optimizer):
            pass

    return {
        "clip_gradients": lambda optimizer: clip_gradients(optimizer, Norm(1.0)),
        "clip_stats": clip_stats,
        "set_clipping_level": lambda optimizer: set_clipping_level(optimizer, 1.0),
        "evaluation_weights": evaluate,
        "Restarter": lambda optimizer: Restarter(first=1).step(optimizer),
        "start_afresh": start_afresh,
    }


@pytest.mark.parametrize("call", the_five().values(), ids=the_five())
def test_what_holds_no_optimizer_or_two_is_refused_before_anything_is_changed(call):
    model = small_model()
    params = list(model.parameters())
    one = ClippedSSTM(params[:2]) if call is not the_five()["clip_gradients"] else SGD(params[:2])
    other = SGD(params[2:], momentum=0.9)
    set_gradients(model, 0)
    one.step()
    other.step()
    before = weights(model), len(one.state), len(other.state), hooks_of(one), hooks_of(other)
    for wrapper in (Holder(optimizer=one, other=other), Holder(model=model), SimpleNamespace(), object()):
        with pytest.raises((TypeError, ValueError)):
            call(wrapper)
    assert same(weights(model), before[0])
    assert (len(one.state), len(other.state), hooks_of(one), hooks_of(other)) == before[1:]


def test_a_refusal_leaves_no_hook_and_no_key():
    for rule, key in (
        (BlockRMS(), None),
        (Norm(1.0), "cliping_level"),
        (make_rule("auto"), "clipping_level"),
    ):
        optimizer = SGD(small_model().parameters(), lr=0.1)
        outer = by_timms_lookahead(optimizer)
        if key:
            optimizer.param_groups[0][key] = 0.5
        before = dict(optimizer.param_groups[0])
        with pytest.raises(ValueError, match=r"BlockRMS|clipping_level"):
            clip_gradients(outer, rule)
        assert hooks_of(optimizer) == [0] * len(HOOKS)
        assert optimizer.param_groups[0] == before


# schedulers of the learning rate


def one_cycle(optimizer):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=9)


def cyclic(optimizer):
    return torch.optim.lr_scheduler.CyclicLR(
        optimizer, 0.01, 0.1, step_size_up=3, cycle_momentum="momentum" in optimizer.defaults
    )


def cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=3)


def in_sequence(optimizer):
    parts = [
        torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3),
        torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7),
    ]
    return torch.optim.lr_scheduler.SequentialLR(optimizer, parts, milestones=[3])


def averaging(optimizer):
    return SWALR(optimizer, swa_lr=0.02, anneal_epochs=4)


def plateau(optimizer):
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    return SimpleNamespace(step=lambda: scheduler.step(1.0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheduler", [one_cycle, cyclic, cosine, in_sequence, averaging, plateau])
def test_a_scheduler_of_the_learning_rate_does_as_with_torchs(scheduler, kind):
    theirs, ours, settings = KINDS[kind]

    def run(optimizer_class, level=None, **more):
        with_scheduler = []

        def wrap(inner):
            with_scheduler.extend([inner, scheduler(inner)])
            return inner

        found = trained(
            optimizer_class, {**settings, **more}, wrap, level, after=lambda _: with_scheduler[1].step()
        )
        return found, [group["lr"] for group in with_scheduler[0].param_groups]

    expected, lrs = run(theirs, level=LEVEL)
    actual, our_lrs = run(ours, clipping_level=LEVEL)
    check(actual, expected, run(theirs)[0])
    assert our_lrs == lrs
