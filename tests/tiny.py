"""A task of a few milliseconds, for tests of everything around it; and how a user's own task looks."""

from __future__ import annotations

import os
import time

import torch
from torch import nn

from clipbench.task import Task, shuffled
from clipbench.task.metrics import MeanSquaredError


class Line(Task):
    """y = Wx + noise, with dropout, so that every use of randomness is at work."""

    headline = "mse"
    splits = ("val", "test")
    data = "128 points near a plane"

    def __init__(self, batch_size: int = 16, explode_at: int = -1, fail_at: int = -1):
        self.steps_per_epoch = float(128 // batch_size)
        self.batch_size, self.explode_at, self.fail_at, self.seen = batch_size, explode_at, fail_at, 0
        rng = torch.Generator().manual_seed(1)
        self.x = torch.randn(192, 5, generator=rng)
        self.y = self.x @ torch.randn(5, 1, generator=rng) + 0.1 * torch.randn(192, 1, generator=rng)

    def model(self, rng):
        return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))

    def train_batches(self, rng):
        swift = str(rng.initial_seed()) == os.environ.get("LINE_SWIFT")
        for index in shuffled(128, self.batch_size, rng):
            self.seen += 1
            if not swift:
                time.sleep(
                    float(os.environ.get("LINE_SECONDS", 0))
                )  # of a step, where a test has to come in between
            if self.seen == self.fail_at:
                raise RuntimeError("the disk is on fire")
            factor = float("inf") if self.seen == self.explode_at else 1.0
            yield self.x[index], self.y[index] * factor

    def eval_batches(self, split):
        rows = slice(128, 160) if split == "val" else slice(160, 192)
        yield self.x[rows], self.y[rows]

    def forward(self, model, batch):
        return model(batch[0]), batch[1]

    def loss(self, outputs, targets):
        return nn.functional.mse_loss(outputs, targets)

    def metrics(self):
        return {"mse": MeanSquaredError()}
