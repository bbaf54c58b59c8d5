"""Other ways to a clipped step than clipbench's: norms in backward hooks, one flat buffer, a compiled step.

python scripts/bench_norms.py [--rounds 20]

ResNet18 at 32×32, batch 32, SGD with momentum. All ways take turns in one process; medians of milliseconds.
CPU or GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from bench_step import machine, parameters, shapes, times
from torch import Tensor, nn
from torchvision.models import resnet18

from clipbench.optim import clip_gradients, make_rule
from clipbench.runs.build import find_device


def step_ways(device: torch.device) -> dict[str, Callable[[], Any]]:
    """The step alone, on given gradients."""
    params = parameters(shapes("resnet18"), device)
    flat = parameters([torch.Size([sum(p.numel() for p in params)])], device)
    compiled_params = parameters(shapes("resnet18"), device)
    buffers = [torch.zeros_like(p) for p in compiled_params]

    @torch.no_grad()
    def plain(params: list[Tensor], grads: list[Tensor], buffers: list[Tensor]) -> None:
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        factor = torch.where(norm > 1.0, 1.0 / norm, 1.0)
        for p, g, b in zip(params, grads, buffers, strict=True):
            b.mul_(0.9).add_(g * factor)
            p.sub_(b, alpha=1e-3)

    compiled = torch.compile(plain)
    grads = [p.grad for p in compiled_params if p.grad is not None]
    return {
        "step: folded (ours)": clip_gradients(sgd(params), make_rule("norm")).step,
        "step: one flat buffer": clip_gradients(sgd(flat), make_rule("norm")).step,
        "step: compiled": lambda: compiled(compiled_params, grads, buffers),
    }


def sgd(params: Any) -> torch.optim.SGD:
    return torch.optim.SGD(params, lr=1e-3, momentum=0.9, fused=True)


def whole_ways(device: torch.device) -> dict[str, Callable[[], Any]]:
    """Forward, backward and step; the norm after it, or of each gradient in its hook, while in cache."""

    def way(hooked: bool, clipped: bool) -> Callable[[], None]:
        model = resnet18(num_classes=10).to(device)
        x, y = torch.randn(32, 3, 32, 32, device=device), torch.randint(10, (32,), device=device)
        optimizer, norms = sgd(model.parameters()), []  # type: ignore[var-annotated]
        if hooked:
            for p in model.parameters():
                p.register_post_accumulate_grad_hook(lambda p: norms.append(torch.linalg.vector_norm(p.grad)))
        elif clipped:
            clip_gradients(optimizer, make_rule("norm"))

        def step() -> None:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            if hooked:
                norm = torch.linalg.vector_norm(torch.stack(norms))
                norms.clear()
                optimizer.grad_scale = torch.clamp(norm, min=1.0)  # type: ignore[attr-defined]
                optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
            optimizer.step()

        return step

    return {
        "all: unclipped": way(False, False),
        "all: norm after backward (ours)": way(False, True),
        "all: norms in hooks": way(True, True),
    }


def main(rounds: int, device: torch.device) -> None:
    print("| way | ms (quartiles) |\n|---|---|")
    for ways in (step_ways(device), whole_ways(device)):
        for name, values in times(ways, rounds, device).items():
            low, middle, high = np.percentile(values, [25, 50, 75])
            print(f"| {name} | {middle:.2f} ({low:.2f} to {high:.2f}) |")
    print(f"\nMedians of {rounds}. {machine(device)}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20, metavar="N")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    options = parser.parse_args()
    main(options.rounds, find_device(options.device))
