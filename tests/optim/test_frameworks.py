"""A run that is interrupted within a framework goes on to the bit from the framework's own checkpoint."""

from functools import partial

import pytest
import torch
from conftest import small_model, weights
from optim_helpers import same
from torch import nn
from torch.utils.data import DataLoader, Dataset

from clipbench.optim import (
    SPAM,
    ACClip,
    ClippedAdam,
    ClippedAdamW,
    ClippedSGD,
    ClippedSSTM,
    Lion,
    Muon,
    StableSPAM,
    clip_gradients,
    clip_stats,
    make_rule,
)


def joined(params):
    """By a rule that draws: beta 0.2, so that coins matter."""
    rule = make_rule("linear_rand_norm", clipping_level=0.5, beta=0.2)
    return clip_gradients(torch.optim.RMSprop(params, lr=0.01), rule)


OPTIMIZERS = {
    "sgd, random auto": partial(
        ClippedSGD, lr=0.1, momentum=0.9, clipping_type="quadratic_rand_auto", window=9, beta=0.2
    ),
    "adam, zclip": partial(ClippedAdam, lr=0.01, clipping_type="zclip", warmup_steps=2),
    "adamw, adagc": partial(ClippedAdamW, lr=0.01, clipping_type="adagc", warmup_steps=2),
    "spam, zclip": partial(SPAM, lr=0.01, reset_every=5, warmup=2, clipping_type="zclip"),
    "stable spam": partial(StableSPAM, lr=0.01, reset_every=5),
    "sstm": partial(ClippedSSTM, lr=0.1, L=1.0, clipping_type="uclip"),
    "acclip": partial(ACClip, lr=0.1),
    "lion": partial(Lion, lr=0.01),
    "muon": partial(Muon, lr=0.01),
    "joined rmsprop": joined,
}
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)

pytestmark = pytest.mark.filterwarnings(r"ignore:::(lightning|transformers|accelerate)\.")
"""What frameworks say from code of theirs; what is said from ours is an error as ever."""


class Pairs(Dataset):
    """Of a batch each, always in this order."""

    def __init__(self):
        rng = torch.Generator().manual_seed(0)
        self.x, self.y = 3 * torch.randn(10, 4, 6, generator=rng), torch.randn(10, 4, 3, generator=rng)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"x": self.x[index], "labels": self.y[index]}


def loss_of(model, x, labels):
    return 5 * (model(x) - labels).square().mean()


@each_optimizer
def test_accelerate_save_state_and_load_state(name, tmp_path):
    accelerate = pytest.importorskip("accelerate", reason="needs accelerate")

    def begin(seed=0):
        accelerator = accelerate.Accelerator(cpu=True)
        model = small_model(seed)
        return accelerator, *accelerator.prepare(model, OPTIMIZERS[name](model.parameters()))

    def go(accelerator, model, optimizer, numbers):
        for number in numbers:
            optimizer.zero_grad()
            accelerator.backward(loss_of(model, **Pairs()[number]))
            optimizer.step()
        return weights(model)

    whole = begin()
    expected = go(*whole, range(8))
    first = begin()
    go(*first, range(4))
    first[0].save_state(str(tmp_path))
    later = begin(1)
    later[0].load_state(str(tmp_path))
    assert same(go(*later, range(4, 8)), expected)


@each_optimizer
def test_lightning_ckpt_path(name, tmp_path):
    lightning = pytest.importorskip("lightning", reason="needs lightning")

    class Module(lightning.LightningModule):
        def __init__(self, seed=0):
            super().__init__()
            self.model = small_model(seed)

        def training_step(self, batch, index):
            return loss_of(self.model, **batch)

        def configure_optimizers(self):
            return OPTIMIZERS[name](self.model.parameters())

    def fit(module, epochs, checkpoint=None):
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        four = torch.utils.data.Subset(Pairs(), range(4))  # an epoch: it resumes at the start of one
        trainer.fit(module, DataLoader(four, batch_size=None), ckpt_path=checkpoint)
        return trainer

    fit(whole := Module(), 2)
    half = fit(Module(), 1)
    half.save_checkpoint(tmp_path / "half.ckpt")
    later = Module(1)
    fit(later, 2, str(tmp_path / "half.ckpt"))
    assert same(weights(later.model), weights(whole.model))


class Net(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        self.model = small_model(seed)

    def forward(self, x, labels):
        return {"loss": loss_of(self.model, x, labels)}


def hf_trainer(name, folder, steps, seed=0, callbacks=None):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        save_steps=4,
        per_device_train_batch_size=1,
        max_grad_norm=0,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        lr_scheduler_type="constant",
        logging_strategy="no",
        dataloader_num_workers=0,
    )
    net = Net(seed)
    optimizer = OPTIMIZERS[name](net.parameters())
    return transformers.Trainer(
        model=net,
        args=arguments,
        train_dataset=Pairs(),
        optimizers=(optimizer, None),
        callbacks=callbacks,
    ), optimizer


@each_optimizer
def test_trainer_resume_from_checkpoint(name, tmp_path):
    trainer, _ = hf_trainer(name, tmp_path, 8)
    trainer.train()
    expected = weights(trainer.model)
    later, _ = hf_trainer(name, tmp_path, 8, seed=1)
    later.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert same(weights(later.model), expected)


def test_clip_stats_in_a_callback_after_the_gradients_are_gone(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    seen = []

    class Log(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, optimizer=None, **kwargs):
            seen.append(float(clip_stats(optimizer).clip_factor))

    trainer, optimizer = hf_trainer("sgd, random auto", tmp_path, 4, callbacks=[Log()])
    trainer.train()
    assert len(seen) == 4
    assert seen[-1] == float(clip_stats(optimizer).clip_factor)
