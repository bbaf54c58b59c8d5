"""In other loops: Hugging Face's Trainer, accelerate, a compiled step.

Each against that loop's own clipping, or the plain loop.
"""

import copy
import warnings

import pytest
import torch
from conftest import small_model
from torch.nn.functional import mse_loss
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from clipbench.optim import ClippedAdamW, ClippedSGD

LEVEL = 0.05


def sentences(count=32):
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(0, 20, (count, 6), generator=generator)
    return [{"input_ids": row, "labels": int(row[0] > row[1])} for row in words]


def bert():
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 20,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    return BertForSequenceClassification(
        BertConfig(**sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    )


def trained(tmp_path, make_optimizer, **arguments):
    """The weights after eight steps of the Trainer, every second batch accumulated."""
    model = bert()
    shared = {
        "max_steps": 8,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "lr_scheduler_type": "constant",
    }
    settings = TrainingArguments(
        tmp_path, **shared, **arguments, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True
    )
    optimizer = make_optimizer(model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        Trainer(model, settings, train_dataset=sentences(), optimizers=(optimizer, None)).train()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_trainer_with_our_clipping_is_trainer_with_its_own(tmp_path):
    theirs = trained(tmp_path, lambda params: torch.optim.AdamW(params, lr=1e-2), max_grad_norm=LEVEL)
    ours = trained(
        tmp_path, lambda params: ClippedAdamW(params, lr=1e-2, clipping_level=LEVEL), max_grad_norm=0.0
    )
    unclipped = trained(tmp_path, lambda params: torch.optim.AdamW(params, lr=1e-2), max_grad_norm=0.0)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert (ours - unclipped).abs().max() > 1e-3


def batches(count):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 6, generator=generator), 10 * torch.randn(8, 3, generator=generator))
        for _ in range(count)
    ]


def plain(optimizer_class, count, accumulate=1, **settings):
    model = small_model()
    optimizer = optimizer_class(model.parameters(), lr=0.1, **settings)
    for i, (x, y) in enumerate(batches(count), 1):
        (mse_loss(model(x), y) / accumulate).backward()
        if i % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_accelerate_steps_as_the_plain_loop(accumulate):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    model = small_model()
    optimizer = ClippedSGD(model.parameters(), lr=0.1, momentum=0.9, clipping_type="auto")
    model, optimizer = accelerator.prepare(model, optimizer)
    for x, y in batches(6):
        with accelerator.accumulate(model):
            accelerator.backward(mse_loss(model(x), y))
            optimizer.step()
            optimizer.zero_grad()
    expected = plain(ClippedSGD, 6, accumulate, momentum=0.9, clipping_type="auto")
    torch.testing.assert_close([p.detach() for p in model.parameters()], expected)


@pytest.mark.parametrize("implementation", [{"fused": True}, {"foreach": True}], ids=["fused", "foreach"])
@pytest.mark.parametrize("name", ["norm", "auto", "layer_wise", "coordinate_wise"])
def test_a_compiled_step_is_the_plain_one(name, implementation):
    """Forward and backward compiled; the step compiled too, where hooks run as they do in a plain one."""
    settings = {"clipping_type": name, **implementation}
    model = small_model()
    torch.manual_seed(5)
    optimizer = ClippedAdamW(model.parameters(), lr=0.1, **settings)
    forward = torch.compile(model, backend="aot_eager")
    step = torch.compile(optimizer.step, backend="aot_eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dynamo's, on what it leaves to Python
        for x, y in batches(5):
            mse_loss(forward(x), y).backward()
            step()
            optimizer.zero_grad()
    torch.manual_seed(5)
    torch.testing.assert_close([p.detach() for p in model.parameters()], plain_seeded(settings))
    torch._dynamo.reset()


def plain_seeded(settings):
    model = small_model()
    torch.manual_seed(5)
    optimizer = ClippedAdamW(model.parameters(), lr=0.1, **settings)
    for x, y in batches(5):
        mse_loss(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach() for p in model.parameters()]


def test_a_copied_model_trains_on():
    """Early stopping and averaging copy model and optimizer together: the copy clips too."""
    model = small_model()
    pair = copy.deepcopy((model, ClippedSGD(model.parameters(), lr=0.1, clipping_level=LEVEL)))
    before = [p.detach().clone() for p in pair[0].parameters()]
    x, y = batches(1)[0]
    mse_loss(pair[0](x), y).backward()
    pair[1].step()
    moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(pair[0].parameters(), before, strict=True)])
    assert torch.linalg.vector_norm(moved) == pytest.approx(0.1 * LEVEL, rel=1e-4)
