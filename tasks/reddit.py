"""Reddit: the community of a post, from its words and from the posts that share commenters with it. Two GraphConv layers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from clipbench.errors import UserError
from clipbench.task import Task, majority, shuffled

with warnings.catch_warnings():  # PyG's own, while it is imported
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated")
    from torch_geometric.data import Data
    from torch_geometric.datasets import Reddit as PyGReddit
    from torch_geometric.nn import GraphConv

RAW = ("raw/reddit_data.npz", "raw/reddit_graph.npz")


class Hop(NamedTuple):
    """The edges of one layer. Its targets are the first ones of its sources."""

    edges: Tensor  # source and target (2, E), or sparse (targets, sources)
    weights: Tensor | None  # (E,)
    targets: int


class Batch(NamedTuple):
    """A piece of the graph, and the nodes to classify in it."""

    x: Tensor  # features of the first hop's sources (sources, F)
    hops: list[Hop]
    nodes: Tensor  # among the last hop's targets (N,)
    labels: Tensor  # (N,)


class Graph:
    """Features (nodes, F) and edges (2, E), each in both directions, by target: what a layer takes the mean of."""

    def __init__(self, x: Tensor, edges: Tensor):
        targets, order = edges[1].sort(stable=True)
        self.x, self.sources = x, edges[0][order]
        self.starts = nn.functional.pad(targets.bincount(minlength=len(x)).cumsum(0), (1, 0))  # (nodes + 1,)
