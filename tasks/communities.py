"""A generated graph of communities: the mini data of `reddit`."""

from __future__ import annotations

import warnings

import numpy as np
import torch

with warnings.catch_warnings():  # PyG's own, while it is imported
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated")
    from torch_geometric.data import Data


def communities(nodes: int = 10000, classes: int = 41, features: int = 64, edges: int = 80000) -> Data:
    """A degree-corrected block model: an edge's first end is drawn in proportion to the nodes' weights, which
    are heavy-tailed; so is its second, with probability 0.7 from the community of the first. The features'
    noise is heavy-tailed too.

    Karrer and Newman 2011, arXiv 1008.3926.
    """
    rng = np.random.default_rng(0)
    shares = np.arange(3, classes + 3) ** -0.7
    labels = np.sort(rng.choice(classes, nodes, p=shares / shares.sum()))
    edge_index = draw_edges(rng, labels, classes, edges)

    centres = 0.5 * rng.standard_normal((classes, features))
    x = centres[labels] + rng.standard_t(2, (nodes, features))
    part = rng.choice(3, nodes, p=[0.6, 0.15, 0.25])
    masks = {}
    for i, split in enumerate(("train", "val", "test")):
        masks[f"{split}_mask"] = torch.from_numpy(part == i)
    return Data(
        torch.from_numpy(x).float(), torch.from_numpy(edge_index), y=torch.from_numpy(labels), **masks
    )


def draw_edges(rng: np.random.Generator, labels: np.ndarray, classes: int, edges: int) -> np.ndarray:
    """Both directions of `edges` drawn edges, without loops and doubles. `labels` are sorted.

    (2, at most 2 · edges)
    """
    steps = rng.pareto(1.5, len(labels)) + 0.5
    weights = np.append(0.0, np.cumsum(steps))  # nodes are intervals: 0 from weights[0] to weights[1], …
    bounds = weights[np.searchsorted(labels, np.arange(classes + 1))]  # and so are communities

    first = draw(rng, np.zeros(edges), weights[-1], weights)
    community = labels[first]
    inside = rng.random(edges) < 0.7
    low = np.where(inside, bounds[community], 0.0)
    high = np.where(inside, bounds[community + 1], weights[-1])
    pair = np.stack([first, draw(rng, low, high, weights)])
    both = np.unique(np.concatenate([pair, pair[::-1]], axis=1), axis=1)
    return both[:, both[0] != both[1]]


def draw(rng: np.random.Generator, low: np.ndarray, high: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """The intervals that uniform numbers between `low` and `high` fall into."""
    return np.searchsorted(intervals, rng.uniform(low, high), side="right") - 1
