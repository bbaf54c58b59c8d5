"""What a clipped step costs, against the plain optimizer, torch's clipping, torch-clip and the floor.

python scripts/bench_step.py [--rounds 30] [--only resnet18] [--device auto] [--out DIR]

All ways take turns in one process on the same parameters and gradients; medians of the rounds, with their
quartiles. A ratio is the median of the rounds' ratios. torch-clip is measured where it is installed (pip
install --no-deps torch-clip). Writes the measurements as bench_step.parquet and draws bench_step.png.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm

from clipbench.optim import RULES, clip_gradients, make_rule
from clipbench.optim.auto import Auto
from clipbench.runs.build import find_device

OPTIMIZERS: dict[
    str, tuple[type[torch.optim.Optimizer], dict[str, Any], int]
] = {  # and the floor: bytes moved per parameter, with the norm
    "SGD": (torch.optim.SGD, {"lr": 1e-3, "momentum": 0.9}, 24),
    "AdamW": (torch.optim.AdamW, {"lr": 1e-3}, 32),
}
TORCH_CLIP: dict[str, dict[str, Any]] = {  # its names, and what its types need
    "none": {"clipping_type": "no_clip"},
    "norm": {"clipping_type": "norm", "clipping_level": 1.0},
    "linear_rand_norm": {"clipping_type": "linear_rand_norm", "clipping_level": 1.0, "beta": 0.85},
    "quadratic_rand_norm": {"clipping_type": "quadratic_rand_norm", "clipping_level": 1.0, "beta": 0.85},
    "layer_wise": {"clipping_type": "layer_wise", "clipping_level": 1.0},
    "coordinate_wise": {"clipping_type": "coordinate_wise", "clipping_level": 0.1},
    "auto": {"clipping_type": "auto_clip", "p_autoclip": 0.75},
    "linear_rand_auto": {"clipping_type": "linear_rand_autoclip", "p_autoclip": 0.75, "beta": 0.85},
    "quadratic_rand_auto": {"clipping_type": "quadratic_rand_autoclip", "p_autoclip": 0.75, "beta": 0.85},
}
ENTRYWISE = ("coordinate_wise", "value")


def shapes(model: str) -> list[torch.Size]:
    with torch.device("meta"):
        if model == "resnet18":
            net: nn.Module = importlib.import_module("torchvision.models").resnet18()
        elif model == "bert-base":
            transformers = importlib.import_module("transformers")
            net = transformers.BertModel(transformers.BertConfig())
        else:  # 1e9 parameters: 80 square matrices and their biases
            net = nn.Sequential(*(nn.Linear(3536, 3536) for _ in range(80)))
    return [p.shape for p in net.parameters()]


def parameters(sizes: Sequence[torch.Size], device: torch.device) -> list[Tensor]:
    """With gradients whose norm is about 10, so that every rule at its default acts at first."""
    generator = torch.Generator(device).manual_seed(0)
    params = [
        torch.randn(size, device=device, generator=generator).mul_(0.02).requires_grad_() for size in sizes
    ]
    scale = 10 / sum(p.numel() for p in params) ** 0.5
    for p in params:
        p.grad = torch.randn(p.shape, device=device, generator=generator) * scale
    return params


class Ways:
    """Everything that is timed on one model and optimizer: name → a step."""

    def __init__(self, model: str, optimizer: str, device: torch.device) -> None:
        self.cls, self.keywords, self.floor_bytes = OPTIMIZERS[optimizer]
        self.params, self.device = parameters(shapes(model), device), device
        self.count = sum(p.numel() for p in self.params)
        grads = [p.grad for p in self.params if p.grad is not None]
        fused, foreach = self.build(fused=True), self.build(foreach=True)
        target, source = (torch.zeros(self.count // 2, device=device) for _ in range(2))
        self.copied_bytes = 2 * 4 * len(source)

        def then(clip: Callable[[], Any], optimizer: torch.optim.Optimizer) -> Callable[[], None]:
            def step() -> None:
                clip()
                optimizer.step()

            return step

        self.shared: dict[str, Callable[[], Any]] = {
            "copy": lambda: target.copy_(source),
            "norm pass": lambda: get_total_norm(grads),
            "unclipped": fused.step,
            "torch norm, fused": then(lambda: clip_grad_norm_(self.params, 1.0), fused),
            "torch norm, foreach": then(lambda: clip_grad_norm_(self.params, 1.0), foreach),
        }
        self.entrywise: dict[str, Callable[[], Any]] = {
            "torch value, fused": then(lambda: clip_grad_value_(self.params, 0.1), fused),
            "torch value, foreach": then(lambda: clip_grad_value_(self.params, 0.1), foreach),
        }

    def build(self, **implementation: Any) -> torch.optim.Optimizer:
        return self.cls(self.params, **self.keywords, **implementation)

    def of(self, rule: str) -> dict[str, Callable[[], Any]]:
        """What takes turns for one rule."""
        ways = self.shared | (self.entrywise if rule in ENTRYWISE else {})
        ways = ways | {"ours": clip_gradients(self.build(fused=True), make_rule(rule)).step}
        ways = ways | {"ours, norm": clip_gradients(self.build(fused=True), make_rule("norm")).step}
        if self.cls is torch.optim.SGD and rule in TORCH_CLIP and (theirs := torch_clip()):
            ways = ways | {"torch-clip": theirs(self.params, lr=1e-3, momentum=0.9, **TORCH_CLIP[rule]).step}
        return ways


def torch_clip() -> Any:
    try:
        return importlib.import_module("torch_clip.optimizers").ClippedSGD
    except ImportError:
        return None


def times(ways: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, np.ndarray]:
    """Milliseconds of each way in each round, in an order that turns from round to round."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    found: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for i in range(rounds + 3):  # the first three warm caches and make states
        for name in names[i % len(names) :] + names[: i % len(names)]:
            wait()
            started = time.perf_counter()
            ways[name]()
            wait()
            found[name].append((time.perf_counter() - started) * 1e3)
    return {name: np.array(values[3:]) for name, values in found.items()}


def ratio(over: np.ndarray, under: np.ndarray) -> float:
    return float(np.median(over / under))


def measure(model: str, optimizer: str, rule: str, ways: Ways, rounds: int) -> dict[str, Any]:
    found = times(ways.of(rule), rounds, ways.device)
    kind = "torch value" if rule in ENTRYWISE else "torch norm"
    torchs = min((found[f"{kind}, {form}"] for form in ("fused", "foreach")), key=np.median)
    floor = ways.floor_bytes * ways.count / (ways.copied_bytes / np.median(found["copy"]))
    low, middle, high = np.percentile(found["ours"], [25, 50, 75])
    theirs = ratio(found["torch-clip"], found["ours"]) if "torch-clip" in found else float("nan")
    row = {
        "model": model,
        "optimizer": optimizer,
        "rule": rule,
        "ms": middle,
        "ms_q1": low,
        "ms_q3": high,
        "over_unclipped": ratio(found["ours"], found["unclipped"]),
        "over_norm_and_step": ratio(found["ours"], found["norm pass"] + found["unclipped"]),
        "over_norm_rule": ratio(found["ours"], found["ours, norm"]),
        "torch_over_ours": ratio(torchs, found["ours"]),
        "torch_clip_over_ours": theirs,
        "over_floor": middle / floor,
    }
    return row | {f"ms_{name}": float(np.median(values)) for name, values in found.items() if name != "ours"}


def auto_over_time(rounds: int = 300) -> tuple[float, float, int]:
    """Microseconds of auto's own work around steps 100 and 100 000, alternating; and its memory's bytes."""
    rule, norms = Auto(), torch.rand(100_300, generator=torch.Generator().manual_seed(0))
    states = []
    for steps in (100, 100_000):
        state = rule.init([norms])
        for norm in norms[:steps]:
            _, state = rule.level(norm, state)
        states.append(state)
    times_of: list[list[float]] = [[], []]
    for i in range(rounds):
        for which in (0, 1):
            started = time.perf_counter()
            rule.level(norms[i], states[which])
            times_of[which].append((time.perf_counter() - started) * 1e6)
    size = sum(value.numel() * value.element_size() for value in states[1].values())
    return float(np.median(times_of[0])), float(np.median(times_of[1])), size


def machine(device: torch.device) -> str:
    """ "NVIDIA H100 80GB HBM3, torch 2.11.0" or "AMD EPYC 9654, 2 cores, torch 2.15.0"."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    info = Path("/proc/cpuinfo")
    name = platform.processor()
    for line in info.read_text().splitlines() if info.exists() else ():
        if "model name" in line:
            name = line.partition(":")[2].strip()
            break
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()}"
    return f"{name}, {threads}, torch {torch.__version__}"


def table(rows: pd.DataFrame) -> str:
    heads = {
        "ms": "ms (quartiles)",
        "over_unclipped": "/ unclipped",
        "over_norm_and_step": "/ (norm pass + step)",
        "over_norm_rule": "/ our `norm`",
        "torch_over_ours": "torch's clipping / ours",
        "torch_clip_over_ours": "torch-clip / ours",
        "over_floor": "/ floor",
    }
    lines = []
    for (model, optimizer), part in rows.groupby(["model", "optimizer"], sort=False):
        lines += [
            f"\n{model}, {optimizer}\n",
            "| rule | " + " | ".join(heads.values()) + " |",
            "|---" * (len(heads) + 1) + "|",
        ]
        for row in part.to_dict("records"):
            cells = [f"{row['ms']:.3g} ({row['ms_q1']:.3g} to {row['ms_q3']:.3g})"]
            cells += ["" if np.isnan(row[key]) else f"{row[key]:.2f}" for key in list(heads)[1:]]
            lines.append(f"| `{row['rule']}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: pd.DataFrame, path: Path, caption: str) -> None:
    """Milliseconds of each rule as bars against lines for the ways without our code."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = list(rows.groupby(["model", "optimizer"], sort=False))
    figure, axes = plt.subplots(
        1, len(groups), figsize=(3.6 * len(groups), 3.6), squeeze=False, sharey=True, layout="constrained"
    )
    lines = {
        "ms_unclipped": ("unclipped", ":"),
        "ms_torch norm, fused": ("torch: clip_grad_norm_, fused step", "--"),
    }
    for axis, ((model, optimizer), part) in zip(axes[0], groups, strict=True):
        places = np.arange(len(part))
        spread = np.abs(part[["ms_q1", "ms_q3"]].to_numpy().T - part["ms"].to_numpy())
        axis.barh(
            places,
            part["ms"],
            xerr=spread,
            color="#4477AA",
            height=0.62,
            label="clipbench",
            error_kw={"lw": 0.8},
        )
        if "ms_torch-clip" in part and part["ms_torch-clip"].notna().any():
            axis.plot(part["ms_torch-clip"], places, "D", color="#CC6677", ms=4, label="torch-clip")
        for key, (label, style) in lines.items():
            axis.axvline(part[key].median(), color="0.25", ls=style, lw=1, label=label)
        axis.set(
            title=f"{model}, {optimizer}",
            xlabel="ms per step",
            yticks=places,
            yticklabels=part["rule"],
            xlim=(0, None),
        )
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].invert_yaxis()  # for all, which share it
    handles = {
        label: handle
        for axis in axes[0]
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        fontsize=9,
    )
    figure.suptitle(caption, fontsize=9, color="0.35")
    figure.savefig(path, dpi=160)


def main(options: argparse.Namespace) -> None:
    device = find_device(options.device)
    models = ["resnet18", "bert-base", *(["1e9 parameters"] if device.type == "cuda" else [])]
    rows = []
    for model in [model for model in models if options.only in model]:
        rounds = (
            options.rounds if model == "resnet18" or device.type == "cuda" else max(5, options.rounds // 3)
        )
        for optimizer in OPTIMIZERS:
            ways = Ways(model, optimizer, device)
            rows += [measure(model, optimizer, rule, ways, rounds) for rule in RULES]
            del ways
    frame = pd.DataFrame(rows).assign(machine=machine(device))
    options.out.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(options.out / "bench_step.parquet", index=False)
    draw(frame, options.out / "bench_step.png", machine(device))
    print(table(frame))
    early, late, size = auto_over_time()
    growth = late / early
    print(
        f"\n`auto`'s own work: {early:.0f} µs at step 100, {late:.0f} µs at step 100 000 (× {growth:.2f}); "
        f"its memory: {size} bytes."
    )
    print(machine(device))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=30,
        metavar="N",
        help="30 by default; a third of it for large models on a CPU",
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="the models with TEXT in their name")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument(
        "--out", type=Path, default=Path("results/reference"), metavar="DIR", help="results/reference"
    )
    main(parser.parse_args())
