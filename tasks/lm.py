"""Language modelling: the next token of a text, in bits per byte."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from clipbench.errors import UserError
from clipbench.task import Metric, MetricSet, Task, shuffled
from clipbench.task.loading import whole_number
from clipbench.task.spikes import Spike, spoiled_pair
from clipbench.tasks import hub
from clipbench.tasks.bits import BitsPerByte, Perplexity
from clipbench.tasks.documents import Source
from clipbench.tasks.encoders import Bytes, Encoder, Tokenizer
from clipbench.tasks.language import Language
from clipbench.tasks.language_models import KINDS, Pretrained, Shape
from clipbench.tasks.ngram import NGram
from clipbench.tasks.prepared_text import Limits, prepared
from clipbench.tasks.streams import IGNORED, Stream, Windows, stream_of

ENTRIES = 2**20  # of an evaluation batch's logits, or a training batch's where those are more
COUNTED = 2**22  # tokens of train that the n-gram counts at most
MINI_SIZES = {"train": 1_500_000, "val": 16_000, "test": 40_000}


class NextToken(Task):
    """What comes next in a stream of tokens. Subclasses say which: `streams`, `encoder` and `data`.

    Training takes windows of `context` targets that do not overlap, in a fresh order every epoch. Evaluation
    predicts each token once, all but the first with at least half a window before it.
    """

    headline = "bpb"
    drawn = ""
    encoder: Encoder = Bytes()
    streams: Mapping[str, Stream]
    """By split, train included."""

    def __init__(
        self,
        batch_size: int,
        context: int,
        model: str,
        layers: int,
        width: int,
        heads: int,
        tied: bool,
        dropout: float,
        init_std: float,
        recurrent_init: str | None,
        forget_bias: float | None,
    ) -> None:
        self.batch_size, self.context = batch_size, whole_number("task.context", context)
        self.kind = model
        self.shape = Shape(layers, width, heads, tied, dropout, init_std, recurrent_init, forget_bias)

    @property
    def uniform(self) -> float:
        """Bits per byte on test where all tokens are equally likely."""
        test = self.streams["test"]
        return math.log2(self.encoder.vocabulary - 1) * test.predicted / test.bytes

    @property
    def blocks(self) -> int:
        """Windows of train that do not overlap."""
        train = self.streams["train"]
        count = (len(train.tokens) - 1) // self.context
        if not count:
            raise UserError(
                f"task.context={self.context}: the training text has only {train.predicted} tokens. Give "
                "more text, or a smaller context."
            )
        return count

    @cached_property
    def steps_per_epoch(self) -> float:  # type: ignore[override]
        return max(1, self.blocks // self.batch_size)

    def model(self, rng: torch.Generator) -> nn.Module:
        return self.shape.build(self.kind, self.encoder.vocabulary, self.context)

    def train_batches(self, rng: torch.Generator) -> Iterator[Windows]:
        train = self.streams["train"]
        for indices in shuffled(self.blocks, self.batch_size, rng):
            yield train.windows(indices.numpy() * self.context, self.context)

    def eval_batches(self, split: str) -> Iterator[Windows]:
        stream, step = self.streams[split], max(1, self.context // 2)
        further = max(0, len(stream.tokens) - 1 - self.context)
        starts = np.arange(1 + -(-further // step)) * step
        size = max(self.batch_size, ENTRIES // (self.context * self.encoder.vocabulary))
        for first in range(0, len(starts), size):
            chosen = starts[first : first + size]
            yield stream.windows(chosen, self.context, np.where(chosen > 0, self.context - step, 0))

    def spoiled(self, batch: Windows, spike: Spike, rng: torch.Generator) -> Windows:
        """Examples are windows; what is counted of one goes with its targets."""
        inputs, wanted = spoiled_pair(batch.inputs, (batch.targets, batch.amounts), spike, rng)
        return Windows(inputs, *wanted)

    def forward(self, model: nn.Module, batch: Windows) -> tuple[Tensor, Tensor]:
        """The nats of each window, summed, so that no one keeps its logits; and its amounts."""
        logits = model(batch.inputs).logits
        nats = nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return nats.view(batch.targets.shape).sum(1), batch.amounts

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum() / targets[:, 0].sum()

    def count(self, targets: Tensor) -> Tensor:
        return targets[:, 0].sum()

    def metrics(self) -> Mapping[str, Metric]:
        bpb = BitsPerByte()
        return {"bpb": bpb, "perplexity": Perplexity(bpb)}

    def baseline(self) -> tuple[str, dict[str, float]]:
        """An n-gram, counted on (the beginning of) train: of 5 bytes, or 3 of a tokenizer's tokens."""
        order = 5 if isinstance(self.encoder, Bytes) else 3
        counted, test = self.streams["train"].tokens[:COUNTED], self.streams["test"]
        ngram = NGram(counted.astype(np.int64), order, self.encoder.vocabulary)
        before = np.full(order - 1, test.boundary)
        nats = ngram.nats(np.concatenate([before, test.tokens]).astype(np.int64))
        nats = nats[test.tokens != test.boundary]
        found = MetricSet(self.metrics())
        found.update(torch.tensor([nats.sum()]), torch.tensor([[test.predicted, test.bytes]]))
        return f"{order}-gram", found.values()

    def prepare(self) -> str:
        self.model(torch.Generator())
        return self.data


class LM(NextToken):
    """Text of a file, a folder or a data set on the hub (`Source`), divided by document (`split_of`).

    `model`: one of KINDS; or a folder or a name on the hub, which has its own shape and tokenizer.
    """

    def __init__(
        self,
        batch_size: int,
        context: int,
        model: str,
        layers: int,
        width: int,
        heads: int,
        tied: bool,
        dropout: float,
        init_std: float,
        recurrent_init: str | None,
        forget_bias: float | None,
        data: str,
        documents: str | None = None,
        column: str = "text",
        subset: str | None = None,
        split: str = "train",
        tokenizer: str | None = None,
        held_out: float = 0.05,
        eval_bytes: float = math.inf,
        max_bytes: float | None = None,
    ) -> None:
        shape = (layers, width, heads, tied, dropout, init_std, recurrent_init, forget_bias)
        super().__init__(batch_size, context, model, *shape)
        self.pretrained = None if model in KINDS else Pretrained(model)
        self.source = Source(data, documents, column, subset, split)
        self.tokenizer = tokenizer
        self.limits = Limits(held_out, eval_bytes, math.inf if max_bytes is None else max_bytes)

    @cached_property
    def encoder(self) -> Encoder:  # type: ignore[override]
        """Bytes, or the tokenizer that was given, or the pretrained model's own."""
        what, where, boundary = "tokenizer", self.tokenizer, None
        if self.pretrained:
            boundary = self.pretrained.boundary
            if where is None:
                what, where = "model", self.pretrained.name
        if where is None:
            return Bytes()
        with hub.loading("lm", f"task.{what}={where}", "task.tokenizer=FILE, a tokenizer.json"):
            return Tokenizer(hub.file(where, "tokenizer.json"), boundary)

    @cached_property
    def streams(self) -> dict[str, Stream]:  # type: ignore[override]
        """Each of at least one document."""
        found = prepared(self.source, self.encoder, self.limits)
        empty = [split for split, stream in found.items() if not stream.documents]
        if empty:
            count = sum(stream.documents for stream in found.values())
            raise UserError(
                f"task.data={self.source.data}: of {count} documents none falls into {' and '.join(empty)}. "
                "Give more text, a larger task.held_out, or task.documents=paragraph or line."
            )
        return found

    @cached_property
    def data(self) -> str:  # type: ignore[override]
        names = ("train", *self.splits)
        streams = [self.streams[name] for name in names]
        sizes = "/".join(str(stream.bytes) for stream in streams)
        documents = "/".join(str(stream.documents) for stream in streams)
        return (
            f"{self.source.data}, {sizes} bytes in {documents} documents ({'/'.join(names)}); "
            f"{self.encoder.vocabulary - 1} {self.encoder.kind}, uniform {self.uniform:.4g} bits per byte"
        )

    def model(self, rng: torch.Generator) -> nn.Module:
        if self.pretrained:
            return self.pretrained.build(self.encoder.vocabulary, self.context)
        return super().model(rng)


class MiniLM(NextToken):
    """Texts of a generated language (`language.py`), in bytes: how likely they are is known."""

    language = Language()

    @cached_property
    def texts(self) -> dict[str, str]:
        found = {}
        for seed, (split, size) in enumerate(MINI_SIZES.items()):
            found[split] = self.language.text(seed, size)
        return found

    @cached_property
    def streams(self) -> dict[str, Stream]:  # type: ignore[override]
        """One boundary before each: documents begin with a heading."""
        return {split: stream_of([text.encode()], self.encoder) for split, text in self.texts.items()}

    @cached_property
    def floor(self) -> float:
        """Bits per byte on test of the language itself, which knows all before: -log2 p / bytes."""
        test = self.texts["test"]
        return self.language.information(test) / len(test)

    @cached_property
    def data(self) -> str:  # type: ignore[override]
        sizes = "/".join(str(self.streams[name].bytes) for name in ("train", *self.splits))
        return (
            f"a generated language, {sizes} bytes (train/{'/'.join(self.splits)}); bits per byte on test: "
            f"floor {self.floor:.4g} (its own likelihood), uniform {self.uniform:.4g}"
        )
