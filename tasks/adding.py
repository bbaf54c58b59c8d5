"""The adding problem: two numbers of a long sequence are marked; what is their sum?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from clipbench.task import Metric, Task
from clipbench.task.loading import whole_number
from clipbench.task.metrics import MeanSquaredError
from clipbench.tasks.recurrent import LastState, recurrent

Batch = tuple[Tensor, Tensor]
"""(number, mark) of each place (N, length, 2), and sums (N,)."""

SEEDS = {"val": 1, "test": 2}
SIZES = {"val": 2000, "test": 4000}
EVAL_BATCH = 250
MEAN = 1.0  # of a sum


class Adding(Task):
    """Numbers uniform in [0, 1), one marked in the first half of the sequence and one in the second. Training
    sequences are drawn without end, none is seen twice; "val" and "test" are fixed.

    Hochreiter and Schmidhuber 1997, doi 10.1162/neco.1997.9.8.1735; with the marks as here Arjovsky, Shah and
    Bengio 2016, arXiv 1511.06464.
    """

    headline = "mse"
    drawn = ""

    def __init__(
        self,
        batch_size: int,
        length: int,
        model: str,
        hidden: int,
        layers: int,
        recurrent_init: str | None = None,
        forget_bias: float | None = None,
    ) -> None:
        """`length`: of the sequences; the others: see `recurrent`. UserError for what it cannot take."""
        self.batch_size, self.length = batch_size, whole_number("task.length", length, least=2)
        self.body = partial(
            recurrent,
            model,
            2,
            hidden,
            layers,
            recurrent_init=recurrent_init,
            forget_bias=forget_bias,
        )
        sizes = f"{SIZES['val']}/{SIZES['test']} sequences (val/test)"
        self.data = f"the adding problem at length {length}, {sizes}, drawn without end to train on"

    def model(self, rng: torch.Generator) -> nn.Module:
        return LastState(nn.Identity(), self.body(), outputs=1)

    def draw(self, count: int, rng: torch.Generator) -> Batch:
        numbers = torch.rand(count, self.length, generator=rng)
        half = self.length // 2
        first = torch.randint(half, (count,), generator=rng)
        second = torch.randint(half, self.length, (count,), generator=rng)
        marks = torch.zeros(count, self.length)
        rows = torch.arange(count)
        marks[rows, first] = 1.0
        marks[rows, second] = 1.0
        return torch.stack([numbers, marks], dim=2), numbers[rows, first] + numbers[rows, second]

    def train_batches(self, rng: torch.Generator) -> Iterator[Batch]:
        while True:
            yield self.draw(self.batch_size, rng)

    def eval_batches(self, split: str) -> Iterator[Batch]:
        rng = torch.Generator().manual_seed(SEEDS[split])
        for _ in range(0, SIZES[split], EVAL_BATCH):
            yield self.draw(EVAL_BATCH, rng)

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        inputs, sums = batch
        lengths = torch.full_like(sums, self.length, dtype=torch.long)
        return model(inputs, lengths)[:, 0], sums

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets)

    def metrics(self) -> Mapping[str, Metric]:
        return {"mse": MeanSquaredError()}

    def baseline(self) -> tuple[str, dict[str, float]]:
        """Always the mean: the variance of a sum, 1/6, as far as the test split has it."""
        found = MeanSquaredError()
        for _, sums in self.eval_batches("test"):
            found.update(torch.full_like(sums, MEAN), sums)
        return "always the mean", {"mse": float(found.compute())}
