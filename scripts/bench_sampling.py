"""What drawing neighbours costs a training step: nodes per second with batches drawn on the device, and with
the same batches drawn before.

python scripts/bench_sampling.py [--nodes 233000] [--edges 115000000] [--device auto]

A generated graph of Reddit's size, degrees heavy-tailed; task=reddit's model (602 features, 128 wide, 41
classes), AdamW, clipping by norm. The two take turns in one process, a block of steps each; the ratio is the
median over the blocks. One directed edge takes 8 bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import cycle, islice

import numpy as np
import torch
from bench_loop import take_turns
from bench_step import machine
from torch import Tensor, nn

from clipbench.optim import ClippedAdamW
from clipbench.runs.build import find_device
from clipbench.tasks.reddit import Graph, GraphNet, Hop

FEATURES, HIDDEN, CLASSES, FANOUTS = 602, 128, 41, (10, 10)  # Reddit's, and conf/task/reddit.yaml's

Drawn = tuple[Tensor, list[Hop]]


def large_graph(nodes: int, edges: int, device: torch.device) -> Graph:
    """A node is an end of an edge in proportion to a weight with a Pareto tail of 1.5."""
    rng = torch.Generator(device).manual_seed(0)
    weights = (1 - torch.rand(nodes, generator=rng, device=device, dtype=torch.float64)) ** (-1 / 1.5)
    bounds = weights.cumsum(0)
    ends = []
    for _ in range(2):
        drawn = torch.rand(edges, generator=rng, device=device, dtype=torch.float64).mul_(bounds[-1])
        ends.append(torch.searchsorted(bounds, drawn).clamp_(max=nodes - 1))
    pair = torch.stack(ends)
    return Graph(torch.randn(nodes, FEATURES, generator=rng, device=device), pair)


def drawn_batches(graph: Graph, batch_size: int) -> Iterator[Drawn]:
    rng = torch.Generator(graph.x.device).manual_seed(0)
    while True:
        nodes = torch.randint(len(graph.x), (batch_size,), generator=rng, device=rng.device)
        yield nodes, graph.sample(nodes, FANOUTS, rng)


def steps(graph: Graph, labels: Tensor, batches: Iterator[Drawn]) -> Iterator[None]:
    torch.manual_seed(0)
    model = GraphNet(FEATURES, HIDDEN, CLASSES).to(graph.x.device)
    optimizer = ClippedAdamW(model.parameters(), lr=1e-3, clipping_type="norm", clipping_level=1.0)
    for nodes, hops in batches:
        nn.functional.cross_entropy(model(graph.x, hops), labels[nodes]).backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


def main(options: argparse.Namespace) -> None:
    """Print a row for each batch size."""
    device = find_device(options.device)
    graph = large_graph(options.nodes, options.edges, device)
    labels = torch.randint(CLASSES, (options.nodes,), device=device)
    size = f"{options.nodes:,} nodes, {options.edges:,} edges"
    print(f"{size}; {options.blocks} blocks of {options.steps} steps. {machine(device)}.\n")
    print(
        "| batch | nodes per second, drawn in the step | drawn before | "
        "drawn in the step / before (quartiles) | nodes seen, per second |"
    )
    print("|---|---|---|---|---|")
    # a node, its neighbours, and the neighbours of all these
    seen = 1 + FANOUTS[0] + (1 + FANOUTS[0]) * FANOUTS[1]
    for batch_size in options.batch:
        before = list(islice(drawn_batches(graph, batch_size), options.steps))
        loops = {
            "in": steps(graph, labels, drawn_batches(graph, batch_size)),
            "before": steps(graph, labels, cycle(before)),
        }
        times = take_turns(loops, options.blocks, options.steps, device)
        low, middle, high = np.percentile(times["before"] / times["in"], [25, 50, 75])
        rate = batch_size / np.median(times["in"])
        known = batch_size / np.median(times["before"])
        ratio = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        print(f"| {batch_size} | {rate:,.0f} | {known:,.0f} | {ratio} | {rate * seen:,.0f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=233_000)
    parser.add_argument("--edges", type=int, default=115_000_000)
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[256, 1024], help="nodes to classify in a step"
    )
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20, help="in a block")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    main(parser.parse_args())
