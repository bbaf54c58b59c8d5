"""Reber strings: is this one of the grammar? A recurrent net reads it and says so at its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from clipbench.errors import UserError
from clipbench.task import Metric, Task, majority, shuffled
from clipbench.task.loading import whole_number
from clipbench.task.metrics import Accuracy
from clipbench.tasks.reber_grammar import SYMBOLS, pairs
from clipbench.tasks.recurrent import LastState, recurrent

Batch = tuple[Tensor, Tensor, Tensor]
"""Symbols (N, longest), 0 behind the end; how many each string has (N,); labels (N,), 1 = of the grammar."""

EVAL_BATCH = 250


class Reber(Task):
    """Darji's data in size: 18 750 strings to train and validate on, 6 250 to test; half of them are valid
    (thesis 2021; Stier, Darji and Granitzer, arXiv 2407.20601). No string comes twice.

    `model`: a name of `recurrent`; `embedded`: the embedded grammar, else the plain one.
    """

    headline = "accuracy"
    drawn = ""
    sizes: ClassVar[Mapping[str, int]] = {"train": 16876, "val": 1874, "test": 6250}  # half of each is valid

    def __init__(
        self,
        batch_size: int,
        model: str,
        embedded: bool,
        embedding: int,
        hidden: int,
        layers: int,
        recurrent_init: str | None = None,
        forget_bias: float | None = None,
    ) -> None:
        """`embedding`: numbers a symbol; `hidden`, `layers`, `recurrent_init`, `forget_bias`: see
        `recurrent`. UserError for what it cannot take.
        """
        if not isinstance(embedded, bool):
            raise UserError(f"task.embedded must be true or false, got {embedded!r}.")
        self.batch_size, self.embedded = batch_size, embedded
        self.embedding = whole_number("task.embedding", embedding)
        self.body = partial(
            recurrent,
            model,
            self.embedding,
            hidden,
            layers,
            recurrent_init=recurrent_init,
            forget_bias=forget_bias,
        )

    @cached_property
    def parts(self) -> dict[str, tuple[list[Tensor], Tensor]]:
        """{split: (strings as symbol numbers from 1, labels)}"""
        found, start = {}, 0
        both = pairs(sum(self.sizes.values()) // 2, self.embedded)
        for split, size in self.sizes.items():
            chosen = both[start : start + size // 2]
            start += size // 2
            strings = []
            for pair in chosen:
                strings += [encode(text) for text in pair]
            found[split] = strings, torch.tensor([1, 0]).repeat(len(chosen))
        return found

    @cached_property
    def data(self) -> str:  # type: ignore[override]
        kind = "embedded Reber" if self.embedded else "Reber"
        sizes = "/".join(str(size) for size in self.sizes.values())
        return f"strings of the {kind} grammar and near misses, {sizes} (train/val/test)"

    @cached_property
    def steps_per_epoch(self) -> float:  # type: ignore[override]
        return max(1, self.sizes["train"] // self.batch_size)

    def model(self, rng: torch.Generator) -> nn.Module:
        symbols = nn.Embedding(1 + len(SYMBOLS), self.embedding, padding_idx=0)
        return LastState(symbols, self.body(), outputs=2)

    def batch(self, split: str, indices: Tensor) -> Batch:
        strings, labels = self.parts[split]
        chosen = [strings[i] for i in indices]
        lengths = torch.tensor([len(each) for each in chosen])
        return pad_sequence(chosen, batch_first=True), lengths, labels[indices]

    def train_batches(self, rng: torch.Generator) -> Iterator[Batch]:
        for indices in shuffled(self.sizes["train"], self.batch_size, rng):
            yield self.batch("train", indices)

    def eval_batches(self, split: str) -> Iterator[Batch]:
        for indices in torch.arange(self.sizes[split]).split(EVAL_BATCH):
            yield self.batch(split, indices)

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        symbols, lengths, labels = batch
        return model(symbols, lengths), labels

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    def metrics(self) -> Mapping[str, Metric]:
        return {"accuracy": Accuracy(2)}

    def baseline(self) -> tuple[str, dict[str, float]]:
        train, test = self.parts["train"][1], self.parts["test"][1]
        return "majority class", majority(self.metrics(), train, [test], classes=2)


class MiniReber(Reber):
    """Fewer strings."""

    sizes: ClassVar[Mapping[str, int]] = {"train": 4000, "val": 500, "test": 1000}


def encode(text: str) -> Tensor:
    """(len(text),)"""
    return torch.tensor([1 + SYMBOLS.index(symbol) for symbol in text])
