"""Milliseconds a step in other people's loops: torch's AdamW, with the loop's own clipping, and ClippedAdamW.

python scripts/bench_hosts.py [--rounds 7] [--steps 12] [--device auto]
                              [--hosts plain Trainer accelerate compiled GradScaler]

A BERT of 4 layers, 256 wide (11 million weights), 16 sentences of 32 words; under GradScaler fp16 on a GPU,
fp32 on a CPU. Ways take turns in one process; milliseconds are medians over the steps of all rounds, ratios
medians over the rounds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from bench_step import machine
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from clipbench.optim import ClippedAdamW
from clipbench.runs.build import find_device

WORDS, LENGTH, BATCH, LEVEL, LR = 30522, 32, 16, 1.0, 1e-4

Parameters = Iterable[nn.Parameter]
OPTIMIZERS: dict[
    str, tuple[Callable[[Parameters], torch.optim.Optimizer], bool]
] = {  # and whether the loop clips
    "torch": (lambda params: torch.optim.AdamW(params, lr=LR, fused=True), False),
    "torch and the loop's clipping": (lambda params: torch.optim.AdamW(params, lr=LR, fused=True), True),
    "ours": (
        lambda params: ClippedAdamW(params, lr=LR, fused=True, clipping_type="norm", clipping_level=LEVEL),
        False,
    ),
}


class Clock:
    """Times between the ends of steps; the first steps warm."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.ends = device, []  # type: tuple[torch.device, list[float]]

    def tick(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    @property
    def times(self) -> np.ndarray:
        return np.diff(self.ends)[2:] * 1e3


class Ticking(TrainerCallback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.tick()


def bert() -> Any:
    sizes: dict[str, Any] = {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
        "vocab_size": WORDS,
    }
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**sizes))


def sentences(n: int) -> list[dict[str, Tensor]]:
    rng = torch.Generator().manual_seed(0)
    words = torch.randint(0, WORDS, (n, LENGTH), generator=rng)
    return [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row[0] % 2} for row in words]


def batches(steps: int, device: torch.device) -> list[dict[str, Tensor]]:
    rows = sentences(steps * BATCH)
    parts = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    return [{key: torch.stack([row[key] for row in part]).to(device) for key in part[0]} for part in parts]


def plain(
    make: Any, clips: bool, steps: int, device: torch.device, compiles: bool = False, scales: bool = False
) -> np.ndarray:
    model, clock = bert().to(device).train(), Clock(device)
    optimizer = make(model.parameters())
    scaler = torch.amp.GradScaler(device.type, enabled=scales)
    forward = torch.compile(model) if compiles else model
    step = torch.compile(optimizer.step) if compiles else optimizer.step
    for batch in batches(steps, device):
        with torch.autocast(device.type, torch.float16, enabled=scales and device.type == "cuda"):
            loss = forward(**batch).loss
        scaler.scale(loss).backward()
        if clips:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), LEVEL)
        if scales:
            scaler.step(optimizer)
            scaler.update()
        else:
            step()
        optimizer.zero_grad()
        clock.tick()
    return clock.times


def trainer(make: Any, clips: bool, steps: int, device: torch.device) -> np.ndarray:
    model, clock = bert(), Clock(device)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            max_grad_norm=LEVEL if clips else 0.0,  # 1.0 unless told
            lr_scheduler_type="constant",
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=device.type == "cpu",
        )
        optimizer = make(model.to(device).parameters())
        rows = sentences(steps * BATCH)
        host = Trainer(
            model, settings, train_dataset=rows, optimizers=(optimizer, None), callbacks=[Ticking(clock)]
        )
        host.remove_callback(PrinterCallback)
        host.train()
    return clock.times


def accelerated(make: Any, clips: bool, steps: int, device: torch.device) -> np.ndarray:
    from accelerate import Accelerator

    accelerator, clock = Accelerator(cpu=device.type == "cpu"), Clock(device)
    module = bert()
    model, optimizer = accelerator.prepare(module, make(module.to(device).parameters()))
    for batch in batches(steps, device):
        accelerator.backward(model(**batch).loss)
        if clips:
            accelerator.clip_grad_norm_(model.parameters(), LEVEL)
        optimizer.step()
        optimizer.zero_grad()
        clock.tick()
    return clock.times


def compiled(make: Any, clips: bool, steps: int, device: torch.device) -> np.ndarray:
    return plain(make, clips, steps, device, compiles=True)


def scaled(make: Any, clips: bool, steps: int, device: torch.device) -> np.ndarray:
    return plain(make, clips, steps, device, scales=True)


HOSTS = {
    "plain": plain,
    "Trainer": trainer,
    "accelerate": accelerated,
    "compiled": compiled,
    "GradScaler": scaled,
}


def measure(
    host: Callable[..., np.ndarray], rounds: int, steps: int, device: torch.device
) -> dict[str, list[np.ndarray]]:
    times: dict[str, list[np.ndarray]] = {name: [] for name in OPTIMIZERS}
    for i in range(rounds):
        names = list(OPTIMIZERS)
        for name in names[i % 3 :] + names[: i % 3]:
            times[name].append(host(*OPTIMIZERS[name], steps, device))
    return times


def row(host: str, times: dict[str, Sequence[np.ndarray]]) -> str:
    middles = {name: np.array([np.median(each) for each in found]) for name, found in times.items()}
    cells = [f"{np.median(np.concatenate(found)):.1f}" for found in times.values()]
    ratios = [np.median(middles["ours"] / middles[name]) for name in list(OPTIMIZERS)[:2]]
    return f"| {host} | {' | '.join(cells)} | {ratios[0]:.2f} | {ratios[1]:.2f} |"


def main(options: argparse.Namespace) -> None:
    device = find_device(options.device)
    warnings.simplefilter("ignore")  # theirs
    heads = [f"{name}, ms" for name in OPTIMIZERS]
    heads += ["ours / torch", "ours / torch and the loop's clipping"]
    print(f"| loop | {' | '.join(heads)} |")
    print("|---|---|---|---|---|---|")
    for name in options.hosts:
        print(row(name, measure(HOSTS[name], options.rounds, options.steps, device)), flush=True)  # type: ignore[arg-type]
    print(f"\n{options.rounds} rounds of {options.steps} steps. {machine(device)}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=12, help="in a round; the first three warm")
    parser.add_argument("--hosts", nargs="+", choices=HOSTS, default=list(HOSTS))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    main(parser.parse_args())
